"""Write texts a token at a time."""

from collections.abc import Iterator, Sequence

import torch

from blockformer.generation.lists import integers
from blockformer.generation.sampling import Choose, greedy
from blockformer.generation.session import Writer, room
from blocks.models.base import Model

Step = list[int | None]
"""The new token of each row; None for a row that has ended."""


@torch.inference_mode()
def stream(
    model: Model,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sources: Sequence[Sequence[int]] | None = None,
    eos: int | None = None,
    choose: Choose = greedy,
    use_cache: bool = True,
) -> Iterator[Step]:
    """Continue prompts, giving each token as soon as it is chosen.

    A row ends where it chooses ``eos`` (which is not given), after ``max_new_tokens``, or when the model has been fed
    ``max_length`` tokens of it. Rows do not disturb each other: greedily each gets what it would get alone.

    Args:
        model: decoder_only or encoder_decoder, in evaluation mode.
        prompts: B rows of at least one id; for an encoder_decoder its target's beginning, usually a start token.
        max_new_tokens: most tokens that a row gets.
        sources: B rows of ids for an encoder_decoder to read.
        eos: the id that ends a text; None: none does.
        choose: the most probable token, or a :func:`~blockformer.generation.sampling.sampler`.
        use_cache: remember keys and values instead of running the whole text at each step; the tokens are the same.

    Yields:
        One :data:`Step` of B entries.

    Raises:
        ValueError: a prompt is empty or too long, or the model cannot write.
    """
    writer = Writer(model, prompts, sources, use_cache=use_cache)
    left: dict[int, int] = {row: room(model, prompt, max_new_tokens) for row, prompt in enumerate(prompts)}
    logits = writer.begin()
    while left:
        chosen = choose(logits)
        step = dict(zip(left, integers(chosen), strict=True))
        yield [None if step.get(row) == eos else step.get(row) for row in range(len(prompts))]
        left = {row: left[row] - 1 for row, token in step.items() if token != eos and left[row] > 1}
        if 0 < len(left) < len(step):  # rows that have ended cost no more
            kept = torch.tensor([place for place, row in enumerate(step) if row in left], device=writer.device)
            writer.keep(kept)
            chosen = chosen[kept]
        if left:
            logits = writer.advance(chosen)


def generate(
    model: Model,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sources: Sequence[Sequence[int]] | None = None,
    eos: int | None = None,
    choose: Choose = greedy,
    use_cache: bool = True,
) -> list[list[int]]:
    """The new tokens of each row, all at once; arguments and errors as in :func:`stream`."""
    texts: list[list[int]] = [[] for _ in prompts]
    steps = stream(
        model, prompts, max_new_tokens=max_new_tokens, sources=sources, eos=eos, choose=choose, use_cache=use_cache
    )
    for step in steps:
        for text, token in zip(texts, step, strict=True):
            if token is not None:
                text.append(token)
    return texts
