"""Beam search: the texts that a model finds most probable, looked for a token at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor

from blockformer.generation.search import Hypothesis, Search
from blockformer.generation.session import Writer, room
from blocks.models.base import Model


@torch.inference_mode()
def beam_search(
    model: Model,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sources: Sequence[Sequence[int]] | None = None,
    eos: int | None = None,
    beams: int = 4,
    best: int = 1,
    alpha: float = 0.6,
    use_cache: bool = True,
) -> list[list[Hypothesis]]:
    """For each prompt the best continuations found, best first (Wu et al., 2016, arXiv:1609.08144, section 7).

    Each step extends all that is on the beam by every token and keeps the most probable. A text that ends leaves the
    beam, which becomes narrower by it; so one beam is greedy decoding, and a beam wide enough for all texts misses
    none. The search for a prompt is over when nothing on its beam can come among the ``best`` that have ended. Texts
    cut off by the limits of :func:`~blockformer.generation.streaming.stream` come after those that ended. The paper's
    coverage penalty is left out.

    Args:
        model: decoder_only or encoder_decoder, in evaluation mode.
        prompts: B rows of at least one id; for an encoder_decoder its target's beginning, usually a start token.
        max_new_tokens: most tokens of a continuation, the ending one included.
        sources: B rows of ids for an encoder_decoder to read.
        eos: the id that ends a text; None: none does, and the best of the longest texts are found.
        beams: texts kept at each step, at least 1.
        best: how many texts are wanted for each prompt, at most ``beams``; more may be found.
        alpha: exponent of :func:`~blockformer.generation.search.length_penalty`, at least 0.
        use_cache: remember keys and values instead of running the whole text at each step; the result is the same.

    Raises:
        ValueError: a prompt is empty or too long, the model cannot write, or a number is out of its range.
    """
    if beams < 1 or alpha < 0:
        raise ValueError(f"beams={beams} must be at least 1, and alpha={alpha} at least 0")
    if not 1 <= best <= beams:
        raise ValueError(f"a search with beams={beams} cannot find the best={best} texts")
    writer = Writer(model, prompts, sources, use_cache=use_cache)
    searches = [Search(room(model, prompt, max_new_tokens), beams, alpha, eos, best) for prompt in prompts]
    going, logits = searches, writer.begin()
    while going:
        parents, tokens = _step(going, logits.float().log_softmax(dim=-1))
        going = [search for search in going if search.beam]
        if going:
            writer.keep(torch.tensor(parents, device=writer.device))
            logits = writer.advance(torch.tensor(tokens, device=writer.device))
    return [search.ranking() for search in searches]


def _step(searches: list[Search], log_probabilities: Tensor) -> tuple[list[int], list[int]]:
    """Extend every beam by one token; the rows, and their new tokens, that are on the beams afterwards."""
    parents: list[int] = []
    chosen: list[int] = []
    start = 0
    for search in searches:
        end = start + len(search.beam)
        for parent, token in search.extend(log_probabilities[start:end]):
            parents.append(start + parent)
            chosen.append(token)
        start = end
    return parents, chosen
