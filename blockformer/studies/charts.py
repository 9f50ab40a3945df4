"""The charts of a study, by plotly: in the report and in W&B."""

from collections.abc import Mapping
from statistics import mean, stdev
from typing import Any

import plotly.graph_objects as go

from blockformer.studies.figures import higher_is_better, of_validations
from blockformer.studies.plan import BACKWARD

COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5", "#9c6b4e", "#9498a0")
DASHES = ("solid", "dash", "dot", "dashdot")  # beyond ten variants colours repeat
VERDICTS = {"better": "#3ca951", "worse": "#ff725c", "equivalent": "#4269d0"}
OPEN = "#9498a0"  # of the other verdicts
AXES = {"tokens": "tokens read", "flops": "FLOPs of training", "seconds": "seconds of training"}
COSTS = {
    "parameters": "parameters",
    "flops": "FLOPs per token, forward",
    "cache": "bytes of cache for a sequence",
    "speed": "tokens per second of training",
}
LONGEST_LABEL = 18
FEW = 12  # points of a curve, which are marked
EARLY = 5  # the first 1/EARLY of training is above the range that curves show at first


def charts_of(results: Mapping[str, Any]) -> dict[str, go.Figure]:
    """All charts of a study by name; those that have nothing to show are left out."""
    charts = {"effects": effects(results), **{f"over_{axis}": curves(results, axis) for axis in AXES}}
    charts |= {f"against_{cost}": against(results, cost) for cost in COSTS}
    charts["rates"] = rates(results)
    return {name: chart for name, chart in charts.items() if chart is not None}


def effects(results: Mapping[str, Any]) -> go.Figure | None:
    """A forest plot: each variant's difference to the base with its simultaneous interval."""
    shown = {name: of for name, of in results["verdicts"].items() if of["low"] is not None}
    if not shown:
        return None
    figure = go.Figure()
    for name, of in shown.items():
        colour = VERDICTS.get(of["verdict"], OPEN)
        size = {"array": [of["high"] - of["difference"]], "arrayminus": [of["difference"] - of["low"]]}
        figure.add_scatter(
            x=[of["difference"]],
            y=[_label(name)],
            mode="markers",
            marker={"size": 11, "color": colour},
            error_x={"type": "data", "symmetric": False, "color": colour, "thickness": 2, "width": 6, **size},
            customdata=[[name, of["verdict"], of["low"], of["high"]]],
            hovertemplate="%{customdata[0]}: %{x:+.4f}, %{customdata[2]:+.4f} to %{customdata[3]:+.4f}, "
            "%{customdata[1]}<extra></extra>",
            showlegend=False,
        )
    if results["smallest"]:
        figure.add_vrect(x0=-results["smallest"], x1=results["smallest"], opacity=0.15, line_width=0, fillcolor="#888")
    figure.add_vline(x=0, line_dash="dot", line_color="#888")
    better = "right" if higher_is_better(results["figure"], results["plan"]["content"]["fit"]) else "left"
    figure.update_yaxes(range=[len(shown) - 0.5, -0.5])
    title = f"difference of {results['figure']}<br>better to the {better}"
    return figure.update_layout(xaxis_title=title, height=110 + 38 * len(shown))


def curves(results: Mapping[str, Any], axis: str) -> go.Figure | None:
    """The validation figure of each variant over training: the mean of its seeds, and a band from lowest to highest."""
    metric, figure = metric_of(results), go.Figure()
    late: list[float] = []
    for index, (name, sizes) in enumerate(results["plan"]["variants"].items()):
        runs = [run for run in results["runs"] if run["variant"] == name and run["status"] == "finished"]
        scale, key = (BACKWARD * sizes["flops"], "tokens") if axis == "flops" else (1, axis)
        drawn = [[row for row in run["curve"] if metric in row and key in row] for run in runs]
        points = list(zip(*drawn, strict=False))
        if not points:
            continue
        x = [scale * mean(row[key] for row in rows) for rows in points]
        low, high = ([pick(row[metric] for row in rows) for rows in points] for pick in (min, max))
        late += [*low[len(low) // EARLY :], *high[len(high) // EARLY :]]
        colour = COLOURS[index % len(COLOURS)]
        if len(runs) > 1:
            band = {"x": [*x, *reversed(x)], "y": [*high, *reversed(low)], "fill": "toself", "hoverinfo": "skip"}
            figure.add_scatter(
                **band, mode="lines", fillcolor=colour, opacity=0.2, line_width=0, showlegend=False, legendgroup=name
            )
        figure.add_scatter(
            x=x,
            y=[mean(row[metric] for row in rows) for rows in points],
            name=name,
            legendgroup=name,
            mode="lines+markers" if len(x) < FEW else "lines",
            line={"color": colour, "dash": DASHES[index // len(COLOURS) % len(DASHES)]},
            hovertemplate=f"{name}: %{{y:.4f}} at %{{x:.4s}}<extra></extra>",
        )
    if not figure.data:
        return None
    margin = 0.05 * (max(late) - min(late)) or 1e-3
    figure.update_yaxes(range=[min(late) - margin, max(late) + margin])
    return figure.update_layout(xaxis_title=AXES[axis], yaxis_title=metric)


def against(results: Mapping[str, Any], cost: str) -> go.Figure | None:
    """The mean figure of each variant against what it costs; error bars are one standard deviation over seeds."""
    figure = go.Figure()
    for index, name in enumerate(results["plan"]["variants"]):
        scores = [run["figure"] for run in results["runs"] if run["variant"] == name and run["figure"] is not None]
        x = cost_of(results, name, cost)
        if scores and x is not None:
            colour = COLOURS[index % len(COLOURS)]
            figure.add_scatter(
                x=[x],
                y=[mean(scores)],
                error_y={"type": "data", "array": [stdev(scores) if len(scores) > 1 else 0], "color": colour},
                name=name,
                mode="markers",
                marker={"size": 11, "color": colour},
                hovertemplate=f"{name}: %{{y:.4f}} at %{{x:,.6~g}}<extra></extra>",
            )
    return figure.update_layout(xaxis_title=COSTS[cost], yaxis_title=results["figure"]) if figure.data else None


def cost_of(results: Mapping[str, Any], name: str, cost: str) -> float | None:
    """What a variant costs; None: it is not known, or the variant has none."""
    if cost != "speed":
        return results["plan"]["variants"][name][cost]
    if "speed" in results:
        return results["speed"].get(name, {}).get("tokens_per_second")
    ends = [run["curve"][-1] for run in results["runs"] if run["variant"] == name and run["curve"]]
    speeds = [end["tokens"] / end["seconds"] for end in ends if end.get("seconds") and "tokens" in end]
    return mean(speeds) if speeds else None


def rates(results: Mapping[str, Any]) -> go.Figure | None:
    """The validation figure of the runs that have chosen learning rates, by rate."""
    figure = go.Figure()
    for index, name in enumerate(results["plan"]["variants"]):
        tried: dict[float, list[float]] = {}
        for run in results["tuning"]:
            if run["variant"] == name and run["figure"] is not None:
                tried.setdefault(run["learning_rate"], []).append(run["figure"])
        if tried:
            x = sorted(tried)
            figure.add_scatter(
                x=x,
                y=[mean(tried[rate]) for rate in x],
                name=name,
                mode="lines+markers",
                line_color=COLOURS[index % len(COLOURS)],
                hovertemplate=f"{name}: %{{y:.4f}} at %{{x}}<extra></extra>",
            )
    figure.update_xaxes(type="log", title="learning rate")
    return figure.update_yaxes(title=f"{metric_of(results)} of the tuning runs") if figure.data else None


def metric_of(results: Mapping[str, Any]) -> str:
    """The figure of validations while a run trains that belongs to the study's."""
    return of_validations(results["figure"])


def _label(name: str) -> str:
    """A name that fits beside a chart on a phone."""
    return name if len(name) <= LONGEST_LABEL else f"{name[: LONGEST_LABEL - 1]}…"
