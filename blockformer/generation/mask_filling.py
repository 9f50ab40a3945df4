"""Fill in blanks from both sides."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blockformer.generation.lists import integers, numbers
from blocks.models.base import Model


@dataclass(frozen=True)
class Blank:
    """A blank that was filled.

    Attributes:
        place: its index in the text.
        token: what was put there.
        candidates: the most probable tokens and their probabilities when it was filled, best first; ``token`` leads.
    """

    place: int
    token: int
    candidates: tuple[tuple[int, float], ...]


@torch.inference_mode()
def fill(model: Model, tokens: Sequence[int], mask: int, *, top: int = 5) -> tuple[list[int], list[Blank]]:
    """Fill the blanks of a text one at a time, that of which the model is surest first.

    What is filled in counts as text for the other blanks, so that neighbours fit each other, as they need not if all
    are filled at once (Ghazvininejad et al., 2019, arXiv:1904.09324, revise such guesses instead).

    Args:
        model: encoder_only, in evaluation mode.
        tokens: ids of the text, ``mask`` at its blanks.
        mask: the id that stands for a blank; it is never filled in.
        top: number of candidates to report for each blank.

    Returns:
        The text without blanks, and the blanks in their order in the text.

    Raises:
        ValueError: the text has no blank or is too long, or the model cannot fill in.
    """
    _check(model, tokens, mask)
    text = torch.tensor([tokens], device=next(model.parameters()).device)
    filled: list[Blank] = []
    while len(open_places := (text[0] == mask).nonzero()[:, 0]):
        probabilities = _probabilities(model, text, mask)[open_places]
        surest = int(probabilities.amax(dim=-1).argmax())
        best = probabilities[surest].topk(min(top, probabilities.shape[-1]))
        candidates = tuple(zip(integers(best.indices), numbers(best.values), strict=True))
        blank = Blank(int(open_places[surest]), candidates[0][0], candidates)
        text[0, blank.place] = blank.token
        filled.append(blank)
    return integers(text[0]), sorted(filled, key=lambda blank: blank.place)


def _probabilities(model: Model, text: Tensor, mask: int) -> Tensor:
    """(T, V) of the tokens at each place, the blank's own left out."""
    logits = model(text)[0].float()
    logits[:, mask] = float("-inf")
    return logits.softmax(dim=-1)


def _check(model: Model, tokens: Sequence[int], mask: int) -> None:
    if model.kind != "encoder_only":
        raise ValueError(f"a model of kind {model.kind} does not fill in blanks")
    if model.training:
        raise ValueError("the model is in training mode, where dropout changes its answers: call model.eval() first")
    if mask not in tokens:
        raise ValueError("the text has no blank to fill in")
    if len(tokens) > model.max_length:
        raise ValueError(f"the text has {len(tokens)} tokens, but the model's max_length is {model.max_length}")
