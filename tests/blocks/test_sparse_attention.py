"""Attention between blocks of tokens, to summaries of them and to important keys, against second implementations."""

import math

import torch
from torch import Tensor

from blockformer.conformance import BlockCase
from blocks.base import Context

DIM, TIME = 32, 13


def vectors() -> Tensor:
    return torch.randn(2, TIME, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_blocks_attend_to_the_first_the_last_and_their_neighbours() -> None:
    block = BlockCase("mixer", "block_sparse", {"heads": 2, "block": 2}, "bidirectional").build_perturbed()
    x, last = vectors(), 6
    seen = torch.zeros(TIME, TIME, dtype=torch.bool)
    for i in range(TIME):
        for j in range(TIME):
            a, b = i // 2, j // 2
            seen[i, j] = a in (0, last) or b in (0, last) or abs(a - b) < 2
    scores = (block.q(x) @ block.k(x).transpose(-2, -1) / 4).masked_fill(~seen, -torch.inf)
    y = (scores.softmax(-1) @ block.v(x)).transpose(1, 2).flatten(2)
    torch.testing.assert_close(block(x, Context.of(x)), block.out(y))


def test_random_blocks_are_drawn_in_training_and_the_first_one_in_evaluation() -> None:
    case = BlockCase("mixer", "block_sparse", {"heads": 2, "block": 2, "random": 1}, "bidirectional")
    block = case.build_perturbed()
    bias = block._bias(8, vectors())
    assert bias[0, 3, 0].item() == math.log(2)
    assert bias[0, 0].tolist() == [0.0] * 8
    block.train()
    drawn = block._bias(8, vectors())
    assert drawn.shape == (2, 8, 8)
    assert ((drawn == 0).sum(-1)[:, 2:6] == 6).all(), "itself, two neighbours, the first, the last and one more"


def test_tokens_attend_to_summaries_of_all_full_blocks() -> None:
    params = {"heads": 2, "radius": 2, "block": 4, "buckets": 4, "max_distance": 3}
    block = BlockCase("mixer", "transient_global", params, "bidirectional").build_perturbed()
    x, of = vectors(), [0] * 4 + [1] * 4 + [2] * 5  # the last token belongs to the last full block
    sums = torch.stack([sum((x[:, t] for t in range(TIME) if of[t] == g), torch.zeros(2, DIM)) for g in range(3)], 1)
    summaries = block.norm(sums)
    k, v = (torch.cat([part(x), part(summaries)], dim=2) for part in (block.k, block.v))
    scores = block.q(x) @ k.transpose(-2, -1) / 4
    index = torch.arange(TIME)
    far = (index[:, None] - index).abs() > 2
    scores[..., :TIME] = scores[..., :TIME].masked_fill(far, -torch.inf)
    distances = torch.arange(3) - torch.tensor(of)[:, None]
    scores[..., TIME:] += block.side.table(block.side.bucket(distances)).permute(2, 0, 1)
    y = block.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(block(x, Context.of(x)), y)


def test_the_most_important_keys_are_attended_to() -> None:
    block = BlockCase("mixer", "dynamic_mask", {"heads": 4, "kv_heads": 2, "keep": 5}).build_perturbed()
    x = vectors()
    v = block.v(x)
    important = torch.exp(block.rate * torch.nn.functional.softplus(block.importance(v.transpose(1, 2).flatten(2))))
    weights = torch.zeros(2, 4, TIME, TIME, dtype=torch.float64)
    for b in range(2):
        for h in range(4):
            for t in range(TIME):
                own = important[b, : t + 1, h // 2]
                seen = own.sort(descending=True).indices[:5]
                scores = block.k(x)[b, h // 2, seen] @ block.q(x)[b, h, t] * 8**-0.5 + own[seen]
                weights[b, h, t, seen] = scores.softmax(-1)
    y = (weights @ v.repeat_interleave(2, dim=1)).transpose(1, 2).flatten(2)
    torch.testing.assert_close(block(x, Context.of(x)), block.out(y))


def test_of_equally_important_keys_the_last_are_attended_to() -> None:
    block = BlockCase("mixer", "dynamic_mask", {"heads": 2, "keep": 3}).build_perturbed()
    with torch.no_grad():
        block.rate.zero_()
    near = BlockCase("mixer", "attention", {"heads": 2, "window": 3}).build_perturbed()
    near.load_state_dict(block.state_dict(), strict=False)
    torch.testing.assert_close(block(vectors(), Context.of(vectors())), near(vectors(), Context.of(vectors())))
