"""The results of a study as if it had been run: curves and figures are drawn, everything else is computed."""

import math
import random
from collections.abc import Mapping
from typing import Any

from blockformer.studies.context import differences, environment
from blockformer.studies.plan import Plan, make_plan
from blockformer.studies.results import judged
from blockformer.studies.run_result import Result
from blockformer.studies.study import read_study

STUDY: dict[str, Any] = {
    "question": "Which feed-forward?",
    "base": "tiny_decoder",
    "overrides": {"decoder.depth": 1},
    "variants": {
        "relu2": {"decoder.layer.feedforward": {"type": "mlp", "activation": "relu2"}},
        "none": {"decoder.layer.feedforward": "none"},
        "same": {"decoder.layer.feedforward": {"type": "glu"}},
    },
    "seeds": 4,
    "smallest": 0.05,
    "figure": "val/bits_per_byte",
    "fit": {"data": {"tokenizer": "bytes", "length": 32}, "trainer": {"max_steps": 100}},
}
EFFECTS = {"relu2": 0.005, "none": 0.2}


def planned(**changes: Any) -> Plan:
    """The plan of the study, with changes by dotted key."""
    return make_plan(read_study(STUDY, changes=changes))


def made_up(plan: Plan, effects: Mapping[str, float] = EFFECTS) -> dict[str, Any]:
    """Results in which each variant is worse than the base by its effect."""
    draw, runs, name = random.Random(0), list[Result](), plan.study.file.figure.partition("/")[2]
    for run in plan.answer_runs():
        end = 2 + effects.get(run.variant, 0.0) + 0.02 * math.sin(run.seed) + draw.gauss(0, 0.003)
        curve = [
            {"step": step, "tokens": 256 * step, "seconds": 0.1 * step, f"val/{name}": end + math.exp(-step / 30)}
            for step in range(10, 101, 10)
        ]
        figures = {f"val/{name}": end, plan.study.file.figure: end}
        runs.append(
            Result(run.id, run.variant, run.seed, None, "answer", "finished", end, figures, curve, 10.0 + run.seed)
        )
    results = judged(plan, runs, looks=[list(plan.study.seeds)])
    return results | {
        "plan": plan.as_data(),
        "exploratory": False,
        "changed": [],
        "learning_rates": {},
        "rates_at_edge": {},
        "tuning": [],
        "command": ["blockformer", "compare", "which.yaml"],
        "differences": differences(plan),
        "environment": environment(),
    }
