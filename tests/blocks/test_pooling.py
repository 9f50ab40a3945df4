"""Poolings against loops over the rows, and heads that pool."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import blockformer as bf
from blocks.base import Context, Site
from registry import RecipeError, entries, parse

SITE = Site(dim=8, max_length=16, causal=False)
LENGTHS = (1, 4, 6)
BY_HAND: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "first": lambda block, row: row[0],
    "last": lambda block, row: row[-1],
    "mean": lambda block, row: torch.stack([vector / len(row) for vector in row]).sum(0),
    "max": lambda block, row: torch.stack([torch.stack([v[k] for v in row]).max() for k in range(row.shape[1])]),
    "attention": lambda block, row: _weighted(
        row, [(block.score.weight[0] * (block.project.weight @ v + block.project.bias).tanh()).sum() for v in row]
    ),
}


def _weighted(row: Tensor, scores: list[Tensor]) -> Tensor:
    total = sum(score.exp() for score in scores)
    return torch.stack([score.exp() / total * vector for score, vector in zip(scores, row, strict=True)]).sum(0)


def rows(side: str) -> tuple[list[Tensor], Tensor, Tensor]:
    """Rows of vectors, and the same in one batch with padding of large random vectors, and its mask."""
    torch.manual_seed(0)
    found = [torch.randn(length, 8) for length in LENGTHS]
    batch, mask = 100 * torch.randn(3, max(LENGTHS) + 2, 8), torch.zeros(3, max(LENGTHS) + 2, dtype=torch.bool)
    for number, row in enumerate(found):
        start = {"left": batch.shape[1] - len(row), "right": 0, "both": 1}[side]
        batch[number, start : start + len(row)] = row
        mask[number, start : start + len(row)] = True
    return found, batch, mask


def test_every_pooling_has_a_loop_to_be_compared_with() -> None:
    assert set(BY_HAND) == {name for name, entry in entries("pooling").items() if "blocks." in entry.block.__module__}


@pytest.mark.parametrize("side", ["left", "right", "both"])
@pytest.mark.parametrize("name", BY_HAND)
def test_a_padded_batch_gives_what_a_loop_over_the_tokens_of_each_row_gives(name: str, side: str) -> None:
    torch.manual_seed(1)
    block = parse("pooling", name)(SITE)
    found, batch, mask = rows(side)
    wanted = torch.stack([BY_HAND[name](block, row) for row in found])
    torch.testing.assert_close(block(batch, Context.of(batch, attention_mask=mask)), wanted)
    torch.testing.assert_close(block(found[2][None], Context.of(found[2][None])), wanted[2:])


def test_a_head_projects_what_was_pooled_and_transformed() -> None:
    head = {"type": "pooled", "pooling": "first", "transform": "dense", "outputs": 3}
    model = bf.build("tiny_encoder", {"head": head}).eval()
    tokens, mask = torch.randint(260, (2, 7)), torch.ones(2, 7, dtype=torch.bool)
    mask[1, 5:] = False
    own = dict(model.head.named_parameters())
    first = model.encode(tokens, attention_mask=mask)[:, 0]
    hidden = (first @ own["transform.project.weight"].T + own["transform.project.bias"]).tanh()
    wanted = hidden @ own["output.weight"].T + own["output.bias"]
    torch.testing.assert_close(model(tokens, attention_mask=mask), wanted)
    torch.testing.assert_close(model(tokens, attention_mask=mask, hidden=True), first)
    assert model.pooled


def test_a_head_without_outputs_gives_the_vector_of_the_text() -> None:
    model = bf.build("tiny_encoder", {"head": "pooled"}).eval()
    tokens = torch.randint(260, (2, 7))
    assert model.head.values == 32
    assert not list(model.head.parameters())
    torch.testing.assert_close(model(tokens), model.encode(tokens).mean(1))


def test_the_first_token_is_refused_where_it_sees_no_other() -> None:
    with pytest.raises(RecipeError, match=r"pooling.*'first'.*causal"):
        bf.build("tiny_decoder", {"head": {"type": "pooled", "pooling": "first"}})
    tokens = torch.randint(260, (1, 7))
    model = bf.build("tiny_decoder", {"head": {"type": "pooled", "pooling": "last", "outputs": 2}}).eval()
    changed = tokens.clone()
    changed[0, 0] += 1 if changed[0, 0] < 259 else -1
    assert not torch.equal(model(tokens), model(changed))


def test_several_documents_and_decoding_are_refused() -> None:
    model = bf.build("tiny_decoder", {"head": "pooled"}).eval()
    tokens = torch.randint(260, (1, 7))
    with pytest.raises(ValueError, match="does not support packed documents"):
        model(tokens, documents=torch.zeros(1, 7, dtype=torch.long))
    with pytest.raises(ValueError, match="does not support decoding with a cache"):
        model(tokens, cache=model.new_cache())
