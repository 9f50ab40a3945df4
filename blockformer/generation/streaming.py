"""Generation token by token."""

from collections.abc import Iterator, Sequence

import torch

from blockformer.generation.sampling import TokenChooser, greedy
from blockformer.generation.session import DecodingSession, Ends, ending, token_budget
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
    eos: Ends = None,
    choose: TokenChooser = greedy,
    use_cache: bool = True,
    bidirectional_prompt: bool = False,
    prompt_chunk: int | None = None,
    compiled: bool = False,
) -> Iterator[Step]:
    """Continue prompts and yield each token as soon as it is chosen.

    A row ends at an id of ``eos`` (which is not yielded), after ``max_new_tokens``, or when its input reaches the
    model's ``max_length``. Rows do not influence each other: greedily, each gets the tokens that it would get alone.

    Args:
        model: decoder_only or encoder_decoder, in evaluation mode.
        prompts: B rows of at least one id; for an encoder_decoder the beginning of the target, usually a start token.
        max_new_tokens: most new tokens a row.
        sources: B rows of ids for the encoder of an encoder_decoder.
        eos: the id that ends a row, or several of which each does; None: none does.
        choose: :func:`~blockformer.generation.sampling.greedy`, or a
            :class:`~blockformer.generation.sampling.Sampler`.
        use_cache: keep keys and values instead of running the whole rows at each step; the tokens are the same.
        bidirectional_prompt: as in :class:`~blockformer.generation.session.DecodingSession`.
        prompt_chunk: as in :class:`~blockformer.generation.session.DecodingSession`.
        compiled: compile the steps after the prompts, which pays off for many tokens. Rows that have ended are
            computed on then, so that a sampler draws for them too.

    Yields:
        One :data:`Step` of B entries.

    Raises:
        ValueError: a prompt is empty or too long, or the model cannot generate.
    """
    left: dict[int, int] = {row: token_budget(model, prompt, max_new_tokens) for row, prompt in enumerate(prompts)}
    session = DecodingSession(
        model,
        prompts,
        sources,
        use_cache=use_cache,
        bidirectional_prompt=bidirectional_prompt,
        prompt_chunk=prompt_chunk,
        compile_for=max(left.values(), default=1) if compiled else None,
    )
    ends, logits, batch = ending(eos), session.begin(), list(left)
    while left:
        chosen = choose(logits)
        step = {row: token for row, token in zip(batch, chosen.tolist(), strict=True) if row in left}
        yield [None if step.get(row) in ends else step.get(row) for row in range(len(prompts))]
        left = {row: left[row] - 1 for row, token in step.items() if token not in ends and left[row] > 1}
        if 0 < len(left) < len(batch) and not session.rows_are_fixed:  # ended rows need no further computation
            kept = torch.tensor([index for index, row in enumerate(batch) if row in left], device=session.device)
            session.keep(kept)
            chosen, batch = chosen[kept], list(left)
        if left:
            logits = session.advance(chosen)


def generate(
    model: Model,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sources: Sequence[Sequence[int]] | None = None,
    eos: Ends = None,
    choose: TokenChooser = greedy,
    use_cache: bool = True,
    bidirectional_prompt: bool = False,
    prompt_chunk: int | None = None,
    compiled: bool = False,
) -> list[list[int]]:
    """The new tokens of each row, all at once; arguments and errors as in :func:`stream`."""
    rows: list[list[int]] = [[] for _ in prompts]
    steps = stream(
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        sources=sources,
        eos=eos,
        choose=choose,
        use_cache=use_cache,
        bidirectional_prompt=bidirectional_prompt,
        prompt_chunk=prompt_chunk,
        compiled=compiled,
    )
    for step in steps:
        for row, token in zip(rows, step, strict=True):
            if token is not None:
                row.append(token)
    return rows
