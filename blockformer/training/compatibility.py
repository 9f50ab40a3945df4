"""Checks that data, trainer and model fit each other, before training starts."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol, TypeGuard, cast

import torch

from blockformer.assembly.capabilities import blocks_by_key, blocks_without
from blockformer.data.datasets.base import Form
from blockformer.errors import UserError
from blockformer.training.objectives import Objective
from blockformer.training.score import IGNORED
from blocks.models.base import Model
from blocks.models.encoder_decoder import EncoderDecoder
from registry import Ability


class MismatchError(UserError):
    """Data, trainer and model do not fit each other; the message is one line that names what to change."""


class DescribedData(Protocol):
    """A data module whose fit to a model is known before its first batch.

    Attributes:
        form: what its data are.
        vocab_size: how many token ids there are.
        length: tokens in the longest row.
    """

    form: Form
    length: int

    @property
    def vocab_size(self) -> int:
        """How many token ids there are."""
        ...

    def configure(self, *, objective: Any) -> None:
        """Take the model's objective, which decides what the rows are."""
        ...


def is_described(data: Any) -> TypeGuard[DescribedData]:
    """Whether a data module is a :class:`DescribedData`; its other attributes may need the prepared text."""
    return all(hasattr(type(data), name) for name in ("configure", "vocab_size"))


def check_data(data: Any, model: Model, objective: Objective) -> None:
    """Set the data's objective, and check that the model can be trained on the data.

    Args:
        data: a data module; of one that is not a :class:`DescribedData` only the batches can be checked, see
            :func:`check_batch`.
        model: the model to train.
        objective: what the model is trained with.

    Raises:
        DataError: the objective cannot use the data.
        MismatchError: the data have more token ids than the model, longer rows, or another number of classes than its
            head; or one of the model's blocks does not support padding or documents.
    """
    if not is_described(data):
        return
    data.configure(objective=objective)
    if data.vocab_size > model.vocab_size:
        raise MismatchError(
            f"{_ids_of(data)} {data.vocab_size} token ids and the recipe's vocab_size is {model.vocab_size}: "
            f"set --recipe.vocab_size {data.vocab_size}, or change {_sizes_of(data)}"
        )
    for option, length in (("length", data.length), ("evaluation_length", getattr(data, "longest", data.length))):
        name, longest = model.length_limit
        if length > longest:
            raise MismatchError(
                f"data.{option} {length} is more than the recipe's {name} {longest}: "
                f"lower data.{option} or raise --recipe.{name}"
            )
    for ability, why in objective.abilities(data.form).items():
        if blocks := blocks_without(model, ability):
            raise MismatchError(f"{why}, which is not supported by {blocks}")
    if (refusal := objective.refusal(model, getattr(data, "classes", ()))) is not None:
        raise MismatchError(refusal)


def _ids_of(data: Any) -> str:
    tokenizer = getattr(data, "tokenizer", data)
    if tokenizer is None:
        return f"dataset {data.dataset} has"
    return "tokenizer and objective have" if data.vocab_size > tokenizer.vocab_size else "the tokenizer has"


def _sizes_of(data: Any) -> str:
    tokenizer = getattr(data, "tokenizer", data)
    if tokenizer is None:
        return "its options"
    return "--data.tokenizer" + (" or --data.vocab_size" if getattr(tokenizer, "kind", None) != "file" else "")


def check_trainer(trainer: Any) -> None:
    """Refuse a setting of the trainer that would change nothing.

    Raises:
        UserError: a way to clip gradients is chosen, and they are not clipped.
    """
    if trainer.gradient_clip_algorithm is not None and not trainer.gradient_clip_val:
        raise UserError(
            "trainer.gradient_clip_algorithm has no effect without clipping (trainer.gradient_clip_val is "
            f"{trainer.gradient_clip_val}): leave it out, or set gradient_clip_val"
        )


# The keys of a batch that hold token ids, and those that a block must be able to take.
_IDS = ("tokens", "source", "target", "positive", "targets")
_ASKED: Mapping[str, Ability] = {
    "attention_mask": "padding",
    "source_mask": "padding",
    "target_mask": "padding",
    "positive_mask": "padding",
    "documents": "documents",
    "prefix": "prefix",
}
_PLACES = {
    "tokens": "tokens",
    "source": "source",
    "source_mask": "source",
    "attention_mask": "tokens",
    "positive": "positive",
    "positive_mask": "positive",
}


def check_batch(batch: Any, model: Model, objective: Objective) -> None:
    """Check the first batch of a data module of the user's own.

    Args:
        batch: a mapping of tensors, from the data module's loader.
        model: the model to train.
        objective: what the model is trained with.

    Raises:
        MismatchError: the batch lacks a tensor, holds ids outside the vocabulary or rows longer than the model's
            ``max_length``, or has padding or documents that one of the model's blocks does not support.
    """
    needed = objective.keys
    keys = ", ".join(map(str, batch)) if isinstance(batch, Mapping) else type(batch).__name__
    if not isinstance(batch, Mapping) or any(not isinstance(batch.get(key), torch.Tensor) for key in needed):
        raise MismatchError(
            f"data: a {objective.name} batch maps {' and '.join(needed)} to tensors; this one has {keys}"
        )
    if objective.pooled:
        _check_labels(batch, model)
        batch = {key: value for key, value in batch.items() if key != "targets"}
    _check_shapes(batch)
    for key in (key for key in _IDS if key in batch):
        ids = batch[key]
        option, size = _vocabulary(model, key)
        if ids.numel() and (largest := int(ids.max())) >= size:
            raise MismatchError(
                f"data: {key} of the first batch holds id {largest}, and the recipe's {option} is {size}: "
                f"set --recipe.{option} {largest + 1} or more"
            )
        scored = ids[ids != IGNORED] if key == "targets" else ids
        if scored.numel() and (least := int(scored.min())) < 0:
            pad = f"places without a target have {IGNORED}" if key == "targets" else "pad with an id and a mask"
            raise MismatchError(f"data: {key} of the first batch holds id {least}; ids start at 0, {pad}")
        name, longest = ("max_length", model.max_length) if key == "source" else model.target_limit
        if ids.shape[-1] > longest:
            raise MismatchError(
                f"data: {key} of the first batch is {ids.shape[-1]} long, and the recipe's {name} is {longest}: "
                f"shorten the rows or raise --recipe.{name}"
            )
    for key, ability in _ASKED.items():
        if batch.get(key) is None or (ability == "padding" and bool(batch[key].all())):
            continue
        if blocks := blocks_without(model, ability):
            raise MismatchError(f"data: the first batch has {key}, which is not supported by {blocks}")


def _check_labels(batch: Mapping[str, Any], model: Model) -> None:
    """Check the targets of a batch for a model whose head pools.

    Raises:
        MismatchError: there is not one for each row, or a class has no output.
    """
    targets, rows = batch["targets"], len(batch["tokens"])
    if targets.shape != (rows,):
        raise MismatchError(
            f"data: targets of the first batch has the shape {tuple(targets.shape)}, and ({rows},) is needed: one for "
            "each row"
        )
    if not targets.is_floating_point() and rows and (largest := int(targets.max())) >= model.head.values:
        raise MismatchError(
            f"data: targets of the first batch holds class {largest}, and the recipe's head gives {model.head.values} "
            f"outputs: set --recipe.head.outputs {largest + 1} or more"
        )


def _check_shapes(batch: Mapping[str, Any]) -> None:
    """Check that the tensors of a batch have (B, T) places, and that those of the same text have the same ones.

    Raises:
        MismatchError: a tensor has another shape, or ids are not integers.
    """
    for key in (key for key in (*_IDS, *_ASKED) if batch.get(key) is not None):
        values, text = batch[key], batch.get(_PLACES.get(key, "target"), batch.get("tokens"))
        if values.ndim != 2 or not values.shape[1] or (text is not None and values.shape != text.shape):
            wanted = "(rows, tokens)" if text is None or text.ndim != 2 else str(tuple(text.shape))
            raise MismatchError(
                f"data: {key} of the first batch has the shape {tuple(values.shape)}, and {wanted} is needed"
            )
        accepted = (torch.int64,) if key == "targets" else (torch.int64, torch.int32)
        if key in _IDS and values.dtype not in accepted:
            raise MismatchError(f"data: {key} of the first batch is {values.dtype}; ids are integers (torch.int64)")


def _vocabulary(model: Model, key: str) -> tuple[str, int]:
    """The recipe key that sets the number of ids of a part of a batch, and that number."""
    if key == "source":
        size = cast("EncoderDecoder", model).embedding.table.shape[0]
        return ("vocab_size" if size == model.vocab_size else "source_vocab_size"), size
    return "vocab_size", model.vocab_size


def check_precision(precision: str, model: Model) -> None:
    """Check that the model can be trained in a precision of the trainer, such as ``bf16-mixed``.

    Raises:
        MismatchError: one of its blocks does not support it.
    """
    if precision.startswith("bf16") and (blocks := blocks_without(model, "bfloat16")):
        raise MismatchError(f"--trainer.precision {precision} is not supported by {blocks}; use 32-true")


def check_device(device: str, model: Model) -> None:
    """Check that the model can be trained on a kind of device, such as ``cpu``.

    Raises:
        MismatchError: the recipe chooses a backend that has no gradients there.
    """
    if device == "cpu" and (keys := backend_keys(model, "flex")):
        raise MismatchError(
            f"backend flex has no gradients on a CPU: set auto, eager or sdpa at {' and '.join(keys)}, or use a GPU"
        )


def backend_keys(model: Model, backend: str) -> list[str]:
    """The recipe keys of the blocks that are set to this backend."""
    chosen = (key for key, _, spec in blocks_by_key(model) if getattr(spec.params, "backend", None) == backend)
    return list(dict.fromkeys(f"{key}.backend" for key in chosen))


def remarks_on_data(data: Any, model: Model) -> Iterator[str]:
    """Notes on the data, and on the parts of the model that it leaves untrained."""
    if not is_described(data):
        return
    yield from notes_on_data(data, "train", "validation")
    if model.vocab_size > data.vocab_size:
        yield (
            f"{model.vocab_size - data.vocab_size:,} of {model.vocab_size:,} token ids are unused, because "
            f"{_ids_of(data)} {data.vocab_size:,}: --recipe.vocab_size {data.vocab_size} saves their rows"
        )
    fixed = [component for _, component in model.components() if not component.capabilities.any_length]
    name, longest = max((("max_length", model.max_length), model.target_limit), key=lambda limit: limit[1])
    if fixed and data.length < longest:
        yield (
            f"positions from {data.length:,} on are not trained, because data.length is {data.length:,} and {name} "
            f"is {longest:,}"
        )


def notes_on_data(data: Any, *splits: Literal["train", "validation", "test"]) -> Iterator[str]:
    """What the data module has to say about the text of some splits, if it has anything to say."""
    yield from data.notes(*splits) if hasattr(data, "notes") else ()
