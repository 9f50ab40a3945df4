"""Named intermediate values of a block, and how a listener gets them during a forward pass."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from string import Formatter
from typing import Any, cast

from torch import Tensor, nn

INPUT, OUTPUT = "input", "output"
AXES = frozenset(
    {
        *("token", "key", "head", "kv_head", "channel", "width", "feature", "unit", "expert", "choice", "state", "row"),
        *("vocabulary", "value", "stream", "into", "..."),
    }
)
"""Meanings of axes. ``...``: the leading axes of the block's input. Others are shown by their name."""

Listener = Callable[[Any, str, Tensor], None]
"""Takes the block, the name of a value, and the value."""


@dataclass(frozen=True)
class Intermediate:
    """What a value means that a block gives to ``record``; or its own output, under the name ``output``.

    Attributes:
        caption: one sentence on what it is.
        axes: meaning of the axes after that of the batch, such as ("head", "token", "channel"), see ``AXES``. Values
            that begin with ``row`` or belong to rows of tokens, as a router's do, have no axis of the batch.
        formula: how it is computed, such as ``Q K^T``; ``{name}`` is an attribute of the block, and ``{name:root}`` is
            written as a square root if it is one: ``1/sqrt(64)`` instead of 0.125. ``{name:+ b}`` is `` + b`` if the
            projection of this name has a bias, or the parameter exists, else nothing; ``{name:* w}`` likewise, and
            ``{name:*}`` is ``3 * `` for the number 3, ``{name:+}`` is `` + 3``, and nothing where that changes nothing.
            The name of a block in this block, before a bracket, is shown as that block's own name: ``norm(x)`` as
            ``RMSNorm(x)``; None is left out. Of values in ``of`` that are not recorded, the symbol is replaced by that
            of the value it is computed from: Q' by Q.
        of: names of the values of this block that it is computed from; ``input`` is the block's own input.
        needs: name of a block in this block, or of a parameter, without which it is not recorded; empty: none.
    """

    caption: str
    axes: tuple[str, ...]
    formula: str = ""
    of: tuple[str, ...] = ()
    needs: str = ""

    def formula_of(self, block: nn.Module) -> str:
        """The formula with the numbers of a block.

        Raises:
            AttributeError: the block has no attribute that it names.
        """
        return _Numbers().vformat(self.formula, (), _Attributes(block))


def described(**values: Intermediate) -> Mapping[str, Intermediate]:
    """The ``intermediates`` of a block, by the names under which it records them."""
    return values


class _Attributes(dict[str, Any]):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def __missing__(self, name: str) -> Any:
        return getattr(self.block, name)


class _Numbers(Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        if format_spec == "*":
            return "" if value in (None, 1) else f"{_as_decimal(value)} * "
        if format_spec == "+":
            return "" if value in (None, 0) else f" + {_as_decimal(value)}"
        if format_spec.startswith(("+", "*")):
            given = value.bias if isinstance(value, nn.Linear) else value
            return "" if given is None else f" {format_spec}"
        if not isinstance(value, int | float):
            return str(cast("object", value))
        return as_root(value) if format_spec == "root" else _as_decimal(value)


def as_root(value: float) -> str:
    """``sqrt(n)`` or ``1/sqrt(n)`` if the number is that of a whole n, else the number."""
    for text, square in (("sqrt({})", value * value), ("1/sqrt({})", 1 / (value * value) if value else 0.0)):
        whole = round(square)
        if value > 0 and whole > 1 and abs(square - whole) < 1e-9 * whole and value != int(value):
            return text.format(whole)
    return _as_decimal(value)


def _as_decimal(value: float) -> str:
    """Six digits; a very small or large number with a power of ten: ``10^(-6)``."""
    digits, _, exponent = f"{value:.6g}".partition("e")
    factor = "" if digits == "1" else f"{digits} * "
    return f"{factor}10^({int(exponent)})" if exponent else digits


@contextmanager
def listening(model: nn.Module, listener: Listener) -> Generator[None]:
    """Let the blocks of a model give their intermediate values to ``listener`` within the ``with`` block.

    Compiled code is compiled again, so listen to models that are not compiled.
    """
    blocks: list[Any] = [part for part in model.modules() if hasattr(part, "listener")]
    for block in blocks:
        block.listener = listener
    try:
        yield
    finally:
        for block in blocks:
            del block.listener  # that of the class, None, is in its place again
