"""Differential attention, against its formula."""

import torch

import blockformer as bf
from blockformer.conformance import BlockCase
from blocks.attention.differential import DifferentialAttention
from blocks.base import Cache, Context


def made(**params: object) -> DifferentialAttention:
    block = BlockCase("mixer", "differential", {"heads": 4, "kv_heads": 2, **params}).build_perturbed()
    assert isinstance(block, DifferentialAttention)
    return block.float().eval()


def inputs(dim: int, length: int = 9) -> torch.Tensor:
    return torch.randn(2, length, dim, generator=torch.Generator().manual_seed(0))


def test_is_the_difference_of_two_softmaxes() -> None:
    block = made()
    assert block.site is not None
    x = inputs(block.site.dim)
    later = torch.ones(9, 9).triu(1).bool()
    found = []
    for head in range(4):
        q, k, v = block.q(x)[:, head], block.k(x)[:, head // 2], block.v(x)[:, head // 2]
        maps = [
            (a @ b.transpose(1, 2) * block.head_dim**-0.5).masked_fill(later, -torch.inf).softmax(-1)
            for a, b in zip(q.chunk(2, dim=-1), k.chunk(2, dim=-1), strict=True)
        ]
        factor = (block.a1 @ block.b1).exp() - (block.a2 @ block.b2).exp() + block.initial
        found.append((1 - block.initial) * block.norm((maps[0] - factor * maps[1]) @ v))
    expected = block.out(torch.cat(found, dim=-1))
    torch.testing.assert_close(block(x, Context.of(x)), expected, rtol=1e-4, atol=1e-5)


def test_decodes_from_the_cache_with_a_window_and_rotation() -> None:
    block = made(window=4, positions="rotary")
    assert block.site is not None
    x, cache = inputs(block.site.dim), Cache(1)
    parts = []
    for part in (x[:, :5], x[:, 5:6], x[:, 6:]):
        parts.append(block(part, Context.of(part, cache=cache)))
        cache.advance(part.shape[1])
    torch.testing.assert_close(torch.cat(parts, dim=1), block(x, Context.of(x)), rtol=1e-4, atol=1e-5)


def test_its_vectors_start_as_published_whatever_the_init_is() -> None:
    mixer = {"type": "differential", "heads": 2, "head_dim": 256}
    models = [
        bf.build(
            {
                "type": "decoder_only",
                "dim": 32,
                "vocab_size": 40,
                "max_length": 8,
                "init": init,
                "decoder": {"depth": 2, "layer": {"mixer": mixer}},
            },
            seed=seed,
        )
        for init, seed in (("normal", 0), ("xavier", 0), ("normal", 1))
    ]
    drawn, xavier, other_seed = ({n: p for n, p in model.named_parameters() if ".a1" in n} for model in models)
    assert len(drawn) == 2
    for name, values in drawn.items():
        assert 0.08 < float(values.detach().std()) < 0.12
        assert torch.equal(values, xavier[name])
        assert not torch.equal(values, other_seed[name])
