"""Write a recipe as the Python code that builds its model."""

import math
from collections.abc import Mapping
from typing import Any, cast

from blockformer.errors import UserError
from blockformer.huggingface.custom.copied_modules import copied_name
from registry import Block, Recipe, Spec, parse

_PRETRAINED_MODEL = "blockformer.huggingface.custom.pretrained_model"
CLASSES = {
    "decoder_only": ("BlockformerForCausalLM", "AutoModelForCausalLM"),
    "encoder_only": ("BlockformerForMaskedLM", "AutoModelForMaskedLM"),
    "encoder_decoder": ("BlockformerForSeq2SeqLM", "AutoModelForSeq2SeqLM"),
    "pooled": ("BlockformerForSequenceClassification", "AutoModelForSequenceClassification"),
}
"""For each kind of model the class in :mod:`pretrained_model`, and the class of transformers that loads it.

``pooled``: an encoder or decoder whose head pools.
"""
_DESCRIPTIONS = {
    "decoder_only": "A decoder-only language model",
    "encoder_only": "An encoder-only masked language model",
    "encoder_decoder": "An encoder-decoder language model",
    "pooled": "A model that gives one row of outputs for each text",
}
_WIDTH = 100
_INDENT = "    "


def modeling_code(recipe: Recipe, kind: str) -> tuple[str, list[str]]:
    """The module with the class that transformers loads, whose ``build`` method builds the recipe.

    Args:
        recipe: the model.
        kind: of the model, such as ``decoder_only``, or ``pooled``.

    Returns:
        The text of ``modeling_blockformer.py``, and the names of the modules that it imports.

    Raises:
        UserError: two blocks of the recipe have classes of the same name.
    """
    name, _ = CLASSES[kind]
    writer = _CodeWriter()
    body = writer.call(writer.class_name(recipe.spec), [], recipe.spec, depth=2)
    blocks = writer.blocks.values()
    imports = {f"from .{copied_name(block.__module__)} import {block.__qualname__}" for block in blocks}
    text = "\n".join(
        [
            f'"""The model of recipe.yaml (hash {recipe.hash[:12]}), written by `blockformer export --custom`."""',
            "",
            *(["from functools import partial", ""] if writer.uses_partial else []),
            *sorted({*imports, f"from .{copied_name(_PRETRAINED_MODEL)} import BlockformerConfig, {name} as Base"}),
            "",
            "",
            f"class {name}(Base):",
            f'{_INDENT}"""{_DESCRIPTIONS[kind]}."""',
            "",
            f"{_INDENT}config_class = BlockformerConfig",
            "",
            f"{_INDENT}def build(self):",
            f"{_INDENT * 2}return {body}",
            "",
        ]
    )
    return text, [_PRETRAINED_MODEL, *sorted({block.__module__ for block in blocks})]


class _CodeWriter:
    """Writes specs as Python expressions, and collects the classes that these use."""

    def __init__(self) -> None:
        self.blocks: dict[str, type[Block]] = {}
        self.uses_partial = False

    def class_name(self, spec: Spec[Any]) -> str:
        """The name of a block's class, which the code then imports.

        Raises:
            UserError: another block has a class of this name.
        """
        block = spec.entry.block
        known = self.blocks.setdefault(name := block.__qualname__, block)
        if known is not block:
            raise UserError(
                f"two blocks have the class name {name}: {block.__module__} and {known.__module__}; rename one"
            )
        return name

    def call(self, function: str, positional: list[str], spec: Spec[Any], depth: int) -> str:
        """A call with the arguments that differ from the defaults: on one line if short, else one line per argument."""
        written = ((key, value) for key, value in spec.params if not _is_default(spec, key, value))
        arguments = [*positional, *(f"{key}={self.value(value, depth + 1)}" for key, value in written)]
        short = f"{function}({', '.join(arguments)})"
        if len(short) <= _WIDTH and "\n" not in short:
            return short
        lines = (f"{_INDENT * (depth + 1)}{argument}," for argument in arguments)
        return "\n".join([f"{function}(", *lines, f"{_INDENT * depth})"])

    def value(self, value: Any, depth: int) -> str:
        match value:
            case Spec():
                return self._factory(cast("Spec[Any]", value), depth)
            case float() if not math.isfinite(value):
                return f'float("{value}")'
            case Mapping():
                items = cast("Mapping[str, Any]", value).items()
                lines = (f"{_INDENT * (depth + 1)}{key!r}: {self.value(item, depth + 1)},\n" for key, item in items)
                return "{\n" + "".join(lines) + _INDENT * depth + "}"
            case tuple() | list():
                items = cast("tuple[Any, ...]", value)
                return "(" + "".join(f"{self.value(item, depth)}, " for item in items).strip() + ")"
            case _:
                return repr(value)

    def _factory(self, spec: Spec[Any], depth: int) -> str:
        """A block's class, or a partial of it if some arguments differ from the defaults."""
        name = self.class_name(spec)
        if all(_is_default(spec, key, value) for key, value in spec.params):
            return name
        self.uses_partial = True
        return self.call("partial", [name], spec, depth)


def _is_default(spec: Spec[Any], key: str, value: Any) -> bool:
    """Whether the constructor, which is copied as well, has this value as its default."""
    default = spec.entry.parameters[key].default
    if isinstance(value, Spec):
        ours = cast("Spec[Any]", value)
        return default is not None and parse(ours.entry.slot, default).dump() == ours.dump()
    return not isinstance(value, Mapping) and default == value
