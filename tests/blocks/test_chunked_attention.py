"""Attention within chunks, and its temperature."""

from typing import Any

import pytest
import torch
from torch import Tensor

from blocks.attention.softmax import MultiHeadAttention
from blocks.base import Cache, Context, Site
from registry import parse


def made(**params: Any) -> MultiHeadAttention:
    torch.manual_seed(0)
    block = parse("mixer", {"type": "attention", "heads": 4, "kv_heads": 2, "positions": "rotary", **params})(
        Site(dim=32)
    )
    assert isinstance(block, MultiHeadAttention)
    return block.eval()


def inputs(length: int) -> Tensor:
    return torch.randn(2, length, 32, generator=torch.Generator().manual_seed(1))


def decoded(block: MultiHeadAttention, x: Tensor, mask: Tensor | None = None) -> Tensor:
    cache, parts, start = Cache(1), [], 0
    for part in x.split([6, 1, 1, 7], dim=1):
        own = None if mask is None else mask[:, start : start + part.shape[1]]
        parts.append(block(part, Context.of(part, cache=cache, attention_mask=own)))
        cache.advance(part.shape[1])
        start += part.shape[1]
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_chunks_are_like_documents(backend: str) -> None:
    x, positions = inputs(15), torch.arange(15)[None]
    context = Context.of(x, documents=(positions // 4).expand(2, -1), positions=positions)
    expected = made()(x, context)
    torch.testing.assert_close(made(chunk=4, backend=backend)(x, Context.of(x)), expected, rtol=1e-4, atol=1e-5)


def test_chunks_count_from_the_start_of_a_document() -> None:
    block, x = made(chunk=4), inputs(15)
    documents = torch.tensor([[0] * 6 + [1] * 9] * 2)
    packed = block(x, Context.of(x, documents=documents))
    apart = torch.cat([block(part, Context.of(part)) for part in x.split([6, 9], dim=1)], dim=1)
    torch.testing.assert_close(packed, apart, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
def test_decodes_within_chunks_and_with_a_temperature(padded: bool) -> None:
    block, x = made(chunk=4, temperature=0.5, temperature_step=3), inputs(15)
    mask = torch.ones(2, 15, dtype=torch.bool)
    mask[0, :2] = mask[1, 9:11] = not padded
    whole = block(x, Context.of(x, attention_mask=mask))
    found = decoded(block, x, mask)
    torch.testing.assert_close(found[mask], whole[mask], rtol=1e-4, atol=1e-5)


def test_the_temperature_is_a_factor_on_queries() -> None:
    block, x = made(temperature=0.5, temperature_step=3, positions="none"), inputs(15)
    position = torch.arange(15)
    factor = 1 + 0.5 * torch.log1p(((position + 1) // 3).float())
    q, k, v = (one.repeat_interleave(4 // one.shape[1], 1) for one in (block.q(x), block.k(x), block.v(x)))
    scores = (q * factor[:, None]) @ k.transpose(2, 3) * block.head_dim**-0.5
    weights = scores.masked_fill(position > position[:, None], -torch.inf).softmax(-1)
    expected = block.out((weights @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(block(x, Context.of(x)), expected, rtol=1e-4, atol=1e-5)
