"""Learning rates are chosen by rounds of runs, and a run is found by its id."""

from pathlib import Path
from typing import Any

import pytest

from blockformer.errors import UserError
from blockformer.studies.execution import Executor
from blockformer.studies.learning_rates import best_rates, find_run
from blockformer.studies.plan import Plan, make_plan
from blockformer.studies.run import Run
from blockformer.studies.run_result import Result
from blockformer.studies.sentences import noise_sentence
from blockformer.studies.study import read_study


def plan(**changes: Any) -> Plan:
    fit = {"trainer": {"max_steps": 10}, "data": {"tokenizer": "bytes", "length": 32}}
    variants = {"relu2": {"decoder.layer.feedforward": {"type": "mlp", "activation": "relu2"}}}
    return make_plan(read_study({"base": "tiny_decoder", "variants": variants, "fit": fit, **changes}))


class Valley(Executor):
    """Each variant's loss has its lowest point at one learning rate."""

    def __init__(self, folder: Path, best: dict[str, float]) -> None:
        super().__init__(folder, "study", "val/loss")
        self.best, self.seen = best, list[Run]()

    def execute(self, runs: Any) -> list[Result]:
        self.seen += runs
        return [
            Result(
                *(run.id, run.variant, run.seed, run.learning_rate, run.purpose, "finished"),
                figure=max(run.learning_rate / self.best[run.variant], self.best[run.variant] / run.learning_rate),
            )
            for run in runs
        ]


def test_a_best_rate_at_an_edge_extends_the_list_until_it_lies_inside(tmp_path: Path) -> None:
    executor = Valley(tmp_path, {"base": 1e-3, "relu2": 1e-1})
    rates = best_rates(plan(learning_rates=[1e-4, 1e-3, 1e-2]), executor, higher=False)
    assert rates.best == {"base": 1e-3, "relu2": 1e-1}
    assert rates.at_edge == {}
    assert {run.learning_rate for run in executor.seen if run.variant == "relu2"} == {1e-4, 1e-3, 1e-2, 1e-1, 1.0}


def test_a_best_rate_that_stays_at_an_edge_is_reported(tmp_path: Path) -> None:
    rates = best_rates(plan(learning_rates=[1e-3, 1e-2]), Valley(tmp_path, {"base": 1e-9, "relu2": 1e9}), higher=False)
    assert rates.best == {"base": 1e-6, "relu2": 10.0}
    assert rates.at_edge == {"base": "lowest", "relu2": "highest"}
    sentence = noise_sentence({"noise": None, "learning_rates": rates.best, "rates_at_edge": rates.at_edge})
    assert (
        "The lowest learning rate that was tried is the best of base (1e-06): a better one may lie beyond" in sentence
    )


@pytest.mark.slow
def test_every_run_that_a_study_can_come_to_is_found_by_its_id(tmp_path: Path) -> None:
    found = plan(learning_rates=[1e-3, 1e-2])
    executor = Valley(tmp_path, {"base": 1e-9, "relu2": 1e9})
    rates = best_rates(found, executor, higher=False)
    for run in [*executor.seen, *found.answer_runs(rates.best, (0, 7))]:
        assert find_run(found, run.id, (0, 1, 2, 7)) == run
    alone = plan()
    assert find_run(alone, alone.answer_runs()[0].id, (0,)) == alone.answer_runs()[0]
    with pytest.raises(UserError, match=r"--only bse-seed0: this study has no such run .* did you mean base-seed0-"):
        find_run(alone, "bse-seed0", (0,))
