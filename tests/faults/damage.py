"""Random damages of a file and of the data in it."""

import copy
from collections.abc import Iterator
from random import Random
from typing import Any


def damaged_bytes(content: bytes, draw: Random) -> tuple[str, bytes]:
    """A kind of damage, and the bytes with it."""
    size, data = len(content), bytearray(content)
    kind = draw.choice(["flipped bit", "cut", "zeroed range", "swapped ranges", "other byte", "longer"])
    place, length = draw.randrange(size), draw.choice([1, 8, 64, 512, 4096])
    match kind:
        case "flipped bit":
            data[place] ^= 1 << draw.randrange(8)
        case "cut":
            del data[place:]
        case "zeroed range":
            data[place : place + length] = bytes(len(data[place : place + length]))
        case "swapped ranges":
            length = min(length, size // 4)
            first, second = draw.randrange(size // 2 - length), draw.randrange(size // 2, size - length)
            one, other = data[first : first + length], data[second : second + length]
            data[first : first + length], data[second : second + length] = other, one
        case "other byte":
            data[place] = (data[place] + draw.randrange(1, 256)) % 256
        case _:
            data += draw.randbytes(length)
    return kind, bytes(data)


STRANGE = (
    None,
    True,
    -1,
    0,
    2**70,
    1e400,
    float("nan"),
    "",
    "x",
    "\x1b[31m",
    "../..",
    b"x",
    [],
    {},
    [[]],
    {"a": 1},
    (1,),
)


def damaged_values(content: dict[str, Any], draw: Random) -> tuple[str, dict[str, Any]]:
    """A kind of damage, and a copy of nested values in which one key is missing, new, or of another type."""
    changed = copy.deepcopy(content)
    parents = list(_parents(changed, ""))
    path, parent = draw.choice(parents)
    key = draw.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
    match draw.choice(["removed", "another value", "another value", "new key"]):
        case "removed":
            del parent[key]
            return f"{path}.{key} removed", changed
        case "new key" if isinstance(parent, dict):
            parent["strange"] = copy.deepcopy(draw.choice(STRANGE))  # what reads it may change it
            return f"{path}.strange", changed
        case _:
            parent[key] = copy.deepcopy(draw.choice(STRANGE))
            return f"{path}.{key} = {parent[key]!r}", changed


def _parents(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The containers with something in them; of large ones, such as vocabularies, few parts are entered."""
    if isinstance(value, dict | list) and value:
        yield path, value
        parts = list(value.items() if isinstance(value, dict) else enumerate(value))
        for key, part in parts[:60]:
            yield from _parents(part, f"{path}.{key}")
