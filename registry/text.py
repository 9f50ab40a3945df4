"""Text for messages and pages: docstring summaries, values and types as in recipes, and printable untrusted text."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from docstring_parser import parse as parse_docstring
from docstring_parser.common import DocstringStyle

_NUMBERS = {
    "integer > 0": "positive integer",
    "integer >= 0": "integer from 0",
    "number > 0": "positive number",
    "number >= 0": "number from 0",
}


_ACTED_ON = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")


def printable(text: object) -> str:
    """A text from outside for a message on one line: what a terminal would act on, such as ESC, is escaped."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in str(text))


def terminal_text(text: str) -> str:
    """A text of several lines for a terminal: control characters and changes of direction are escaped."""
    return _ACTED_ON.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def shortened(text: object, most: int = 300) -> str:
    """:func:`printable`, with the middle left out if it is longer than ``most`` characters."""
    line = printable(text)
    return line if len(line) <= most else f"{line[: most // 2]} ... {line[-most // 2 :]}"


def summary(documented: type) -> str:
    """The first sentence of a docstring, on one line."""
    return _parts(documented)[0]


def details(documented: type) -> str:
    """What follows the first sentence of a docstring, without its sections, on one line."""
    return _parts(documented)[1]


def prose(text: str) -> str:
    """Docstring text on one line, with `code` in single quotes."""
    return " ".join(text.split()).replace("``", "`")


def _parts(documented: type) -> tuple[str, str]:
    parsed = parse_docstring(documented.__doc__ or "", DocstringStyle.GOOGLE)
    text = prose(f"{parsed.short_description or ''} {parsed.long_description or ''}")
    first, stop, rest = text.partition(". ")
    return first + stop.rstrip(), rest


def recipe_for(slot: str) -> str:
    """What fills a slot: ``recipe for a norm``, ``recipe for an init``, ``recipe for input_positions``."""
    article = "" if slot.endswith("s") else "an " if slot[0] in "aeiou" else "a "
    return f"recipe for {article}{slot}"


def type_in_words(schema: Mapping[str, Any]) -> str:
    """A JSON Schema of a parameter as prose: ``positive integer or null``, ``recipe for a norm``."""
    return " or ".join(dict.fromkeys(_words(schema)))


def as_yaml(value: Any) -> str:
    """A value as a recipe would write it: ``null``, ``1e-5``, ``[q, k]``."""
    if isinstance(value, bool | None):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and not math.isfinite(value):
        return f"{'-' if value < 0 else ''}.{'nan' if math.isnan(value) else 'inf'}"
    if isinstance(value, float):
        return re.sub(r"e([+-])0+", r"e\1", repr(value)).replace("e+", "e").removesuffix(".0")
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(as_yaml, cast('list[Any]', value)))}]"
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value).items()
        return f"{{{', '.join(f'{key}: {as_yaml(item)}' for key, item in items)}}}"
    return str(value)


def ranges(numbers: Iterable[int], to: str = "-") -> str:
    """Growing numbers in few words: ``0-2, 4`` for 0, 1, 2 and 4, with ``to`` for the dash."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}{to}{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _words(schema: Mapping[str, Any]) -> Iterator[str]:
    kind = schema.get("type")
    if "title" in schema:
        yield schema["title"]
    elif "anyOf" in schema:
        for member in schema["anyOf"]:
            yield from _words(member)
    elif "const" in schema:
        yield as_yaml(schema["const"])
    elif "enum" in schema:
        *others, last = map(as_yaml, schema["enum"])
        yield f"{', '.join(others)} or {last}" if others else last
    elif kind == "array":
        yield f"list of {type_in_words(schema['items'])}"
    elif kind == "object":
        of = schema["additionalProperties"]
        yield "mapping by name" if of is True else f"names, each with its {type_in_words(of)}"
    elif kind in ("integer", "number"):
        yield _number(schema)
    else:
        yield {"boolean": "true or false", "string": "text"}.get(cast("str", kind), cast("str", kind))


def _number(schema: Mapping[str, Any]) -> str:
    bounds = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    limits = [f"{sign} {as_yaml(schema[key])}" for key, sign in bounds.items() if key in schema]
    phrase = f"{schema['type']} {' and '.join(limits)}".strip()
    return _NUMBERS.get(phrase, phrase)
