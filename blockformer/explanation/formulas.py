"""Formulas as a page shows them: with the numbers of a block, and with the names of the blocks inside it."""

import re

from blocks.base import AttentionPositions, Component, Intermediate
from registry import entry_of

CALL = re.compile(r"""(?<![\w"'′])([^\W\d]\w*)\(""")
UNCHANGED = frozenset({"y = x", "y_t = x_t"})
BEFORE = ("(", "[", "= ", "; ", ", ", " + ")
AFTER = (")", "]", ";", ",", " + ", " - ")
NUMBER = re.compile(r"(?<!\w)[a-z]{2,}(?:_[a-z]+)*(?![\w('′])( \* )?")
MISSING = object()


def formula_of(block: Component, value: Intermediate | None = None) -> str:
    """The formula of a value that a block declares; without ``value`` that of what the block returns, by its class.

    A word before round brackets that is an attribute of the block is replaced: in ``activation(H)`` by the activation's
    own name, ``gelu(H)``. A text is put there as it is, and a number as an index: ``clip_8(H)``. None, and a block that
    returns what it is given, are left out: ``norm(x)`` without a norm is ``x``. In the formula of a class,
    words for numbers of the block are replaced by these.

    Raises:
        AttributeError: the block has no attribute that the value's formula names in curly brackets.
    """
    return _named(_numbered(block) if value is None else value.formula_of(block), block)


def definition_of(block: Component) -> str:
    """The formula of a block as that of a function: ``gelu(x) = x Phi(x)``."""
    return re.sub(r"\by = ", f"{name_of(block)}(x) = ", formula_of(block))


def name_of(block: Component) -> str:
    """The name of a block as a function in formulas; empty: it returns what it is given."""
    if isinstance(block, AttentionPositions) and "rotation" not in block.capabilities.needs:
        return ""
    return "" if block.formula in UNCHANGED else block.symbol or entry_of(type(block)).name


def _numbered(block: Component) -> str:
    """The formula of a block's class with the numbers of the block; texts in quotation marks stay."""

    def number(found: re.Match[str]) -> str:
        name, times = found[0].removesuffix(" * "), found[1] or ""
        value = getattr(block, name, None)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return found[0]
        if times and value == 1:
            return ""
        root = "" if f"{value:.4g}" == f"{value:.10g}" else ":root"  # 0.5 is not written as 1/sqrt(4)
        return Intermediate("", (), f"{{{name}{root}}}").formula_of(block) + times

    parts = block.formula.split('"')
    return '"'.join(part if at % 2 else NUMBER.sub(number, part) for at, part in enumerate(parts))


def _named(text: str, block: Component) -> str:
    found = CALL.search(text)
    if found is None:
        return text
    before, word, rest = text[: found.start()], found[1], text[found.end() :]
    end = next((at for at in range(len(rest)) if rest[at] == ")" and _is_balanced(rest[:at])), len(rest))
    inside, after = _named(rest[:end], block), _named(rest[end + 1 :], block)
    name = _function(word, getattr(block, word, MISSING))
    alone = (not before or before.endswith(BEFORE)) and (not after or after.startswith(AFTER))
    grouped = bool(name) or not (alone or _is_one_factor(inside))
    return f"{before}{name}({inside}){after}" if grouped else f"{before}{inside}{after}"


def _function(word: str, value: object) -> str:
    match value:
        case Component():
            return name_of(value)
        case None:
            return ""
        case str():
            return value
        case bool():
            return word
        case int() | float():
            return f"{word}_{value:g}"
        case _:
            return word


def _is_balanced(text: str) -> bool:
    return text.count("(") == text.count(")")


def _is_one_factor(text: str) -> bool:
    """Whether a text has no space outside brackets."""
    return all(not _is_balanced(text[:at]) for at in range(len(text)) if text[at] == " ")
