"""Options that take whole numbers or shares, such as `--trainer.limit_val_batches`: 1 is a number, 1.0 a share."""

from functools import reduce
from operator import or_
from typing import Any, Union, get_args, get_origin


def prefer_integers(parser: Any) -> None:
    """Let options that take integers and floats read a whole number as an integer, however their types are ordered.

    jsonargparse takes the first type of a union that fits. `typing` keeps the unions that it has made, and for it
    `Union[int, float]` equals `Union[float, int]`: which of them an annotation of Lightning is depends on what was
    imported before.

    Args:
        parser: of jsonargparse; its options are changed.
    """
    for action in parser._actions:
        hint = getattr(action, "_typehint", None)
        members = get_args(hint)
        if get_origin(hint) is Union and {int, float} <= set(members) <= {int, float, type(None)}:
            rest = [one for one in members if one is not int]
            action._typehint = reduce(or_, rest, int)  # a union by `|` keeps its order
