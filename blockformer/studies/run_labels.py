"""How the runs of a study are labelled, in W&B and in their own files."""

from typing import Any

from blockformer.studies.run import Run
from blockformer.training.optimizers import OptimizerSettings

LONGEST_TAG = 64  # characters, of W&B


def run_settings(run: Run, study: str) -> dict[str, Any]:
    """Settings of `--run.*` that group a run in W&B: the study is the group, the variant is the job type.

    `about` has the keys that charts are grouped by: `study`, `variant`, `seed` and `learning_rate`.
    """
    rate = run.learning_rate or run.settings.get("optimizer", {}).get("lr", OptimizerSettings().lr)
    tags = [study, run.variant, f"seed{run.seed}", run.purpose]
    about = {"study": study, "variant": run.variant, "seed": run.seed, "learning_rate": rate, "purpose": run.purpose}
    return {
        "group": study,
        "job_type": run.variant,
        "tags": list(dict.fromkeys(tag[:LONGEST_TAG] for tag in tags)),
        "about": about,
    }
