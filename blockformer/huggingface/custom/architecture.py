"""A recipe as the Python code that builds it."""

import math
import re
from collections.abc import Mapping
from typing import Any, cast

from blockformer.errors import UserError
from blockformer.huggingface.custom.vendoring import flat
from registry import Block, Recipe, Spec, parse

MODEL = "blockformer.huggingface.custom.model"
CLASSES = {
    "decoder_only": ("BlockformerForCausalLM", "AutoModelForCausalLM"),
    "encoder_only": ("BlockformerForMaskedLM", "AutoModelForMaskedLM"),
    "encoder_decoder": ("BlockformerForSeq2SeqLM", "AutoModelForSeq2SeqLM"),
}
"""For each kind of model the class around it, and the class of transformers that finds that."""
ABOUT = {
    "decoder_only": "A decoder that continues a text",
    "encoder_only": "An encoder that fills in tokens",
    "encoder_decoder": "An encoder-decoder that writes about what it reads",
}
WIDTH = 100
STEP = "    "


def modelling(recipe: Recipe, kind: str) -> tuple[str, list[str]]:
    """The class that transformers loads, which builds the recipe.

    Args:
        recipe: the model.
        kind: of the model.

    Returns:
        The text of `modeling_blockformer.py`, and the modules that it takes blocks from.

    Raises:
        UserError: two blocks have the same name.
    """
    name, _ = CLASSES[kind]
    body = _call(recipe.spec.entry.block.__qualname__, [], recipe.spec, 2)
    used = _used(recipe, body)
    imports = {f"from .{flat(block.__module__)} import {block.__qualname__}" for block in used}
    text = "\n".join(
        [
            f'"""The model of recipe.yaml (hash {recipe.hash[:12]}), written by `blockformer export --custom`."""',
            "",
            *(["from functools import partial", ""] if "partial(" in body else []),
            *sorted({*imports, f"from .{flat(MODEL)} import BlockformerConfig, {name} as Base"}),
            "",
            "",
            f"class {name}(Base):",
            f'{STEP}"""{ABOUT[kind]}, as the recipe says."""',
            "",
            f"{STEP}config_class = BlockformerConfig",
            "",
            f"{STEP}def build(self):",
            f"{STEP * 2}return {body}",
            "",
        ]
    )
    return text, [MODEL, *sorted({block.__module__ for block in used})]


def _used(recipe: Recipe, body: str) -> list[type[Block]]:
    names = set(re.findall(r"[A-Za-z_]\w*", body))
    used: dict[str, type[Block]] = {}
    for block in {spec.entry.block for _, spec in recipe.spec.walk()}:
        name = block.__qualname__
        if name in names and used.setdefault(name, block) is not block:
            raise UserError(f"two blocks are called {name}: {block.__module__} and {used[name].__module__}; rename one")
    return list(used.values())


def _call(function: str, given: list[str], spec: Spec[Any], depth: int) -> str:
    """A call with a line for each argument, or in one line if that is short and holds no call itself."""
    said = ((key, value) for key, value in spec.params if not _usual(spec, key, value))
    arguments = [*given, *(f"{key}={_value(value, depth + 1)}" for key, value in said)]
    short = f"{function}({', '.join(arguments)})"
    if len(short) <= WIDTH and "\n" not in short:
        return short
    return "\n".join([f"{function}(", *(f"{STEP * (depth + 1)}{one}," for one in arguments), f"{STEP * depth})"])


def _usual(spec: Spec[Any], key: str, value: Any) -> bool:
    """Whether the constructor, which is copied too, has this value by itself."""
    default = spec.entry.parameters[key].default
    if isinstance(value, Spec):
        ours = cast("Spec[Any]", value)
        return default is not None and parse(ours.entry.slot, default).dump() == ours.dump()
    return not isinstance(value, Mapping) and default == value


def _value(value: Any, depth: int) -> str:
    match value:
        case Spec():
            spec = cast("Spec[Any]", value)
            name = spec.entry.block.__qualname__
            return call if (call := _call("partial", [name], spec, depth)) != f"partial({name})" else name
        case float() if not math.isfinite(value):
            return f'float("{value}")'
        case Mapping():
            items = cast("Mapping[str, Any]", value).items()
            lines = (f"{STEP * (depth + 1)}{key!r}: {_value(item, depth + 1)},\n" for key, item in items)
            return "{\n" + "".join(lines) + STEP * depth + "}"
        case tuple() | list():
            items = cast("tuple[Any, ...]", value)
            return "(" + "".join(f"{_value(item, depth)}, " for item in items).strip() + ")"
        case _:
            return repr(value)
