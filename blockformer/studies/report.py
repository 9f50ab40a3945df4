"""A study's results as one HTML file that needs no network."""

import html
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import stdev
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from blockformer.studies.charts import AXES, COSTS, charts_of, cost_of
from blockformer.studies.sentences import answer, noise_sentence, p_value, speed_sentence, verdict_sentence
from blockformer.studies.study import BASE
from blockformer.studies.tables import rows_of

TEMPLATE = Path(__file__).with_name("report.html")
COLUMNS = {
    "variant": "variant",
    "verdict": "verdict",
    "mean": "mean",
    "difference": "difference",
    "low": "from",
    "high": "to",
    "p": "p",
    "seeds": "seeds",
    "diverged": "diverged",
    "parameters": "parameters",
    "active": "active",
    "flops": "FLOPs/token",
    "cache": "cache, bytes",
    "speed": "tokens/s",
    "relative": "speed / base",
    "peak_memory": "memory, bytes",
    "shared": "shared values",
    "off": "size difference",
}
SWITCHES = {"over": AXES, "against": COSTS}


def as_html(results: Mapping[str, Any]) -> str:
    """The report: question and answer, effects, table, curves, costs, differences, noise, plan, machine, command."""
    drawn = {name: json.loads(str(chart.to_json())) for name, chart in charts_of(results).items()}
    plan = results["plan"]
    exploratory = ""
    if results["exploratory"]:
        changed = _text(", ".join(results["changed"]))
        exploratory = f'<p class="warning">Exploratory: changed since the first run: {changed}.</p>'
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=_text(results["study"]),
        question=_text(results["question"] or results["study"]),
        answer=_text(answer(results)),
        exploratory=exploratory,
        limits=f'<p class="quiet">{_text(results["limits"])}</p>' if results.get("limits") else "",
        verdicts="".join(_verdict(name, of, results) for name, of in results["verdicts"].items()),
        effects=_chart("effects") if "effects" in drawn else "<p>Nothing can be compared yet.</p>",
        smallest=f"Shaded: differences below {results['smallest']:g}, which do not matter. "
        if results["smallest"]
        else "",
        table=_results_table(results),
        over=_switched("over", drawn),
        against=_switched("against", drawn),
        changes="".join(_changes(name, found) for name, found in results.get("differences", {}).items()),
        noise=_text(noise_sentence(results)),
        speed=_text(speed_sentence(results)) if "speed" in results else "",
        noise_table=_noise_table(results),
        rates=_rates(results) if "rates" in drawn else "",
        runs=_runs_table(results),
        plan=f"{len(plan['runs'])} runs, fixed before the first one as plan <code>{plan['hash'][:12]}</code>.",
        sizes=_sizes_table(plan["variants"]),
        content=_text(json.dumps(plan["content"], indent=1)),
        environment=_environment(results.get("environment", {})),
        command=_text(shlex.join(results["command"]) or f"blockformer compare {results['study']}.yaml"),
        charts=json.dumps(drawn).replace("<", "\\u003c"),
        plotly=get_plotlyjs(),
    )


def _verdict(name: str, of: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    chip = f'<span class="chip {_text(of["verdict"])}">{_text(of["verdict"])}</span>'
    return f"<li>{chip}<span>{_text(verdict_sentence(name, of, results))}</span></li>"


def _chart(name: str) -> str:
    return f'<div class="chart" id="{name}"></div>'


def _switched(kind: str, drawn: Mapping[str, Any]) -> str:
    """One chart, and buttons that choose what is on its horizontal axis."""
    names = [name for name in SWITCHES[kind] if f"{kind}_{name}" in drawn]
    if not names:
        return "<p>No run has figures to show.</p>"
    buttons = "".join(
        f'<button type="button" data-chart="{kind}" data-axis="{name}" aria-pressed="{str(not place).lower()}">'
        f"{_text(name.replace('flops', 'FLOPs'))}</button>"
        for place, name in enumerate(names)
    )
    return f'<div class="switch" role="group" aria-label="horizontal axis">{buttons}</div>{_chart(kind)}'


def _results_table(results: Mapping[str, Any]) -> str:
    rows = [{**row, "speed": cost_of(results, row["variant"], "speed")} for row in rows_of(results)]
    shown = [column for column in COLUMNS if any(row[column] is not None for row in rows)]
    cells = [[(row[column], _shown(column, row[column])) for column in shown] for row in rows]
    return _table([COLUMNS[column] for column in shown], cells, [row["variant"] == BASE for row in rows])


def _noise_table(results: Mapping[str, Any]) -> str:
    """The spread of each variant over its seeds, its correlation with the base, and the seeds that would decide."""
    rows: list[list[tuple[Any, str]]] = []
    for name in results["means"]:
        scores = [run["figure"] for run in results["runs"] if run["variant"] == name and run["figure"] is not None]
        spread = stdev(scores) if len(scores) > 1 else None
        of = results["verdicts"].get(name, {})
        needed = " to ".join(map(str, dict.fromkeys(of.get("needed") or ())))
        values = (name, len(scores), spread, of.get("correlation"))
        rows.append([*((value, _shown("", value)) for value in values), (needed, needed)])
    return _table(["variant", "runs", "standard deviation", "correlation with the base", "seeds needed"], rows)


def _runs_table(results: Mapping[str, Any]) -> str:
    keys = ("id", "variant", "seed", "learning_rate", "purpose", "status", "figure", "seconds")
    rows = [[(run[key], _shown(key, run[key])) for key in keys] for run in (*results["runs"], *results["tuning"])]
    return _table([key.replace("_", " ") for key in keys], rows)


def _sizes_table(variants: Mapping[str, Mapping[str, Any]]) -> str:
    rows: list[list[tuple[Any, str]]] = []
    for name, of in variants.items():
        matched = ", ".join(f"{key}={value}" for key, value in of["matched"].items())
        values = {"variant": name, "matched": matched, "off": of["off"], "shared": of["shared"], "memory": of["memory"]}
        rows.append([(value, _shown(key, value)) for key, value in values.items()])
    return _table(["variant", "matched by", "size difference", "shared values", "memory, bytes"], rows)


def _rates(results: Mapping[str, Any]) -> str:
    chosen = ", ".join(f"{name} {rate:g}" for name, rate in results["learning_rates"].items())
    said = f"Chosen on tuning seeds, whose runs are not compared: {_text(chosen)}."
    return f"<section><h2>Learning rates</h2><p>{said}</p>{_chart('rates')}</section>"


def _changes(name: str, found: Sequence[Mapping[str, Any]]) -> str:
    """How a variant differs from the base."""
    lines = ""
    for change in found:
        place = "; ".join(change["places"]) or change["block"]
        key = f"{place}.{change['key']}" if change["key"] else place
        note = f" ({change['note']})" if change["note"] else ""
        old, new = (_text(change[side] or "none") for side in ("old", "new"))
        lines += f"<li><code>{_text(key)}</code>: <del>{old}</del> → <ins>{new}</ins>{_text(note)}</li>"
    return f"<h3>{_text(name)}</h3><ul>{lines or '<li>the same model</li>'}</ul>"


def _environment(facts: Mapping[str, Any]) -> str:
    items = "".join(f"<dt>{_text(key)}</dt><dd>{_text(value)}</dd>" for key, value in facts.items())
    return f"<dl>{items}</dl>"


def _table(titles: Sequence[str], rows: Iterable[Sequence[tuple[Any, str]]], marked: Sequence[bool] = ()) -> str:
    """A table that sorts by each column: the value of a cell orders, its text is shown."""
    head = "".join(f'<th scope="col"><button type="button">{_text(title)}</button></th>' for title in titles)
    body = ""
    for place, row in enumerate(rows):
        cells = "".join(f'<td data-value="{_text(value)}">{_text(shown)}</td>' for value, shown in row)
        body += f"<tr{' class=base' if marked and marked[place] else ''}>{cells}</tr>"
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _shown(column: str, value: Any) -> str:
    if value is None:
        return ""
    if column in ("off", "shared"):
        return f"{value:.1%}"
    if column in ("difference", "low", "high"):
        return f"{value:+.4f}"
    if column == "relative":
        return f"{value:.2f}"
    if column in ("flops", "speed", "memory", "peak_memory") or (isinstance(value, int) and column != "seed"):
        return f"{value:,.0f}"
    if column == "p":
        return p_value(value).removeprefix("= ")
    if column == "learning_rate":
        return f"{value:g}"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _text(value: Any) -> str:
    return html.escape("" if value is None else str(value))
