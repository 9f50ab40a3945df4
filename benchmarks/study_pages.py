"""Pages and figures of the published studies: `python -m benchmarks.study_pages`.

Reads `studies/results/STUDY.json`, which `blockformer compare studies/STUDY.yaml` has written as `results.json`, and
writes `docs/studies/STUDY.md`, its figure and the index. Results that are named are first copied from `comparisons/`.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blockformer.files import write_text
from blockformer.studies.sentences import answer, noise_sentence, verdict_sentence
from blockformer.studies.tables import rows_of
from blockformer.studies.task_table import solved

ROOT = Path(__file__).parents[1]
RESULTS, PAGES = ROOT / "studies" / "results", ROOT / "docs" / "studies"
KEPT = ("id", "variant", "seed", "learning_rate", "status", "figure", "figures", "seconds")
COLOURS = {
    "better": "#3ca951",
    "worse": "#d1495b",
    "equivalent": "#4269d0",
    "undecided": "#8a8f98",
    "identical": "#8a8f98",
}


def shortened(results: Mapping[str, Any]) -> dict[str, Any]:
    """Results without the curves of the runs and the paths of the machine, to be published."""
    if "tasks" in results:
        return {**results, "tasks": {name: shortened(part) for name, part in results["tasks"].items()}}
    runs = [{key: run[key] for key in KEPT} for run in results["runs"]]
    tuning = [{key: run[key] for key in KEPT} for run in results["tuning"]]
    command = ["blockformer", "compare", f"studies/{results['study'].partition('/')[0]}.yaml"]
    return {**results, "runs": runs, "tuning": tuning, "command": command}


def page(results: Mapping[str, Any]) -> str:
    """The page of a study: question, command, verdicts, figure and limits."""
    name = results["study"]
    parts = tasks_of(results)
    first = next(iter(parts.values()))
    environment = first["environment"]
    lines = [
        f"<!-- Made by python -m benchmarks.study_pages from studies/results/{name}.json; not for editing. -->",
        "",
    ]
    lines += [f"# {results['question']}", ""]
    for task, part in parts.items():
        lines.append(f"{'' if task == name else f'*{task}*: '}**{answer(part)}**")
        lines.append("")
    lines += [f"![Differences to the base with their intervals]({name}.svg)", ""]
    lines += ["```text", f"blockformer compare studies/{name}.yaml", "```", ""]
    for task, part in parts.items():
        if task != name:
            lines += [f"## {task}", ""]
        lines += [*_table(part), ""]
        lines += [*(f"- {verdict_sentence(variant, of, part)}" for variant, of in part["verdicts"].items())]
        lines += ["", f"{noise_sentence(part)[0].upper()}{noise_sentence(part)[1:]}", ""]
    lines += ["## Limits", "", first["limits"], ""]
    machine = f"{environment['processor']}, torch {environment['torch']}, Python {environment['python']}"
    lines += [f"{sum(len(part['runs']) for part in parts.values())} runs on {machine}. "]
    lines[-1] += f"All figures are in `studies/results/{name}.json`."
    return "\n".join(lines) + "\n"


def tasks_of(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The results by task; of a study without tasks by its own name."""
    return dict(results["tasks"]) if "tasks" in results else {results["study"]: results}


def _table(part: Mapping[str, Any]) -> list[str]:
    scored = any(solved(part, row["variant"]) is not None for row in rows_of(part))
    head = ["variant", "verdict", part["figure"], *(["solved"] if scored else []), "difference", "95 % interval"]
    head += ["parameters", "FLOPs/token", "cache"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for row in rows_of(part):
        share = solved(part, row["variant"])
        cells = [row["variant"], row["verdict"], "" if row["mean"] is None else f"{row['mean']:.4f}"]
        cells += [] if not scored else ["" if share is None else f"{share:.0%}"]
        cells += ["" if row["difference"] is None else f"{row['difference']:+.4f}"]
        cells += ["" if row["low"] is None else f"{row['low']:+.4f} to {row['high']:+.4f}"]
        cells += [f"{row['parameters']:,}", f"{row['flops']:,.0f}", "" if row["cache"] is None else f"{row['cache']:,}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def draw(results: Mapping[str, Any], path: Path) -> None:
    """A forest plot: each variant's difference to the base with its interval, one panel for each task."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "blockformer", "font.size": 9, "axes.edgecolor": "#8a8f98"})
    from matplotlib import pyplot

    parts = tasks_of(results)
    most = max(len(part["verdicts"]) for part in parts.values())
    figure, panels = pyplot.subplots(
        1, len(parts), figsize=(1.5 + 3.4 * len(parts), 1.1 + 0.38 * most), squeeze=False, layout="constrained"
    )
    for panel, (task, part) in zip(panels[0], parts.items(), strict=True):
        names = list(part["verdicts"])
        for row, name in enumerate(names):
            of = part["verdicts"][name]
            if of["low"] is not None:
                span = [[of["difference"] - of["low"]], [of["high"] - of["difference"]]]
                panel.errorbar(of["difference"], row, xerr=span, fmt="o", capsize=4, color=COLOURS[of["verdict"]])
        if part["smallest"]:
            panel.axvspan(-part["smallest"], part["smallest"], color="#8a8f98", alpha=0.2)
        panel.axvline(0, color="#8a8f98", linestyle=":")
        panel.set_yticks(range(len(names)), names)
        panel.set_ylim(len(names) - 0.5, -0.5)
        panel.set_xlabel(f"difference of {part['figure']}")
        panel.set_title("" if task == results["study"] else task)
        panel.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None}, transparent=False, facecolor="white")
    pyplot.close(figure)


def index(studies: Mapping[str, Mapping[str, Any]]) -> str:
    """The list of all studies with their answers."""
    lines = ["<!-- Made by python -m benchmarks.study_pages; not for editing. -->", "", "# Studies", ""]
    lines += ["Questions that `blockformer compare` has answered; each page has the command that repeats it.", ""]
    for name, results in studies.items():
        answers = [f"{'' if task == name else f'{task}: '}{answer(part)}" for task, part in tasks_of(results).items()]
        lines.append(f"- [{results['question']}]({name}.md) {' '.join(answers)}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Copy the results that are named, and write all pages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="studies whose results are taken over")
    parser.add_argument("--from", dest="source", type=Path, default=Path("comparisons"), help="folder of the studies")
    options = parser.parse_args()
    for name in options.names:
        results = json.loads((options.source / name / "results.json").read_text(encoding="utf-8"))
        write_text(RESULTS / f"{name}.json", json.dumps(shortened(results), indent=1) + "\n")
    studies = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}
    for name, results in studies.items():
        write_text(PAGES / f"{name}.md", page(results))
        draw(results, PAGES / f"{name}.svg")
    write_text(PAGES / "index.md", index(studies))


if __name__ == "__main__":
    main()
