"""A study's results as rows, CSV and Markdown."""

import csv
import io
from collections.abc import Mapping
from typing import Any

from blockformer.studies.sentences import answer, noise_sentence, p_value, speed_sentence, verdict_sentence
from blockformer.studies.study import BASE

COLUMNS = ("variant", "verdict", "mean", "difference", "low", "high", "p", "seeds", "diverged")
SPEEDS = ("tokens_per_second", "relative", "peak_memory")
SIZES = ("parameters", "non_embedding", "active", "flops", "cache", "shared", "off")


def rows_of(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row for each variant, the base first: verdict, figures and sizes."""
    rows: list[dict[str, Any]] = []
    for name, figures in results["plan"]["variants"].items():
        verdict = results["verdicts"].get(name, {"verdict": BASE})
        row = {key: verdict.get(key) for key in COLUMNS} | {"variant": name, "mean": results["means"].get(name)}
        speed = results.get("speed", {}).get(name, {})
        rows.append(row | {key: figures[key] for key in SIZES} | {key: speed.get(key) for key in SPEEDS})
    return rows


def as_csv(results: Mapping[str, Any]) -> str:
    """The rows of :func:`rows_of` as CSV."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [*COLUMNS, *SIZES, *SPEEDS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows_of(results))
    return stream.getvalue()


def as_markdown(results: Mapping[str, Any]) -> str:
    """The question, the answer, the table and the verdicts in words."""
    lines = [f"# {results['study']}", "", results["question"], "", f"**{answer(results)}**", ""]
    lines += ["| variant | verdict | mean | difference | 95 % interval | p | parameters | FLOPs/token | speed |"]
    lines += ["| --- | --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |"]
    for row in rows_of(results):
        interval = "" if row["low"] is None else f"{row['low']:+.4f} to {row['high']:+.4f}"
        cells = [
            row["variant"],
            row["verdict"],
            _number(row["mean"], ".4f"),
            _number(row["difference"], "+.4f"),
            interval,
        ]
        p = "" if row["p"] is None else p_value(row["p"]).removeprefix("= ")
        cells += [p, _number(row["parameters"], ",d"), _number(row["flops"], ",.0f"), _number(row["relative"], ".2f")]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"- {verdict_sentence(name, of, results)}" for name, of in results["verdicts"].items())]
    lines += ["", noise_sentence(results)]
    if "speed" in results:
        lines += ["", speed_sentence(results)]
    if results["exploratory"]:
        lines += ["", f"Exploratory: since the first run the study has changed in {', '.join(results['changed'])}."]
    return "\n".join(lines) + "\n"


def _number(value: Any, form: str) -> str:
    return "" if value is None else format(value, form)
