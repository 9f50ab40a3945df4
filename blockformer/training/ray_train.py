"""Train in workers of Ray Train, on one machine or a cluster (the extra `ray`)."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blockformer.training.given import Overrides
from blockformer.training.run import train

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer


def ray_trainer(
    recipe: str | Path | Mapping[str, Any] | None,
    overrides: Overrides = (),
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> "TorchTrainer":
    """Ray's trainer whose workers train a recipe together, as the processes of `fit` do.

        ray_trainer("gpt2", settings={"run.name": "gpt2"}, scaling_config=ScalingConfig(num_workers=8)).fit()

    The workers share this process's working directory, which must lie on a file system that all machines have. With
    ``ckpt_path: last`` in the settings, workers that Ray starts again go on from the run's last checkpoint.

    Args:
        recipe: as for :func:`~blockformer.training.run.train`.
        overrides: likewise.
        settings: likewise; `trainer.devices` and `trainer.num_nodes` are those of the workers.
        options: of Ray's ``TorchTrainer``: `scaling_config`, `run_config`, `torch_config`.

    Raises:
        ModuleNotFoundError: Ray is not installed.
    """
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # with it each line is printed twice
    from ray.train.torch import TorchTrainer

    given = {"recipe": recipe, "overrides": overrides, "settings": dict(settings or {}), "folder": str(Path.cwd())}
    return TorchTrainer(_train_in_worker, train_loop_config=given, **options)


def _train_in_worker(given: dict[str, Any]) -> None:
    """Ray has connected the processes, and has set what torchrun sets but the name of the run."""
    os.environ["TORCHELASTIC_RUN_ID"] = "ray"
    os.chdir(given["folder"])
    train(given["recipe"], given["overrides"], given["settings"])
