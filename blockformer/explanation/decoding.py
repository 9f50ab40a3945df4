"""What the cache keeps for the next token, and the states of recurrent mixers after each token."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from blockformer.explanation.explanation import CacheEntry
from blockformer.explanation.formulas import formula_of
from blockformer.explanation.sampling import Limits, chosen, sampled
from blockformer.explanation.steps import Step
from blockformer.explanation.subject import Subject
from blockformer.generation.session import DecodingSession
from blocks.base import Cache, Component, KeyValues, Stack
from blocks.models.base import Model
from registry import entry_of

Place = tuple[int, str, str]
"""Index of the layer, name of the state, name of the tensor."""


def kept_for_the_next_token(
    subject: Subject, rows: list[list[int]], logits: Tensor, limits: Limits
) -> tuple[list[Step], list[CacheEntry]]:
    """Read the text with a cache, up to each token that is kept, and then the most probable next token.

    Args:
        subject: what is explained.
        rows: ids of the source, in an encoder-decoder, and of the text.
        logits: (T, V) of the text.
        limits: what is kept of large values.

    Returns:
        The states of mixers that have a state of fixed size, over time; and what the cache keeps.
    """
    model, ids = subject.model, rows[-1]
    if model.kind == "encoder_only" or model.pooled or model.per_token or not model.allows("cache"):
        return [], []
    places = chosen(len(ids), "token", limits)
    if subject.bidirectional_prompt:
        places = [len(ids) - 1]
    sources = rows[:-1] or None
    prompt = [ids[: places[0] + 1]]
    session = DecodingSession(model, prompt, sources, bidirectional_prompt=subject.bidirectional_prompt)
    with _owners(model, session.cache) as owners:
        session.begin()
    over_time: dict[Place, list[Tensor]] = {}
    for number, at in enumerate(places):
        if number:
            session.extend(torch.tensor([ids[places[number - 1] + 1 : at + 1]], device=logits.device))
        for place, tensor in _fixed_states(session.cache):
            over_time.setdefault(place, []).append(tensor[0].float().cpu())
    before = _sizes(session.cache)
    if len(ids) < model.target_max_length:
        session.advance(logits[-1].argmax()[None])
    cache = list(_entries(before, session.cache))
    return [
        _state_step(subject, place, tensors, places, limits, owners.get(place[:2]))
        for place, tensors in over_time.items()
    ], cache


@contextmanager
def _owners(model: Model, cache: Cache | None) -> Generator[dict[tuple[int, str], Component]]:
    """Which block makes each state of a cache, by layer and name, while the model reads its first tokens."""
    found: dict[tuple[int, str], Component] = {}
    running: list[Component] = []

    def look() -> None:
        for layer, states in enumerate(cache.layers if cache and running else ()):
            for name in states:
                found.setdefault((layer, name), running[-1])

    def begin(block: Any, _: object) -> None:
        look()
        running.append(block)

    def end(*_: object) -> None:
        look()
        running.pop()

    handles: list[Any] = []
    for block in model.modules():
        if isinstance(block, Component):
            handles += [block.register_forward_pre_hook(begin), block.register_forward_hook(end)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _fixed_states(cache: Cache | None) -> Iterator[tuple[Place, Tensor]]:
    """The tensors of all states that are no keys and values; of a short convolution's inputs none."""
    for layer, states in enumerate(cache.layers if cache else ()):
        for name, state in states.items():
            if not isinstance(state, KeyValues):
                for part, tensor in vars(state).items():
                    if isinstance(tensor, Tensor) and tensor.is_floating_point() and part != "recent":
                        yield (layer, name, part), tensor


def _sizes(cache: Cache | None) -> dict[tuple[int, str], int]:
    return {
        (layer, name): _size(state)
        for layer, states in enumerate(cache.layers if cache else ())
        for name, state in states.items()
    }


def _size(state: Any) -> int:
    """The number of elements in use."""
    tensors = [tensor for tensor in vars(state).values() if isinstance(tensor, Tensor)]
    if isinstance(state, KeyValues):
        return sum(tensor[:, :, : state.end].numel() for tensor in tensors)
    return sum(tensor.numel() for tensor in tensors)


def _entries(before: dict[tuple[int, str], int], cache: Cache | None) -> Iterator[CacheEntry]:
    for (layer, name), size in _sizes(cache).items():
        state: Any = cache.layers[layer][name] if cache else None
        tokens = state.end if isinstance(state, KeyValues) else None
        yield CacheEntry(layer, name, type(state).__name__, before.get((layer, name), 0), size, tokens)


def _state_step(
    subject: Subject, place: Place, tensors: list[Tensor], places: list[int], limits: Limits, owner: Component | None
) -> Step:
    layer, name, part = place
    stack_path, stack = [(path, one) for path, one in subject.model.components() if isinstance(one, Stack)][-1]
    paths = {block: path for path, block in subject.model.named_modules()}
    path = f"{stack_path}.layers.{layer // stack.repeats}.{name}" if owner is None else paths[owner]
    declared = None if owner is None else owner.intermediates.get(part)
    whole = torch.stack(tensors)
    axes = tuple(f"axis {number}" for number in range(1, whole.ndim)) if declared is None else declared.axes
    if len(axes) != whole.ndim - 1:
        axes = tuple(f"axis {number}" for number in range(1, whole.ndim))
    value = sampled(whole, ("token", *axes), limits)
    texts = 1 if subject.model.kind == "encoder_decoder" else 0
    value = type(value)(value.axes, (places[-1] + 1, *value.shape[1:]), (tuple(places), *value.index[1:]), value.data)
    return Step(
        path,
        "" if owner is None else f"{owner.slot.name}/{entry_of(type(owner)).name}",
        part,
        value,
        "What the block keeps of the text up to this token." if declared is None else declared.caption,
        formula_of(owner, declared) if declared is not None and owner is not None else "",
        "" if owner is None else owner.paper,
        texts,
        texts,
        stack_path,
        layer,
    )
