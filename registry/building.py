"""Take part in the building of blocks: collect what fails, note what is built, or stand in for it."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from registry.spec import Spec

Given = tuple[Any, ...]
Builder = Callable[["Spec[Any]", Given], Any]

_BUILDER: ContextVar[Builder | None] = ContextVar("builder", default=None)


def builder() -> Builder | None:
    """What builds blocks in place of their Specs here, if anything does."""
    return _BUILDER.get()


@contextmanager
def building_by(build: Builder) -> Generator[None]:
    """Inside, every Spec that is called lets ``build`` make its block; that may call ``spec.build``."""
    token = _BUILDER.set(build)
    try:
        yield
    finally:
        _BUILDER.reset(token)


@dataclass
class Record:
    """What happened while a recipe was built.

    Attributes:
        built: each Spec that was called, what its parent gave it, and the block.
        failures: each Spec whose block could not be built, and why.
    """

    built: list[tuple["Spec[Any]", Given, Any]] = field(default_factory=list[tuple["Spec[Any]", Given, Any]])
    failures: list[tuple["Spec[Any]", Exception]] = field(default_factory=list[tuple["Spec[Any]", Exception]])

    def build(self, spec: "Spec[Any]", given: Given) -> Any:
        """Build, and replace what fails by a hollow block, so that all failures are found."""
        try:
            built = spec.build(*given)
        except Exception as error:
            if isinstance(error, ValueError) or not self.failures:
                self.failures.append((spec, error))
            return spec.entry.block.hollow()
        self.built.append((spec, given, built))
        return built
