"""A study as a sweep of W&B: its agents, on any machine that shares the folder, execute runs by their ids."""

import json
from collections.abc import Sequence
from pathlib import Path

from blockformer.studies.api import parts_of
from blockformer.studies.plan import make_plan
from blockformer.studies.study import Study


def sweep_file(study: Study, folder: Path, command: Sequence[str], project: str) -> str:
    """The sweep file: a grid over the ids of the study's runs. JSON, which is YAML too.

    Runs with chosen learning rates are unknown before the choice, so of a study with several rates only those that
    choose are listed; `compare` executes the rest.

    Args:
        study: the study.
        folder: its folder, which all agents share.
        command: what an agent calls, up to the option `--only`: a study file, its tier, settings.
        project: of W&B.

    Raises:
        RecipeError: variants cannot be matched.
    """
    ids: dict[str, None] = {}
    for part, _ in parts_of(study, folder):
        plan = make_plan(part)
        runs = plan.tuning_runs() if part.file.learning_rates else plan.planned_runs()
        ids |= dict.fromkeys(run.id for run in runs)
    sweep = {
        "name": study.label,
        "description": study.file.question,
        "project": project,
        "method": "grid",
        "parameters": {"only": {"values": list(ids)}},
        "command": [*command, "--out", str(folder), "${args}"],
    }
    return json.dumps(sweep, indent=1) + "\n"
