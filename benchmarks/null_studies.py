"""Measure the false positives of studies of equal models: `python -m benchmarks.null_studies`.

One recipe is trained 40 times: with 8 orders of the data, and for each order with 5 initial values. All models are the
same up to chance, so within an order the runs can be dealt to a base and variants in any way; a study of them has
nothing to find. 1,000 such studies are drawn; with 95 % intervals for all variants together, about 5 % of them may find
a difference. Then a difference is planted that a study should find in 80 % of all cases.

The folder keeps finished runs, so that the same command continues a stopped one.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from blockformer.files import write_text
from blockformer.studies.context import environment
from blockformer.studies.execution import Executor
from blockformer.studies.run import Run
from blockformer.studies.statistics import LEVEL, judge, pooled_noise, smallest_visible
from registry import load_recipe

FIGURE = "val/bits_per_byte"
ORDERS, SALTS = 8, 5
STUDIES = 1000
SEEDS, VARIANTS = 5, 3  # of a drawn study
FIT: dict[str, Any] = {
    "data": {"tokenizer": "bytes", "length": 64, "max_bytes": 300_000, "batch_size": 8},
    "optimizer": {"lr": 3e-3, "warmup_steps": 20},
    "trainer": {"accelerator": "cpu", "max_steps": 200, "val_check_interval": 200},
}
Table = list[list[float]]  # (orders, salts)


def runs() -> list[Run]:
    """The 40 runs."""
    recipe = load_recipe("tiny_decoder").dump()
    made: list[Run] = []
    for order in range(ORDERS):
        for salt in range(SALTS):
            seed = 1000 * (salt + 1) + order
            settings = {**FIT, "recipe": recipe, "seed_everything": seed, "model": {"seed": seed}}
            settings["data"] = {**FIT["data"], "seed": order}
            made.append(Run(f"salt{salt}", order, None, "answer", settings))
    return made


def measured(table: Table, studies: int = STUDIES) -> dict[str, float]:
    """How many drawn studies find a difference: with nothing to find, and with a planted one.

    Args:
        table: figures by order and salt.
        studies: how many are drawn.

    Returns:
        `found` of the null studies, the most that chance allows (`bound`, exceeded with 1 % probability), the planted
        `difference`, and `detected`, the studies that find it.
    """
    figures = np.array(table)
    noise, _ = pooled_noise([dict(enumerate(column)) for column in figures.T.tolist()])
    difference = smallest_visible(SEEDS, VARIANTS) * math.sqrt(2) * noise
    random = np.random.default_rng(0)
    found = detected = 0
    for _ in range(studies):
        orders = random.choice(len(figures), SEEDS, replace=False)
        dealt = np.array([random.permutation(figures[order])[: VARIANTS + 1] for order in orders])
        found += _finds(dealt)
        dealt[:, 1] += difference
        detected += "variant1" in _named(dealt)
    bound = int(stats.binom.ppf(0.99, studies, 1 - LEVEL))
    return {"studies": studies, "found": found, "bound": bound, "difference": difference, "detected": detected}


def _named(dealt: np.ndarray) -> list[str]:
    """The variants of a study in which it finds a difference."""
    names = ["base", *(f"variant{index + 1}" for index in range(VARIANTS))]
    scores = {name: dict(enumerate(column.tolist())) for name, column in zip(names, dealt.T, strict=True)}
    verdicts = judge(scores, "base").verdicts
    return [name for name, verdict in verdicts.items() if verdict.verdict in ("better", "worse")]


def _finds(dealt: np.ndarray) -> bool:
    return bool(_named(dealt))


def main() -> None:
    """Train what is missing, draw the studies, and write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("comparisons/null"), help="folder of the runs")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/null_studies.json"))
    options = parser.parse_args()
    executor = Executor(options.runs, "null", FIGURE, workers=options.workers, options=["--run.wandb", "disabled"])
    table: Table = [[math.nan] * SALTS for _ in range(ORDERS)]
    for result in executor.execute(runs()):
        assert result.figure is not None, f"{result.id} diverged"
        table[result.seed][int(result.variant.removeprefix("salt"))] = result.figure
    data = {"figure": FIGURE, "table": table, **measured(table), "environment": environment(options.workers)}
    write_text(options.out, json.dumps(data, indent=1) + "\n")
    print(f"{data['found']} of {STUDIES} null studies find a difference (at most {data['bound']} by chance)")
    print(f"{data['detected']} of {STUDIES} find a planted difference of {data['difference']:.4f}; 800 are expected")


if __name__ == "__main__":
    main()
