"""Errors of the import from and the export to Hugging Face folders."""

from collections.abc import Iterable
from pathlib import Path

from registry import Mark, Problem, RecipeError


class HuggingFaceError(RecipeError):
    """A folder cannot be imported or exported; ``str()`` gives one line per problem, with file and line where known."""

    @classmethod
    def at(cls, place: Path | str | Mark, message: str, path: str = "") -> "HuggingFaceError":
        """An error with one problem.

        Args:
            place: the file, or the line of a file.
            message: what is wrong and what to do.
            path: dotted path of the key in the file, if the problem has one.
        """
        mark = place if isinstance(place, Mark) else Mark(str(place))
        return cls([Problem(mark, path, message)])

    @classmethod
    def in_file(cls, file: Path | str, messages: Iterable[str]) -> "HuggingFaceError":
        """An error with several problems of one file."""
        return cls(Problem(Mark(str(file)), "", message) for message in messages)


class ExportError(HuggingFaceError):
    """A recipe does not match any family, or not the chosen one; each problem is a key that differs from the family."""
