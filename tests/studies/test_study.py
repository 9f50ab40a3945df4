"""Study files: strict at every level, all mistakes at once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from blockformer.errors import UserError
from blockformer.studies.figures import higher_is_better
from blockformer.studies.plan import make_plan
from blockformer.studies.run import Run
from blockformer.studies.run_result import collected
from blockformer.studies.study import Study, read_study
from blocks.models.encoder_only import EncoderOnly
from registry import RecipeError, load_recipe

GOOD: dict[str, Any] = {
    "base": "tiny_decoder",
    "variants": {"none": {"decoder.layer.feedforward": "none"}},
    "fit": {"trainer": {"max_steps": 10}, "data": {"tokenizer": "bytes"}},
}
WRONG = """\
question: which?
base: tiny_decoder
variants:
  a: {decoder.layer.feedforward: {type: mpl}}
match: {what: parameters, by: {b: [dim]}}
seeds: [1, 1]
fit:
  data: {tokeniser: bytes, length: abc}
  optimiser: {lr: 3}
  trainer: {max_epochs: 3}
"""


def read(**changes: Any) -> Study:
    return read_study({**GOOD, **changes})


def test_every_mistake_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(WRONG)
    with pytest.raises(RecipeError) as wrong:
        read_study(path)
    said = str(wrong.value).splitlines()
    for line, text in {
        4: "a: ",
        5: "match.by.b: is not a variant; variants: a",
        6: "seeds: names a seed twice",
        7: "fit: needs trainer: {max_steps: N}",
        8: "fit.data.tokeniser: there is no such setting; did you mean 'tokenizer'?",
        9: "fit.optimiser: there is no such group; did you mean 'optimizer'?",
        10: "fit.trainer.max_epochs: cannot be set: a study stops all runs at one step",
    }.items():
        assert any(one.startswith(f"{path}:{line}: {text}") for one in said), (line, said)
    assert any("fit.data.length: expected int, not abc" in one for one in said)
    assert any("did you mean 'mlp'?" in one for one in said)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bas": 1}, "bas: there is no such key; did you mean 'base'?"),
        ({"seeds": 0}, "seeds: must be greater than or equal to 1"),
        ({"smallest": float("inf")}, "smallest: must be"),
        ({"figure": "loss"}, "figure: must be val/, test/, train/ or eval/ and a figure"),
        ({"variants": {}}, "has nothing to compare"),
        ({"variants": {"base": {}}}, "variants: must be a name other than 'base'"),
        ({"variants": {"../up": {}}}, "must be a name of letters, digits"),
        ({"match": {"what": "parameters"}}, "match: needs by"),
        ({"match": {"by": ["dim"]}}, "match.by: has no effect with what: none"),
        ({"ablate": ["dim"]}, "ablate: needs reference"),
        ({"reference": "gpt2"}, "reference: has no effect without ablate"),
        ({"learning_rates": [1e-3]}, "needs two to choose from"),
        ({"base": "tiny_decodr"}, "did you mean 'tiny_decoder'?"),
        (
            {"variants": {}, "grid": {f"decoder.key_{n}": list(range(100)) for n in range(10)}},
            "grid: makes 100,000,000,000,000,000,000 variants; at most 1,000 are compared",
        ),
        ({"ablate": ["dim.x"], "reference": "gpt2"}, "ablate: dim.x is not a key of gpt2"),
        ({"fit": {"data": {"batch_size": 0}, "trainer": {"max_steps": 1}}}, "fit.data.batch_size: must be at least 1"),
        ({"fit": {"trainer": {"max_steps": -1}}}, "fit.trainer.max_steps: must be at least 1, not -1"),
        (
            {"fit": {"trainer": {"accumulate_grad_batches": 0}}, "budget": {"tokens": 9}},
            "fit.trainer.accumulate_grad_batches: must be at least 1, not 0",
        ),
    ],
)
def test_a_mistake_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as wrong:
        read(**changes)
    assert message in str(wrong.value)


def test_a_change_of_endless_depth_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"has 3001 parts; at most 50 make sense"):
        read_study(GOOD, changes={"fit" + ".x" * 3000: 1})


@pytest.mark.parametrize("key", ["logger", "callbacks", "plugins", "default_root_dir", "profiler"])
def test_a_study_names_no_code_and_no_places(key: str) -> None:
    fit = {"trainer": {"max_steps": 1, key: {"class_path": "os.system"}}}
    with pytest.raises(RecipeError, match=f"fit.trainer.{key}: there is no such setting"):
        read(fit=fit)


def test_a_study_may_mix_sources() -> None:
    sources = {"code": {"dataset": "docstrings", "weight": 2}, "prose": {"dataset": "text", "files": "a.txt"}}
    data = {"dataset": "mixture", "sources": sources, "tokenizer": "bytes"}
    study = read(fit={"trainer": {"max_steps": 1}, "data": data})
    assert study.file.fit["data"]["sources"] == sources
    with pytest.raises(RecipeError, match=r"fit\.data\.length: must be a plain value, not a mapping"):
        read(fit={"trainer": {"max_steps": 1}, "data": {"length": {"code": 3}}})


def test_a_study_may_compare_models_of_a_plug_in(registry_of_a_test: Callable[..., Any], tmp_path: Path) -> None:
    class OwnEncoder(EncoderOnly):
        """An encoder of a plug-in."""

    registry_of_a_test("own_encoder")(OwnEncoder)
    tree = {**load_recipe("tiny_encoder").dump(), "type": "own_encoder"}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(tree))
    study = read(base=str(tmp_path / "own.yaml"), variants={"deep": {"encoder.depth": 3}})
    assert [variant.name for variant in study.variants] == ["base", "deep"]
    plan = make_plan(study)
    assert plan.figures["deep"].parameters > plan.figures["base"].parameters


@pytest.mark.parametrize(
    ("objective", "variants", "name"),
    [("causal_lm", {"other": {"recipe": "tiny_encoder"}}, "other"), ("masked_lm", {"deep": {"depth": 3}}, "base")],
)
def test_an_objective_trains_every_variant(objective: str, variants: dict[str, Any], name: str) -> None:
    with pytest.raises(RecipeError, match=rf"{name}: objective\.type \w+ trains .* models, and this one is"):
        read(fit={**GOOD["fit"], "objective": {"type": objective}}, variants=variants)


def test_a_variant_whose_parts_the_objective_does_not_train_is_named() -> None:
    with pytest.raises(RecipeError, match=r"ahead: the recipe has extra_predictions, which objective\.type causal_lm"):
        read(variants={"ahead": {"extra_predictions": ["sequential"]}})


def test_a_tier_and_the_command_line_change_the_study() -> None:
    tiers = {"quick": {"seeds": 2, "fit.trainer.max_steps": 5}}
    study = read_study({**GOOD, "tiers": tiers}, tier="quick", changes={"fit.data.length": 32})
    assert (study.seeds, study.file.fit["trainer"]["max_steps"], study.file.fit["data"]["length"]) == ((0, 1), 5, 32)
    with pytest.raises(RecipeError, match="there is no tier 'quik'; did you mean 'quick'"):
        read_study({**GOOD, "tiers": tiers}, tier="quik")


def test_grids_and_ablations_are_variants() -> None:
    grid = {"decoder.layer.mixer.kv_heads": [1, 4], "decoder.depth": [1, 3]}
    names = [variant.name for variant in read(variants={}, grid=grid).variants]
    assert names == ["base", "kv_heads=1,depth=1", "kv_heads=1,depth=3", "kv_heads=4,depth=1", "kv_heads=4,depth=3"]
    study = read(variants={}, ablate=["decoder.layer.feedforward", "decoder.depth"], reference="tiny_local_global")
    assert [variant.name for variant in study.variants[1:]] == ["no-feedforward", "no-depth"]


def test_a_variant_may_be_another_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: tiny_decoder\ndim: 64\n")
    path = tmp_path / "study.yaml"
    path.write_text(
        "base: mine.yaml\nvariants:\n  tiny: {recipe: tiny_decoder, decoder.depth: 3}\nfit: {trainer: {max_steps: 1}}\n"
    )
    base, tiny = read_study(path).variants
    assert (base.recipe, tiny.recipe, tiny.overrides) == (
        str(tmp_path / "mine.yaml"),
        "tiny_decoder",
        {"decoder.depth": 3},
    )


def test_each_task_is_the_study_with_changes() -> None:
    tasks = {"short": {"fit.data.length": 16}, "long": {"fit.data.length": 64, "figure": "val/accuracy", "seeds": 2}}
    study = read(tasks=tasks)
    assert [part.name for part in study.tasks] == ["study/short", "study/long"]
    short, long = study.tasks
    assert (short.file.fit["data"]["length"], long.file.fit["data"]["length"]) == (16, 64)
    assert (long.file.figure, long.seeds) == ("val/accuracy", (0, 1))
    assert [variant.name for variant in short.variants] == [variant.name for variant in long.variants]


def test_the_mistakes_of_all_tasks_are_named_at_once() -> None:
    tasks = {"a": {"fit.data.lenght": 16}, "b": {"figure": "loss"}, "c": {"seeds": 2}}
    with pytest.raises(RecipeError) as found:
        read(tasks=tasks)
    assert [problem.path for problem in found.value.problems] == ["fit.data.lenght", "figure"]


def test_a_figure_at_another_length_needs_that_length() -> None:
    assert read(figure="val/loss@2x", lengths=[2, 4]).file.lengths == (2, 4)
    with pytest.raises(RecipeError, match=r"figure: needs lengths: \[2\]"):
        read(figure="val/loss@2x")
    with pytest.raises(RecipeError, match="figure: must be val/, test/, train/ or eval/ and a figure"):
        read(figure="test/loss@2x")


def test_single_tasks_of_a_study_can_be_chosen() -> None:
    content = {**GOOD, "tasks": {"a": {}, "b": {"seeds": 2}}}
    assert [part.name for part in read_study(content, only=["b"]).tasks] == ["study/b"]
    for wrong, text in ((content, "there is no task 'c'; known: a, b"), (GOOD, "the study has no tasks")):
        with pytest.raises(RecipeError, match=text):
            read_study(wrong, only=["c"])


def test_a_tier_shortens_every_task() -> None:
    steps = {"fit.trainer.max_steps": 50}
    content = {**GOOD, "tasks": {"a": {}, "b": steps}, "tiers": {"quick": {"fit.trainer.max_steps": 2}}}
    found = [part.file.fit["trainer"]["max_steps"] for part in read_study(content).tasks]
    assert found == [10, 50]
    assert all(part.file.fit["trainer"]["max_steps"] == 2 for part in read_study(content, tier="quick").tasks)


def test_a_task_cannot_have_the_name_of_a_folder_of_the_study() -> None:
    with pytest.raises(RecipeError, match="tasks: cannot have the name 'runs' of a folder of the study"):
        read_study({**GOOD, "tasks": {"good": {}, "runs": {}}})


MIXED = {"dataset": "mixture", "sources": {"code": {"dataset": "docstrings"}, "prose": {"dataset": "docstrings"}}}
OWN = {"greedy": {"type": "generation", "scores": ["bleu"]}}


@pytest.mark.parametrize(
    ("figure", "more"),
    [
        ("val/loss/code", {"data": MIXED}),
        ("val/bits_per_byte/code", {"data": MIXED}),
        ("train/loss/prose", {"data": MIXED}),
        ("eval/greedy/bleu", {"evaluations": OWN}),
    ],
)
def test_a_figure_may_be_of_a_source_or_an_evaluation(figure: str, more: dict[str, Any]) -> None:
    study = read(figure=figure, fit={**GOOD["fit"], **more})
    assert study.file.figure == figure
    assert higher_is_better(figure, study.file.fit) == figure.startswith("eval")


@pytest.mark.parametrize(
    ("figure", "more", "message"),
    [
        ("val/loss/code", {}, "figure: val/loss/code is of a source of a mixture: set fit.data.dataset mixture"),
        (
            "train/loss/cod",
            {"data": MIXED},
            "figure: there is no source 'cod' in fit.data.sources; did you mean 'code'?",
        ),
        ("eval/greedy/bleu", {}, "figure: eval/greedy/bleu: there is no evaluation 'greedy'; give fit.evaluations"),
        (
            "eval/gredy/bleu",
            {"evaluations": OWN},
            "figure: eval/gredy/bleu: there is no evaluation 'gredy'; did you mean",
        ),
        ("eval/greedy/blue", {"evaluations": OWN}, "figure: eval/greedy/blue: evaluations.greedy has no figure 'blue'"),
        ("val/loss", {"evaluations": {"a": {"type": "generatin"}}}, "fit.evaluations: evaluations.a.type: there is no"),
        ("train/accuracy", {}, "figure: must be val/, test/, train/ or eval/ and a figure"),
    ],
)
def test_a_figure_that_no_run_will_have_is_one_problem(figure: str, more: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as wrong:
        read(figure=figure, fit={**GOOD["fit"], **more})
    (problem,) = wrong.value.problems
    assert message in str(problem)


def test_the_result_of_a_run_has_the_figures_of_sources_and_evaluations(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"step": 1, "train/loss": 4.0, "train/loss/code": 5.0, "train/loss/prose": 3.0},
        {"step": 1, "tokens": 9, "seconds": 1.0, "val/loss": 4.0, "val/loss/code": 4.5},
        {"step": 2, "train/loss": 3.0, "train/loss/prose": 2.0},
        {"step": 2, "tokens": 18, "seconds": 2.0, "val/loss": 3.0, "val/loss/code": 3.5, "eval/greedy/bleu": 12.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = Run("base", 0, None, "answer", {})
    for figure, value in (("eval/greedy/bleu", 12.0), ("train/loss/code", 5.0), ("val/loss/code", 3.5)):
        result = collected(tmp_path, run, figure, "finished", {})
        assert result.figure == value
        assert [point.get(figure) for point in result.curve][-1] == value
    assert result.seconds == 2.0
    with pytest.raises(UserError, match="has no figure eval/greedy/chrf; it has eval/greedy/bleu, train/loss/code"):
        collected(tmp_path, run, "eval/greedy/chrf", "finished", {})
