"""What is wrong with a folder, a family file, or the two together."""

from collections.abc import Iterable
from pathlib import Path

from registry import Mark, Problem, RecipeError


class InterchangeError(RecipeError):
    """A folder cannot be imported or exported; ``str()`` gives one line a problem, with file and line where known."""

    @classmethod
    def at(cls, place: Path | str | Mark, message: str, path: str = "") -> "InterchangeError":
        """With one problem, at a file or at a line of one."""
        mark = place if isinstance(place, Mark) else Mark(str(place))
        return cls([Problem(mark, path, message)])

    @classmethod
    def among(cls, place: Path | str, messages: Iterable[str]) -> "InterchangeError":
        """With several problems of one file."""
        return cls(Problem(Mark(str(place)), "", message) for message in messages)


class InexpressibleError(InterchangeError):
    """No family can say a recipe; each problem is a key that stands in the way of the nearest, or of the chosen one."""
