"""The tasks of EleutherAI's lm-evaluation-harness: which there are, their data, and the names of their figures."""

import traceback
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import lm_eval
from lm_eval.api.registry import is_higher_better
from lm_eval.tasks import TaskManager

from blockformer.errors import UserError
from registry.text import shortened


def task_manager(tasks: Sequence[str], include: Path | None, option: str = "--") -> TaskManager:
    """What loads the tasks of these names.

    Args:
        tasks: names.
        include: a folder with task files of one's own.
        option: what stands before the names of options in messages.

    Raises:
        UserError: there is no such folder or task.
    """
    if include is not None and not include.is_dir():
        raise UserError(f"{option}include {include}: is not a folder")
    with naming_bad_tasks():
        known = _own_tasks(tasks, include) or TaskManager(include_path=None if include is None else str(include))
    if unknown := [name for name in tasks if not known.match_tasks([name])]:
        missing = f"the harness has no task {', '.join(unknown)}"
        if joined := next((name for name in unknown if "," in name), None):
            raise UserError(f"{option}tasks: {missing}; names are given one by one: {' '.join(joined.split(','))}")
        raise UserError(f"{option}tasks: {missing}; {option}include names a folder with others")
    return known


def _own_tasks(tasks: Sequence[str], include: Path | None) -> TaskManager | None:
    """What loads single tasks of one's own; None: others are asked for, too.

    The harness reads thousands of files to know its own, which takes seconds.
    """
    if include is None:
        return None
    own = TaskManager(include_path=str(include), include_defaults=False)
    return own if set(tasks) <= set(own.all_subtasks) else None


def load_tasks(tasks: Sequence[str], include: Path | None, option: str = "--") -> dict[str, tuple[str, ...] | None]:
    """Load the data of tasks, so that they are on this machine; arguments as of :func:`task_manager`.

    Returns:
        For each task, and each that a group has, the names of its figures; None: they are not known before it is
        scored.

    Raises:
        UserError: there is no such task, or its data cannot be had.
    """
    known = task_manager(tasks, include, option)
    with naming_bad_tasks():
        loaded = known.load_task_or_group(list(tasks))
    return {name: _names_of(task) for name, task in _leaves(loaded)}


def _leaves(loaded: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """The tasks, with their names, in groups and beside them."""
    for key, value in loaded.items():
        if isinstance(value, dict):
            yield from _leaves(cast("dict[Any, Any]", value))
        else:
            yield str(key), value


def _names_of(task: Any) -> tuple[str, ...] | None:
    """The names of the figures that a task gives; None: its own functions decide that."""
    config, filters = getattr(task, "config", None), getattr(task, "_filters", None)
    if config is None or filters is None or callable(config.process_results):
        return None
    if any(not isinstance(one["metric"], str) for one in config.metric_list or ()):
        return None
    return tuple(figure_name(metric, one.name) for metric in task.aggregation() for one in filters)


def higher_is_better(metric: str) -> bool | None:
    """Whether larger values of a metric of the harness are better; None: it does not know the metric."""
    import lm_eval.api.metrics  # noqa: F401  (registers them)

    return is_higher_better(metric)


@contextmanager
def naming_bad_tasks() -> Generator[None]:
    """Turn an error of missing data, or of the harness at work on the file of a task, into one of the user's."""
    try:
        yield
    except (ConnectionError, FileNotFoundError) as error:
        raise UserError(f"the data of a task is not available: {' '.join(str(error).split())[:300]}") from error
    except Exception as error:  # of any class: what the file of a task can make the harness do
        if not _comes_from_a_task(error):
            raise
        reason = f"{type(error).__name__}: {shortened(' '.join(str(error).split()))}"
        remedy = "if it is your own, correct its file"
        if isinstance(error, ImportError | OSError):
            remedy = "install what it names, or check network and disk"
        raise UserError(f"a task cannot be used ({reason}): {remedy}") from error


def _comes_from_a_task(error: Exception) -> bool:
    """Whether the harness was at work when an error arose, and not the model that it scores."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    ours, theirs = Path(__file__).parents[1], Path(lm_eval.__file__).parent
    owners = [owner for file in files for owner in (ours, theirs) if Path(file).is_relative_to(owner)]
    return owners[-1] == theirs


def figure_name(metric: str, kind: str) -> str:
    """The name of the figure of a metric after a filter of this kind."""
    return metric if kind in ("", "none") else f"{metric} ({kind})"
