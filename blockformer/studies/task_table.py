"""A study on several tasks: its results in one place, and a table of variants by tasks."""

import csv
import html
import io
from collections.abc import Mapping
from typing import Any

from blockformer.studies.sentences import answer
from blockformer.studies.study import BASE, Study

SOLVED = 0.99  # accuracy from which a run counts as having solved its task
MARKS = {"better": "better", "worse": "worse", "equivalent": "=", "undecided": "?", "identical": "same model"}
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 62rem; }}
.scroll {{ overflow-x: auto; }} table {{ border-collapse: collapse; font-size: .9rem; }}
td, th {{ border-bottom: 1px solid #8886; padding: .3rem .6rem; text-align: left; white-space: nowrap; }}
</style></head><body><h1>{title}</h1>
<div class="scroll"><table><thead><tr><th scope="col">variant</th>{head}</tr></thead><tbody>{body}</tbody></table></div>
<h2>Answers</h2><ul>{answers}</ul>
<p>Verdicts of one task are corrected for its number of variants, not for the number of tasks.</p>
</body></html>
"""


def combined(study: Study, parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The results of all tasks as one; a verdict's name is the task's, a slash, and the variant's.

    Args:
        study: the whole study.
        parts: the results of each task, by its name.
    """
    verdicts = {f"{task}/{name}": of for task, part in parts.items() for name, of in part["verdicts"].items()}
    whole = {"study": study.name, "question": study.file.question, "tier": study.tier}
    return {**whole, "verdicts": verdicts, "tasks": dict(parts)}


def solved(results: Mapping[str, Any], variant: str) -> float | None:
    """Share of a variant's runs with an accuracy of at least 0.99; None: the figure is no accuracy."""
    if not results["figure"].partition("/")[2].startswith("accuracy"):
        return None
    figures = [run["figure"] for run in results["runs"] if run["variant"] == variant]
    return sum(figure is not None and figure >= SOLVED for figure in figures) / len(figures) if figures else None


def cells_of(results: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """By variant and task: the mean figure, the share of seeds that solve the task, and the verdict."""
    cells: dict[str, dict[str, str]] = {}
    for task, part in results["tasks"].items():
        for name in part["plan"]["variants"]:
            mean, share = part["means"].get(name), solved(part, name)
            texts = [f"{mean:.4f}" if mean is not None else ""]
            texts += [] if share is None else [f"solved by {share:.0%} of seeds"]
            texts += [MARKS[part["verdicts"][name]["verdict"]]] if name != BASE else []
            cells.setdefault(name, {})[task] = ", ".join(text for text in texts if text)
    return cells


def table_as_markdown(results: Mapping[str, Any]) -> str:
    """The question, a table of variants by tasks, and the answer on each task."""
    tasks, cells = list(results["tasks"]), cells_of(results)
    lines = [f"# {results['study']}", "", results["question"], ""]
    lines += [f"| variant | {' | '.join(f'{task} ({_figure(results, task)})' for task in tasks)} |"]
    lines += [f"| --- |{' --- |' * len(tasks)}"]
    lines += [f"| {name} | {' | '.join(row.get(task, '') for task in tasks)} |" for name, row in cells.items()]
    lines += ["", *(f"- {task}: {answer(part)}" for task, part in results["tasks"].items())]
    return "\n".join(lines) + "\n"


def table_as_csv(results: Mapping[str, Any]) -> str:
    """One row for each task and variant: mean, share of seeds that solve it, and the verdict's figures."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["task", "variant", "figure", "mean", "solved", "verdict", "difference", "low", "high", "p"])
    for task, part in results["tasks"].items():
        for name in part["plan"]["variants"]:
            verdict = part["verdicts"].get(name, {"verdict": BASE})
            figures = [verdict.get(key) for key in ("verdict", "difference", "low", "high", "p")]
            writer.writerow([task, name, part["figure"], part["means"].get(name), solved(part, name), *figures])
    return stream.getvalue()


def table_as_html(results: Mapping[str, Any]) -> str:
    """The table as a page that leads to each task's own report."""
    tasks = list(results["tasks"])
    links = (f'<a href="{html.escape(task)}/report.html">{html.escape(task)}</a>' for task in tasks)
    head = "".join(
        f'<th scope="col">{link}<br>{html.escape(_figure(results, task))}</th>'
        for link, task in zip(links, tasks, strict=True)
    )
    body = ""
    for name, row in cells_of(results).items():
        inner = "".join(f"<td>{html.escape(row.get(task, ''))}</td>" for task in tasks)
        body += f'<tr><th scope="row">{html.escape(name)}</th>{inner}</tr>'
    answers = "".join(f"<li>{html.escape(f'{task}: {answer(part)}')}</li>" for task, part in results["tasks"].items())
    title = html.escape(results["question"] or results["study"])
    return PAGE.format(title=title, head=head, body=body, answers=answers)


def _figure(results: Mapping[str, Any], task: str) -> str:
    return str(results["tasks"][task]["figure"])
