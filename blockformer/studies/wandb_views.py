"""A report and a workspace of a study in W&B: their content is made without a network, and sent where logged in."""

import shlex
from collections.abc import Mapping
from typing import Any

import wandb_workspaces.reports.v2.interface as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr

from blockformer.studies.charts import metric_of
from blockformer.studies.sentences import answer, noise_sentence, verdict_sentence
from blockformer.studies.tables import as_markdown

AXES = {"tokens": "tokens", "seconds": "seconds", "step": "steps"}


def report_of(results: Mapping[str, Any], entity: str, project: str) -> wr.Report:
    """The report: answer, table and verdicts, curves by variant over seeds, architectural differences, noise, command.

    Args:
        results: the content of `results.json`.
        entity: of W&B.
        project: of W&B, in which the study is a group.
    """
    runs = wr.Runset(name=results["label"], filters=_filters(results), groupby=["config.variant"])
    table = [line for line in as_markdown(results).splitlines() if line.startswith("|")]
    blocks: list[Any] = [
        wr.H2(answer(results)),
        wr.MarkdownBlock("\n".join(table)),
        wr.UnorderedList([verdict_sentence(name, of, results) for name, of in results["verdicts"].items()]),
        wr.H2("Curves, by variant over seeds"),
        wr.PanelGrid(runsets=[runs], panels=panels_of(results)),
        wr.H2("What differs from the base"),
        *(wr.MarkdownBlock(_changes(name, found)) for name, found in results["differences"].items()),
        wr.H2("Noise"),
        wr.P(noise_sentence(results)),
        wr.H2("Repeat it"),
        wr.CodeBlock(shlex.join(results["command"])),
    ]
    title = f"{results['label']}: {results['question']}".removesuffix(": ")
    return wr.Report(entity=entity, project=project, title=title, description=answer(results), blocks=blocks)


def workspace_of(results: Mapping[str, Any], entity: str, project: str) -> ws.Workspace:
    """A saved view of the project: the study's answering runs, grouped by variant, with their curves.

    Args:
        results: the content of `results.json`.
        entity: of W&B.
        project: of W&B.
    """
    runs = ws.RunsetSettings(filters=_filters(results), groupby=[expr.Config("variant")])
    sections = [ws.Section(name="By variant, over seeds", panels=panels_of(results), is_open=True)]
    return ws.Workspace(entity=entity, project=project, name=results["label"], sections=sections, runset_settings=runs)


def panels_of(results: Mapping[str, Any]) -> list[Any]:
    """Curves of the figure over tokens, seconds and steps, with the range of the seeds, and bars of its last values."""
    metric, by_variant = metric_of(results), wr.Config("variant")
    grouped = {"groupby": by_variant, "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
    lines = [
        wr.LinePlot(title=f"{metric} over {name}", x=axis, y=[metric], title_x=name, title_y=metric, **grouped)
        for axis, name in AXES.items()
    ]
    return [*lines, wr.BarPlot(title=results["figure"], metrics=[results["figure"]], **grouped)]


def send(results: Mapping[str, Any], entity: str | None, project: str) -> list[str]:
    """Save the workspace and the report, and return their URLs.

    Args:
        results: the content of `results.json`.
        entity: of W&B; None: the default of the one who is logged in.
        project: of W&B.

    Raises:
        Exception: of any kind, where W&B cannot be reached or refuses.
    """
    import wandb

    entity = entity or str(wandb.Api().default_entity)
    views = workspace_of(results, entity, project), report_of(results, entity, project)
    return [str(view.save().url) for view in views]


def _filters(results: Mapping[str, Any]) -> expr.And:
    """The runs that the verdicts rest on; those of other tasks and those that chose learning rates are left out."""
    names = [run["id"] for run in results["runs"]]
    return expr.And(expr.Config("study") == results["group"], expr.Metric("Name").isin(names))


def _changes(name: str, found: list[Mapping[str, Any]]) -> str:
    """How a variant differs from the base, as Markdown."""
    lines = [f"**{name}**", ""]
    for change in found:
        key = ".".join(filter(None, ("; ".join(change["places"]) or change["block"], change["key"])))
        note = f" ({change['note']})" if change["note"] else ""
        lines.append(f"- `{key}`: {change['old'] or 'none'} → **{change['new'] or 'none'}**{note}")
    return "\n".join(lines if found else [*lines, "- the same model"])
