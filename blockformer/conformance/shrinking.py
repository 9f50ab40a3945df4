"""A whole recipe at a size that a test can afford, with all its ideas left in."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from blockformer.conformance.subject import MODEL_PLACES, SMALL, Place, Subject
from blocks.models.base import Model
from registry import Recipe

SIZES: Mapping[str, Any] = {
    **SMALL,
    "source_vocab_size": SMALL["vocab_size"],
    "hidden": 24,
    "width": 16,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 8,
    "window": 3,
    "trained_length": 8,
    "kv_rank": 8,
    "q_rank": 8,
    "rotary_dim": 4,
    "value_dim": 6,
    "experts": 4,
    "top_k": 2,
    "groups": 2,
    "top_groups": 1,
}


def shrunk(recipe: Recipe, model: Model) -> Subject:
    """The same recipe with small sizes; ``model`` is what it builds, on the meta device.

    What is null stays null, one key-and-value head stays one, and as many as heads stay as many.
    """
    small = {key: _small(value) for key, value in recipe.dump().items()}
    place: Place = MODEL_PLACES[model.kind]
    return Subject(
        "model",
        str(small.pop("type")),
        {key: SMALL.get(key, value) for key, value in small.items()},
        place,
        recipe.name,
    )


def _small(tree: Any) -> Any:
    if isinstance(tree, list):
        return tuple(_small(item) for item in cast("list[Any]", tree))
    if not isinstance(tree, dict):
        return tree
    node = cast("dict[str, Any]", tree)
    found = {key: _size(key, value, node) for key, value in node.items()}
    if node.get("pattern"):
        found["depth"] = len(node["pattern"]) + len(cast("Sequence[str]", node.get("first") or ()))
    return found


def _size(key: str, value: Any, node: Mapping[str, Any]) -> Any:
    if not isinstance(value, int) or isinstance(value, bool) or key not in SIZES:
        return _small(value)
    if key == "kv_heads" and value in (1, node.get("heads")):
        return 1 if value == 1 else SIZES["heads"]
    return SIZES[key]
