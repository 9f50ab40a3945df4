"""Seeds that are added to a study count as a further look at its results, once."""

import json
from pathlib import Path

from blockformer.studies.results import looks_at, unfinished_look
from blockformer.studies.study import Study, read_study


def study(seeds: int) -> Study:
    content = {"base": "tiny_decoder", "variants": {"deep": {"decoder.depth": 3}}, "seeds": seeds}
    return read_study({**content, "fit": {"trainer": {"max_steps": 1}}})


def judge(folder: Path, looks: list[list[int]]) -> None:
    (folder / "results.json").write_text(json.dumps({"looks": looks}))


def test_seeds_are_added_only_to_looks_that_have_results(tmp_path: Path) -> None:
    three = study(3)
    assert looks_at(three, tmp_path, 2) == [[0, 1, 2]]
    judge(tmp_path, [[0, 1, 2]])
    for _ in range(3):  # stopped and repeated
        assert looks_at(three, tmp_path, 2) == [[0, 1, 2], [3, 4]]
        assert unfinished_look(tmp_path, looks_at(three, tmp_path)) == [3, 4]
    judge(tmp_path, [[0, 1, 2], [3, 4]])
    assert unfinished_look(tmp_path, looks_at(three, tmp_path)) == []
    assert looks_at(three, tmp_path, 1) == [[0, 1, 2], [3, 4], [5]]


def test_a_seed_that_the_edited_study_names_itself_is_not_looked_at_twice(tmp_path: Path) -> None:
    judge(tmp_path, [[0, 1, 2]])
    looks_at(study(3), tmp_path, 2)
    assert looks_at(study(4), tmp_path) == [[0, 1, 2, 3], [4]]
    assert looks_at(study(5), tmp_path) == [[0, 1, 2, 3, 4]]
