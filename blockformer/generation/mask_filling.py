"""Prediction of masked tokens by an encoder."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from blockformer.generation.sampling import checked
from blocks.models.base import Model


@dataclass(frozen=True)
class FilledMask:
    """One mask token that was replaced.

    Attributes:
        position: its index in the sequence.
        token: the token that replaced it.
        candidates: the most probable tokens and their probabilities when it was replaced, best first.
    """

    position: int
    token: int
    candidates: tuple[tuple[int, float], ...]


@torch.inference_mode()
def fill_masks(model: Model, tokens: Sequence[int], mask: int, *, top: int = 5) -> tuple[list[int], list[FilledMask]]:
    """Replace mask tokens one at a time, the most certain prediction first.

    Each replacement is input for the predictions that follow, so neighbouring tokens agree; predicting all masks at
    once does not ensure that (Ghazvininejad et al., 2019, arXiv:1904.09324, revise such predictions instead).

    Args:
        model: encoder_only, in evaluation mode.
        tokens: ids of the sequence, with ``mask`` at the positions to predict.
        mask: the id of the mask token; it is never predicted.
        top: number of candidates to return for each mask.

    Returns:
        The sequence without masks, and what replaced them, by position.

    Raises:
        ValueError: the sequence has no mask or is too long, or the model is no encoder.
    """
    _check(model, tokens, mask)
    sequence = torch.tensor([tokens], device=next(model.parameters()).device)
    filled: list[FilledMask] = []
    while len(open_positions := (sequence[0] == mask).nonzero()[:, 0]):
        logits = checked(model(sequence)[0, open_positions].float())  # (open, V)
        logits[:, mask] = float("-inf")
        probabilities = logits.softmax(dim=-1)
        surest = int(probabilities.amax(dim=-1).argmax())
        best = probabilities[surest].topk(min(top, probabilities.shape[-1]))
        candidates = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        one = FilledMask(int(open_positions[surest]), candidates[0][0], candidates)
        sequence[0, one.position] = one.token
        filled.append(one)
    return sequence[0].tolist(), sorted(filled, key=lambda one: one.position)


def _check(model: Model, tokens: Sequence[int], mask: int) -> None:
    if model.kind != "encoder_only":
        raise ValueError(f"a model of kind {model.kind} cannot predict masked tokens; use encoder_only")
    if model.pooled:
        raise ValueError("the model's head pools, so it gives one row for each text and cannot predict masked tokens")
    if model.per_token:
        raise ValueError("the model's head gives some values for each token, not logits of ids: it cannot predict them")
    if model.training:
        raise ValueError("the model is in training mode, where dropout is active: call model.eval() first")
    if mask not in tokens:
        raise ValueError(f"the sequence has no mask token (id {mask}), so there is nothing to predict")
    if len(tokens) > model.max_length:
        raise ValueError(f"the sequence has {len(tokens)} tokens, but the model's max_length is {model.max_length}")
