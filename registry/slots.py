"""A slot: a place in a recipe, or an option of a command, that a block fills."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast


@dataclass(frozen=True)
class Slot:
    """What all blocks of one kind have in common.

    Attributes:
        name: used for registration, recipes' schema and errors, such as ``norm``.
        description: one sentence on what the blocks in it do.
        parent_arguments: what a parent block passes before the star of the constructor, in order.
        default_block: the block of a mapping without ``type``, where the parameter has no default of its own.
        option: the option of `blockformer fit` that names the block, such as ``data.dataset``; the block's parameters
            stand beside it in the same group. None: keys of recipes name it.
        reserved: names that no parameter of its blocks may have.
        training_only: whether a model runs its blocks only where an objective asks for them.
    """

    name: str
    description: str
    parent_arguments: tuple[str, ...] = ("site",)
    default_block: str | None = None
    option: str | None = None
    reserved: frozenset[str] = frozenset()
    training_only: bool = False

    def __str__(self) -> str:
        return self.name

    def implied(self, default: Any) -> str | None:
        """The name of the block that a mapping without ``type`` describes, if there is one.

        Args:
            default: of the parameter that opens the slot, in the form of a recipe.
        """
        name = cast("Mapping[str, Any]", default).get("type") if isinstance(default, Mapping) else default
        return name if isinstance(name, str) else self.default_block


def with_default_type(value: Any, default: Any) -> Any:
    """A mapping without ``type`` laid over the default block of its parameter; any other value as it is.

    Args:
        value: the recipe's value of the parameter.
        default: of the parameter, in the form of a recipe.
    """
    if not isinstance(value, Mapping) or "type" in value or "like" in value:
        return cast("Any", value)
    change = cast("Mapping[str, Any]", value)
    if isinstance(default, str):
        return {"type": default, **change}
    if isinstance(default, Mapping) and "type" in default:
        return {**cast("Mapping[str, Any]", default), **change}
    return change
