"""Texts on which a model is compared with the original, and what they leave out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from blockformer.huggingface.family import as_list
from blockformer.huggingface.folder import MAX_TOKENIZER, file_in, has_file, read_json
from blocks.models.base import Model
from registry import Recipe

MOST_TOKENS = 1024  # length of the longest text, unless a caller wants longer ones
_PADDING = 5  # tokens of padding at the end of the second row
_BEYOND = 4  # tokens of a text beyond the reach of a setting
_TOKENIZER = "tokenizer.json"
# Scalings that depend on the length of a text: transformers counts the longest row of a batch, we count each row.
_BY_LENGTH = ("dynamic", "longrope")
_REACHES = {  # recipe keys whose effect depends on the length of a text, with their names for messages
    "window": "window",
    "radius": "radius",
    "trained_length": "trained length",
    "max_distance": "largest distance",
    "capacity": "capacity",
    "chunk": "chunk",
}


@dataclass(frozen=True)
class Trials:
    """What is compared.

    Attributes:
        batches: inputs of the original, by their names in transformers.
        untried: what no batch contains, for the user.
    """

    batches: list[dict[str, Tensor]] = field(default_factory=list[dict[str, Tensor]])
    untried: list[str] = field(default_factory=list[str])


def trials(model: Model, recipe: Recipe, config: Mapping[str, Any], folder: Path, length: int, longest: int) -> Trials:
    """Texts with every special token, longer than windows and trained lengths, and padded where the model allows it.

    Args:
        model: to compare.
        recipe: of the model.
        config: the content of config.json.
        folder: of the config, with the tokenizer if there is one.
        length: tokens of a text at least, if ``max_length`` allows it.
        longest: tokens of a text at most, unless ``length`` is greater.
    """
    untried: list[str] = []
    dump = recipe.dump()
    limited = any(part.get("type") == "learned" for part in _mappings(dump))  # by a table of positions
    reaches = sorted({(size, _REACHES[key]) for part in _mappings(dump) for key, size in _sizes(part)})
    lengths = {min(length, model.max_length)}
    for size, name in reaches:
        wanted = size + _BEYOND
        if name != _REACHES["trained_length"] and size >= model.max_length:
            continue  # no text is longer
        if (limited and wanted > model.max_length) or wanted > max(longest, length):
            untried.append(f"texts beyond the {name} of {size:,} tokens")
        else:
            lengths.add(wanted)
    within = [size for size, name in reaches if name == _REACHES["trained_length"] and size < max(lengths)]
    batches_of = [max(lengths), *([max(1, min(within) - 1)] if within else [])]
    tokens, outside = _special_tokens(model, config, folder)
    untried += [f"{name} {token}, which the vocabulary does not have" for name, token in outside]
    if len(tokens) > batches_of[0] // 2:
        untried.append(f"{len(tokens) - batches_of[0] // 2:,} of {len(tokens):,} special tokens")
    by_length = any(part.get("type") in _BY_LENGTH for part in _mappings(dump)) and within != []
    batches = [
        random_inputs(model, config, one, tokens, padded=not (by_length and one == batches_of[0])) for one in batches_of
    ]
    if not model.allows("padding"):
        untried.append("padding, which the model does not support")
    else:
        untried += ["padding before a text"] if batches_of[0] > _PADDING else ["padding"]
        untried += ["padding beyond the trained length"] * by_length
        if isinstance(padding := config.get("pad_token_id"), int) and padding >= 0:
            untried.append(f"pad_token_id {padding} inside a text")
        untried += ["padded targets"] if model.kind == "encoder_decoder" else []
    return Trials(batches, untried)


def random_inputs(
    model: Model, config: Mapping[str, Any], length: int, tokens: Sequence[int] = (), *, padded: bool = True
) -> dict[str, Tensor]:
    """Two texts of random tokens, by the names of transformers; the second is padded if the model supports padding.

    Args:
        model: to compare.
        config: the content of config.json.
        length: tokens of each text.
        tokens: special tokens that both texts contain, as far as half of their length holds them.
        padded: whether the second text is padded if the model supports padding.
    """
    generator = torch.Generator().manual_seed(0)
    found, sources = config.get("pad_token_id"), config.get("src_vocab_size")
    padding = found if isinstance(found, int) and 0 <= found < model.vocab_size else 0
    source_size = sources if isinstance(sources, int) and sources > 0 else model.vocab_size
    ids = _random_ids(source_size, padding, (2, length), tokens, generator)
    mask = torch.ones_like(ids)
    if padded and length > _PADDING and model.allows("padding"):
        mask[1, -_PADDING:] = 0
        ids[1, -_PADDING:] = padding
    inputs = {"input_ids": ids, "attention_mask": mask}
    if model.kind == "encoder_decoder":
        shape = (2, min(model.target_max_length, max(1, length * 3 // 4)))
        inputs["decoder_input_ids"] = _random_ids(model.vocab_size, padding, shape, tokens, generator)
    elif getattr(model.embedding, "segments", None) is not None and config.get("type_vocab_size", 1) > 1:
        inputs["token_type_ids"] = (torch.arange(length) >= length // 2).long().expand(2, -1) * mask
    for name, feature in model.features.items():
        shape = ids.shape if feature.per == "token" else ids.shape[:1]
        inputs[name] = torch.randint(0, feature.size, shape, generator=generator)
    return inputs


def output_mask(inputs: Mapping[str, Tensor]) -> Tensor:
    """(B, T), True where the logits of :func:`random_inputs` belong to a token and not to padding."""
    target = inputs.get("decoder_input_ids")
    return inputs["attention_mask"].bool() if target is None else torch.ones_like(target).bool()


def _random_ids(
    size: int, padding: int, shape: tuple[int, int], tokens: Sequence[int], generator: torch.Generator
) -> Tensor:
    """Random ids other than that of padding, as some originals derive the mask from the ids."""
    ids = torch.randint(0, max(size - 1, 1), shape, generator=generator)
    ids = ids + (ids >= padding) if size > 1 else ids
    known = [token for token in tokens if token < size][: shape[1] // 2]
    for row in ids:
        places = torch.randperm(max(shape[1] - _PADDING, 1), generator=generator)[: len(known)]
        row[places] = torch.tensor(known[: len(places)], dtype=row.dtype)
    return ids


def _special_tokens(model: Model, config: Mapping[str, Any], folder: Path) -> tuple[list[int], list[tuple[str, int]]]:
    """The special tokens of a config and its tokenizer but padding, and those that the vocabulary does not have."""
    named = [(key, one) for key, value in config.items() if key.endswith("_token_id") for one in as_list(value)]
    if has_file(folder, _TOKENIZER):
        added = read_json(file_in(folder, _TOKENIZER, MAX_TOKENIZER), MAX_TOKENIZER).get("added_tokens")
        special = [one for one in as_list(added) if isinstance(one, dict) and one.get("special")]
        named += [(str(one.get("content")), one.get("id")) for one in special]
    padding = config.get("pad_token_id", 0)
    tokens = [(name, token) for name, token in named if type(token) is int and token not in (padding, -1)]
    outside = [(name, token) for name, token in tokens if not 0 <= token < model.vocab_size]
    return list(dict.fromkeys(token for _, token in tokens if 0 <= token < model.vocab_size)), outside


def _mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every mapping in a recipe."""
    if isinstance(value, Mapping):
        mapping = cast("Mapping[str, Any]", value)
        yield mapping
        for inner in mapping.values():
            yield from _mappings(inner)
    elif isinstance(value, list | tuple):
        for inner in cast("Sequence[Any]", value):
            yield from _mappings(inner)


def _sizes(part: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    yield from ((key, value) for key, value in part.items() if key in _REACHES and type(value) is int)
