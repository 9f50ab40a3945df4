"""A study's results as one HTML file that needs no network."""

import html
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from string import Template
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from blockformer.studies.sentences import answer, noise_sentence, verdict_sentence
from blockformer.studies.study import BASE
from blockformer.studies.tables import COLUMNS, SIZES, rows_of

TEMPLATE = Path(__file__).with_name("report.html")
COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5", "#9c6b4e", "#9498a0")
AXES = {"tokens": "tokens read", "flops": "FLOPs of training", "seconds": "seconds of training"}
BACKWARD = 3  # a step costs about three forward passes


def as_html(results: Mapping[str, Any]) -> str:
    """The report: question and answer, effects with intervals, curves, costs, table, plan and command."""
    drawn = {name: json.loads(str(chart.to_json())) for name, chart in charts_of(results).items()}
    sections = "".join(
        f'<section><h2>{TITLES[name]}</h2><div class="chart" id="{name}"></div></section>' for name in drawn
    )
    verdicts = "".join(
        f"<li>{_text(verdict_sentence(name, of, results))}</li>" for name, of in results["verdicts"].items()
    )
    plan = results["plan"]
    exploratory = ""
    if results["exploratory"]:
        exploratory = (
            f"<p class=warning>Exploratory: changed since the first run: {_text(', '.join(results['changed']))}.</p>"
        )
    command = " ".join(results["command"]) or f"blockformer compare {results['study']}.yaml"
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=_text(results["study"]),
        question=_text(results["question"] or results["study"]),
        answer=_text(answer(results)),
        exploratory=exploratory,
        verdicts=verdicts,
        noise=_text(noise_sentence(results)),
        sections=sections,
        table=_table(results),
        plan=f"{len(plan['runs'])} runs, plan {plan['hash'][:12]}",
        content=_text(json.dumps(plan["content"], indent=1)),
        command=_text(command),
        charts=json.dumps(drawn).replace("</", "<\\/"),
        plotly=get_plotlyjs(),
    )


def charts_of(results: Mapping[str, Any]) -> dict[str, go.Figure]:
    """All charts of a study by name; those that have nothing to show are left out."""
    charts = {"effects": effects(results), **{f"over_{axis}": curves(results, axis) for axis in AXES}}
    charts |= {f"against_{size}": against(results, size) for size in ("parameters", "flops", "cache")}
    return {name: chart for name, chart in charts.items() if chart is not None}


TITLES = {
    "effects": "Differences to the base",
    "over_tokens": "Curves over tokens",
    "over_flops": "Curves over FLOPs",
    "over_seconds": "Curves over seconds",
    "against_parameters": "Against parameters",
    "against_flops": "Against FLOPs per token",
    "against_cache": "Against bytes of cache",
}


def effects(results: Mapping[str, Any]) -> go.Figure | None:
    """A forest plot: each variant's difference to the base with its simultaneous interval."""
    shown = {name: of for name, of in results["verdicts"].items() if of["low"] is not None}
    if not shown:
        return None
    values = [of["difference"] for of in shown.values()]
    figure = go.Figure(
        go.Scatter(
            x=values,
            y=list(shown),
            mode="markers",
            marker={"size": 10, "color": [_colour(of["verdict"]) for of in shown.values()]},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [of["high"] - of["difference"] for of in shown.values()],
                "arrayminus": [of["difference"] - of["low"] for of in shown.values()],
            },
            customdata=[of["verdict"] for of in shown.values()],
            hovertemplate="%{y}: %{x:+.4f}, %{customdata}<extra></extra>",
        )
    )
    figure.add_vline(x=0, line_dash="dot")
    if results["smallest"]:
        figure.add_vrect(x0=-results["smallest"], x1=results["smallest"], opacity=0.12, line_width=0, fillcolor="#888")
    return figure.update_layout(xaxis_title=f"difference of {results['figure']}", height=120 + 40 * len(shown))


def _colour(verdict: str) -> str:
    return {"better": "#3ca951", "worse": "#ff725c", "equivalent": "#4269d0"}.get(verdict, "#9498a0")


def curves(results: Mapping[str, Any], axis: str) -> go.Figure | None:
    """The validation figure of each variant over training: the mean of its seeds, and a band from lowest to highest."""
    metric = results["figure"].replace("test/", "val/")
    figure = go.Figure()
    for index, name in enumerate(results["plan"]["variants"]):
        runs = [run for run in results["runs"] if run["variant"] == name and run["status"] == "finished"]
        points = list(zip(*[[row for row in run["curve"] if metric in row] for run in runs], strict=False))
        if not points:
            continue
        scale = BACKWARD * results["plan"]["variants"][name]["flops"] if axis == "flops" else 1
        key = "tokens" if axis == "flops" else axis
        x = [scale * mean(row[key] for row in rows) for rows in points]
        low, high = ([pick(row[metric] for row in rows) for rows in points] for pick in (min, max))
        colour = COLOURS[index % len(COLOURS)]
        if len(runs) > 1:
            band = {"x": [*x, *reversed(x)], "y": [*high, *reversed(low)], "fill": "toself", "hoverinfo": "skip"}
            figure.add_scatter(**band, fillcolor=colour, opacity=0.2, line_width=0, showlegend=False, legendgroup=name)
        middle = [mean(row[metric] for row in rows) for rows in points]
        figure.add_scatter(x=x, y=middle, name=name, legendgroup=name, mode="lines", line_color=colour)
    return figure.update_layout(xaxis_title=AXES[axis], yaxis_title=metric) if figure.data else None


def against(results: Mapping[str, Any], size: str) -> go.Figure | None:
    """The mean figure of each variant against what it costs; error bars are one standard deviation over seeds."""
    figure = go.Figure()
    for index, (name, sizes) in enumerate(results["plan"]["variants"].items()):
        scores = [run["figure"] for run in results["runs"] if run["variant"] == name and run["figure"] is not None]
        if scores and sizes[size] is not None:
            spread = stdev(scores) if len(scores) > 1 else 0
            marker = {"size": 11, "color": COLOURS[index % len(COLOURS)]}
            bars = {"type": "data", "array": [spread]}
            figure.add_scatter(
                x=[sizes[size]], y=[mean(scores)], error_y=bars, name=name, mode="markers", marker=marker
            )
    return figure.update_layout(xaxis_title=size, yaxis_title=results["figure"]) if figure.data else None


def _table(results: Mapping[str, Any]) -> str:
    columns = (*COLUMNS, *SIZES)
    titles = (_text(column.replace("_", " ")) for column in columns)
    head = "".join(f'<th scope="col"><button type="button">{title}</button></th>' for title in titles)
    body = ""
    for row in rows_of(results):
        shown = ((_text(row[column]), _text(_shown(column, row[column]))) for column in columns)
        cells = "".join(f'<td data-value="{value}">{text}</td>' for value, text in shown)
        body += f'<tr class="{BASE if row["variant"] == BASE else ""}">{cells}</tr>'
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _shown(column: str, value: Any) -> str:
    if value is None:
        return ""
    if column in ("off", "shared"):
        return f"{value:.1%}"
    if isinstance(value, int):
        return f"{value:,}"
    if column == "flops":
        return f"{value:,.0f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _text(value: Any) -> str:
    return html.escape("" if value is None else str(value))
