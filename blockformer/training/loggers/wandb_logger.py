"""Weights & Biases, kept at arm's length: nothing that it raises, refuses or loses stops a run."""

import contextlib
import functools
import netrc
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

Method = TypeVar("Method", bound=Callable[..., Any])
AXES = ("step", "tokens")


def harmless(method: Method) -> Method:
    """Say in one line what W&B could not do, switch it off, and go on."""

    @functools.wraps(method)
    def guarded(self: "SafeWandbLogger", *args: Any, **kwargs: Any) -> Any:
        if self.broken:
            return None
        try:
            return method(self, *args, **kwargs)
        except Exception as error:  # whatever it is: the run and its own metrics.jsonl matter more
            self.broken = True
            reason = (str(error).splitlines() or [""])[0]
            print(
                f"W&B is off from here on ({type(error).__name__}: {reason}); metrics.jsonl has everything",
                file=sys.stderr,
            )
            return None

    return cast("Method", guarded)


class SafeWandbLogger(Logger):
    """One W&B run, begun when its configuration is known.

    Args:
        folder: the run's folder; W&B's files go to `wandb/` in it.
        mode: `online`, `offline`, `disabled` or `auto`: what `$WANDB_MODE` says, else online if logged in or offline.
        project, group, job_type, tags, name: as W&B knows them.
    """

    def __init__(
        self,
        folder: Path,
        mode: str = "auto",
        project: str = "blockformer",
        group: str | None = None,
        job_type: str | None = "train",
        tags: tuple[str, ...] = (),
        name: str | None = None,
    ) -> None:
        super().__init__()
        self.folder, self.broken, self.run = folder, False, cast("Any", None)
        self._place = ""
        self.mode = wandb_mode() if mode == "auto" else mode
        self._about = {
            "project": project,
            "group": group,
            "job_type": job_type,
            "tags": tags,
            "name": name or folder.name,
        }

    @property
    def name(self) -> str:
        return str(self._about["project"])

    @property
    def version(self) -> str:
        return run_id(self.folder)

    @rank_zero_only
    @harmless
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Begin the run with this nested configuration."""
        if self.run is not None or self.mode == "disabled":
            return
        import wandb  # half a second, and only where figures go there

        # Offline, W&B keeps what it has in memory for 15 s; a run that is killed would lose that.
        os.environ.setdefault("WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL", "1")
        about = {key: value for key, value in self._about.items() if value}
        settings = wandb.Settings(silent=True, console="off", init_timeout=30, finish_timeout=60)
        begin = functools.partial(
            wandb.init, **about, id=run_id(self.folder), resume="allow", dir=self.folder, settings=settings
        )
        try:
            self.run = begin(mode=self.mode, config=by_key(params))
        except Exception as error:
            if self.mode != "online":
                raise
            print(
                f"W&B cannot be reached ({type(error).__name__}); this run is kept offline: wandb sync", file=sys.stderr
            )
            self.run = begin(mode="offline", config=by_key(params))
        folder = Path(self.run.settings.sync_dir)
        folder = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
        offline = f"W&B, offline: see it with `wandb leet {folder}`, send it with `wandb sync {folder}`"
        self._place = offline if self.run.offline else f"W&B: {self.run.url}"
        for axis in AXES:
            self.run.define_metric(axis, hidden=True)
        for figures in ("train/*", "val/*"):
            self.run.define_metric(figures, step_metric="tokens")
        self._log_recipe(wandb, self.run)

    def _log_recipe(self, wandb: Any, run: Any) -> None:
        recipe = self.folder / "recipe.yaml"
        if recipe.is_file():
            artifact = wandb.Artifact(f"recipe-{run.id}", type="recipe")
            artifact.add_file(str(recipe))
            run.log_artifact(artifact)

    @property
    def place(self) -> str:
        """One line that says where the run can be seen; empty if it is nowhere."""
        return self._place

    @rank_zero_only
    @harmless
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if self.run is not None:
            # Without W&B's own step: a run that continues would have to match it, and rows carry `step` anyway.
            self.run.log(metrics)

    @rank_zero_only
    @harmless
    def finalize(self, status: str) -> None:
        if self.run is not None:
            self.run.finish(exit_code=0 if status == "success" else 1)
            self.run = None
            self.broken = True  # finished: nothing more to send


def by_key(tree: Any) -> Any:
    """Lists as mappings from their index: W&B makes texts of lists that hold mappings, and cannot group by those."""
    if isinstance(tree, dict):
        return {str(key): by_key(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return {str(index): by_key(value) for index, value in enumerate(tree)}
    return tree


def wandb_mode() -> str:
    """`$WANDB_MODE` if set, else online if this machine is logged in, else offline: nothing ever asks."""
    if chosen := os.environ.get("WANDB_MODE"):
        return chosen
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return "online"
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    for file in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            if file and netrc.netrc(Path(file).expanduser()).authenticators(host):
                return "online"
    return "offline"


def run_id(folder: Path) -> str:
    """The W&B id of the run in this folder, made once and kept, so that a run that continues stays one run."""
    file = folder / "wandb.id"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{secrets.token_hex(4)}\n")
    return file.read_text().strip()
