"""The plan of a study as `blockformer compare --plan` shows it."""

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blockformer.studies.plan import Plan
    from blockformer.studies.study import Study


def plans(study: "Study", form: str) -> str:
    """The plan of a study, or one for each of its tasks."""
    from blockformer.studies.plan import make_plan

    plans = {part.name: make_plan(part, measure=True) for part in study.tasks or (study,)}
    if form == "json":
        data = {name: plan.as_data() for name, plan in plans.items()}
        return json.dumps(data if study.tasks else data[study.name], indent=1) + "\n"
    return "\n".join((f"{name}\n" if study.tasks else "") + _plan_text(plan) for name, plan in plans.items())


def _plan_text(plan: "Plan") -> str:
    """The plan as a table and a few sentences."""
    head = ("variant", "parameters", "active", "FLOPs/token", "matched", "off", "shared values", "memory", "steps")
    head += ("a run takes",)
    rows: list[tuple[str, ...]] = [head]
    for name, of in plan.figures.items():
        matched = ", ".join(f"{key}={value}" for key, value in of.matched.items()) or "-"
        time = "not trained" if name in plan.identical else f"{of.seconds:.0f} s" if of.seconds is not None else "?"
        sizes = (
            f"{of.parameters:,}",
            f"{of.active:,}",
            f"{of.flops:,.0f}",
            matched,
            f"{of.off:+.2%}",
            "?" if of.shared is None else f"{of.shared:.0%}",
            f"{of.memory / 2**20:,.1f} MiB",
            f"{of.steps:,}",
        )
        rows.append((name, *sizes, time))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    data = plan.as_data()
    lines.append("")
    lines.append(
        f"{len(data['runs'])} runs, about {(data['seconds'] or 0) / 60:.1f} minutes one after another; "
        f"plan {plan.hash[:12]}"
    )
    lines += _runs_by_purpose(plan)
    if data["visible"]:
        size = f"{data['visible']:.1f} standard deviations of the difference within a seed"
        lines.append(f"{len(plan.study.seeds)} seeds find a difference of {size} with 80 % probability")
    else:
        lines.append("one seed gives no verdict: use at least 2, better 5")
    return "\n".join(lines) + "\n"


def _runs_by_purpose(plan: "Plan") -> list[str]:
    """Every run in few lines: what it is for, and the seeds of each variant, learning rate or share of the steps."""
    titles = {
        "tune": "to choose the learning rate",
        "answer": "to answer",
        "budget": "to compare in steps of the base",
    }
    groups: dict[str, dict[str, list[str]]] = {}
    for run in plan.planned_runs():
        rate = f" at {run.learning_rate:g}" if run.purpose == "tune" else ""
        steps = f" with {run.budget:g} times the steps" if run.budget != 1 else ""
        groups.setdefault(run.purpose, {}).setdefault(run.variant + rate + steps, []).append(str(run.seed))
    return [
        f"{titles[purpose]}: " + "; ".join(f"{what}, seeds {', '.join(seeds)}" for what, seeds in group.items())
        for purpose, group in groups.items()
    ]
