"""A Weights & Biases logger whose failures never stop a run."""

import contextlib
import functools
import netrc
import os
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from blockformer.files import write_text
from blockformer.training.loggers.sent_rows import SentRows
from blockformer.training.watch import BY_LAYER
from registry.text import printable

Method = TypeVar("Method", bound=Callable[..., Any])
AXES = ("step", "tokens")


def switch_off_on_error(method: Method) -> Method:
    """On any exception print one line, switch W&B off, and go on."""

    @functools.wraps(method)
    def guarded(self: "SafeWandbLogger", *args: Any, **kwargs: Any) -> Any:
        if self.broken:
            return None
        try:
            return method(self, *args, **kwargs)
        except Exception as error:  # of any kind: the run and its metrics.jsonl matter more
            self.broken = True
            reason = printable((str(error).splitlines() or [""])[0])
            print(
                f"W&B is switched off ({type(error).__name__}: {reason}); metrics.jsonl is complete without it",
                file=sys.stderr,
            )
            return None

    return cast("Method", guarded)


class SafeWandbLogger(WandbLogger):
    """Lightning's W&B logger, which begins its run with the configuration, and switches itself off when W&B fails.

    Where the server cannot be reached the run is kept offline. A continued run keeps its id. The axes of its
    charts are the rows' `step` and `tokens`, not W&B's own step, which a continued run would have to match.

    Args:
        folder: the run's folder; W&B writes to `wandb/` in it.
        mode: `online`, `offline`, `disabled` or `auto`: `$WANDB_MODE` if set, else online if logged in, else offline.
        project: W&B's project.
        name: the run's display name; the folder's name when not given.
        about: W&B's `group`, `job_type` and `tags`.
    """

    def __init__(
        self, folder: Path, mode: str = "auto", project: str = "blockformer", name: str | None = None, **about: Any
    ) -> None:
        given = {key: value for key, value in about.items() if value}
        super().__init__(name=name or folder.name, save_dir=folder, project=project, **given)
        self._wandb_init.pop("anonymous", None)  # without effect, and W&B warns of it
        self.folder, self.broken, self.place = folder, False, ""
        self.mode = wandb_mode() if mode == "auto" else mode
        self._sent = SentRows()

    def __getstate__(self) -> dict[str, Any]:
        """Without a run: the base class would begin one, when processes are spawned, before it has a configuration."""
        return self.__dict__ | {"_experiment": None}

    @property
    def experiment(self) -> Any:
        """W&B's run; before it begins, after it ends and where W&B failed an object whose methods do nothing."""
        return self._experiment or _NoRun()

    @rank_zero_only
    @switch_off_on_error
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Begin the run with this nested configuration."""
        if self._experiment is not None or self.mode == "disabled":
            return
        import wandb  # takes half a second, and only needed here

        self._sent = _sent_rows(self.folder)
        given = self._wandb_init | {"id": run_id(self.folder), "config": by_key(params)}
        self._experiment = run = begin(self.mode, **given)
        self.place = _place(run)
        for axis in AXES:
            run.define_metric(axis, hidden=True)
        for figures in ("train", "val", "eval", "spikes", *BY_LAYER):
            run.define_metric(f"{figures}/*", step_metric="tokens")
        recipe = self.folder / "recipe.yaml"
        if recipe.is_file():
            artifact = wandb.Artifact(f"recipe-{run.id}", type="recipe")
            artifact.add_file(str(recipe))
            run.log_artifact(artifact)

    @rank_zero_only
    @switch_off_on_error
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self._log(dict(metrics))  # the rows have `step`

    @rank_zero_only
    @switch_off_on_error
    def log_pictures(self, pictures: Mapping[str, Path], place: Mapping[str, float]) -> None:
        """Log pictures with the place in the run that they are of.

        Args:
            pictures: PNG files, by the names of their panels.
            place: `step` and `tokens`.
        """
        import wandb  # as above

        self._log(dict(place) | {name: wandb.Image(str(file)) for name, file in pictures.items()})

    @rank_zero_only
    @switch_off_on_error
    def log_texts(self, name: str, rows: Sequence[Mapping[str, str]], place: Mapping[str, float]) -> None:
        """Log texts as a table with the place in the run that they are of.

        Args:
            name: of the table.
            rows: texts by column, which are the same in all rows; at least one.
            place: `step` and `tokens`.
        """
        import wandb  # as above

        columns: list[Any] = list(rows[0])  # a list of any keys, which wandb asks for
        table = wandb.Table(columns=columns, data=[[row[column] for column in columns] for row in rows])
        self._log(dict(place) | {name: table})

    def _log(self, row: dict[str, Any]) -> None:
        """Log a row that W&B does not have yet: a killed run may have gone beyond the checkpoint it continues from."""
        if not self._sent.has(row):
            self.experiment.log(row)

    @rank_zero_only
    @switch_off_on_error
    def finalize(self, status: str) -> None:
        self.experiment.finish(exit_code=0 if status == "success" else 1)
        self._experiment, self.broken = None, True  # nothing more to send


def begin(mode: str, **given: Any) -> Any:
    """Begin a run of W&B, or continue the one with this id; it is kept offline where the server cannot be reached.

    Args:
        mode: `online`, `offline` or `disabled`.
        given: further arguments of `wandb.init`.
    """
    import wandb

    # Offline, W&B keeps records in memory for 15 s, which a killed run would lose.
    os.environ.setdefault("WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL", "1")
    settings = wandb.Settings(silent=True, console="off", init_timeout=30, finish_timeout=60)
    try:
        return wandb.init(**given, settings=settings, mode=cast("Any", mode))
    except Exception as error:
        if mode != "online":
            raise
        print(f"W&B cannot be reached ({type(error).__name__}); this run is kept offline: wandb sync", file=sys.stderr)
        return wandb.init(**given, settings=settings, mode="offline")


def _sent_rows(folder: Path) -> SentRows:
    """The rows that earlier processes of this run gave to W&B; none, with one line, where they cannot be read."""
    try:
        return SentRows.read(folder / "wandb")
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        print(f"W&B's files of this run cannot be read ({reason}): rows may appear in it twice", file=sys.stderr)
        return SentRows()


class _NoRun:
    """Stands in for a W&B run that there is not."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def _place(run: Any) -> str:
    """One line that says where the run can be seen."""
    if not run.offline:
        return f"W&B: {run.url}"
    folder = Path(run.settings.sync_dir)
    folder = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    return f"W&B, offline: view it with `wandb leet {folder}`, upload it with `wandb sync {folder}`"


def by_key(tree: Any) -> Any:
    """Turn lists into mappings from their index: W&B stores a list of mappings as text, and cannot group by items."""
    if isinstance(tree, dict):
        return {str(key): by_key(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return {str(index): by_key(value) for index, value in enumerate(tree)}
    return tree


def wandb_mode() -> str:
    """`$WANDB_MODE` if set, else online if this machine is logged in, else offline; it never prompts."""
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
    """The W&B id of the run in this folder, stored in `wandb.id`, so that a continued run stays one W&B run."""
    file = folder / "wandb.id"
    if not file.is_file():
        write_text(file, f"{secrets.token_hex(4)}\n")
    return file.read_text().strip()
