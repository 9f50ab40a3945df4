"""Section 3.2 of "Attention Is All You Need", statement by statement."""

import torch
from torch import Tensor

import blockformer as bf
from blockformer.conformance import BlockCase
from blocks.attention.cross import CrossAttention
from blocks.attention.softmax import MultiHeadAttention
from blocks.base import Context, Site


def attention(**params: object) -> MultiHeadAttention:
    made = BlockCase("mixer", "attention", {"heads": 4, **params}).build_perturbed()
    assert isinstance(made, MultiHeadAttention)
    return made


def tokens(time: int = 6) -> Tensor:
    return torch.randn(2, time, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def softmax_and_gradient(width: int, scale: float) -> tuple[float, float]:
    """The median query's largest weight, and the size of its gradient by the scores."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(64, 16, width, generator=generator) for _ in "qk")
    scores = (q @ k.transpose(-2, -1) * scale).requires_grad_()
    weights = scores.softmax(-1)
    (weights * torch.randn(weights.shape, generator=generator)).sum().backward()
    assert scores.grad is not None
    return float(weights.detach().max(-1).values.median()), float(scores.grad.norm(dim=-1).median())


def test_dot_products_of_unit_vectors_have_variance_d() -> None:
    generator = torch.Generator().manual_seed(0)
    for width in (4, 64, 1024):
        q, k = (torch.randn(4096, width, generator=generator) for _ in "qk")
        torch.testing.assert_close((q * k).sum(-1).var() / width, torch.tensor(1.0), rtol=0.1, atol=0.0)


def test_without_the_scale_the_softmax_saturates_and_its_gradient_vanishes() -> None:
    calm, useful = softmax_and_gradient(1024, 1024**-0.5)
    sure, vanishing = softmax_and_gradient(1024, 1.0)
    assert calm < 0.5 < 0.95 < sure, "one key takes nearly all of the weight"
    assert vanishing < useful / 1000


def test_with_the_scale_the_width_of_a_head_does_not_matter() -> None:
    weights, gradients = zip(*(softmax_and_gradient(width, width**-0.5) for width in (16, 1024)), strict=True)
    assert abs(weights[0] - weights[1]) < 0.05
    assert 0.8 < gradients[0] / gradients[1] < 1.25


def test_attention_divides_by_the_root_of_a_head_s_width() -> None:
    assert attention().scale == (32 / 4) ** -0.5
    assert attention(head_dim=16).scale == 16**-0.5


def test_heads_side_by_side_have_the_shape_of_the_input() -> None:
    for heads in (1, 2, 4, 8):
        block = attention(heads=heads)
        assert block.head_dim * heads == 32
        assert block(tokens(), Context.of(tokens())).shape == tokens().shape


def test_many_heads_cost_what_one_head_of_full_width_costs() -> None:
    sizes = {sum(p.numel() for p in attention(heads=heads).parameters()) for heads in (1, 2, 4, 8)}
    assert sizes == {4 * 32 * 32}


def test_each_head_looks_in_its_own_way() -> None:
    block, x = attention(), tokens()
    q, k = block.q(x), block.k(x)
    weights = (q @ k.transpose(-2, -1) * block.scale).softmax(-1)  # (B, H, T, S)
    assert all(not torch.allclose(weights[:, 0], weights[:, head], atol=0.05) for head in range(1, 4))


def test_an_output_is_a_mean_of_values_so_it_stays_among_them() -> None:
    block, x = attention(heads=1), tokens()
    with torch.no_grad():
        block.out.weight.copy_(torch.eye(32))
        values = block.v(x).squeeze(1)
        y = block(x, Context.of(x))
    assert bool((y <= values.cummax(1).values + 1e-9).all())
    assert bool((y >= values.cummin(1).values - 1e-9).all())


def test_the_mask_hides_the_future_before_the_softmax_so_weights_still_add_up_to_one() -> None:
    block, x = attention(), tokens()
    with torch.no_grad():
        block.v.weight.zero_(), block.out.weight.copy_(torch.eye(32))
        block.v.bias = torch.nn.Parameter(torch.ones(32, dtype=torch.float64))
    torch.testing.assert_close(block(x, Context.of(x)), torch.ones_like(x))  # every value is 1, so every mean is


def test_attention_is_used_in_three_ways() -> None:
    model = bf.build("tiny_encoder_decoder")
    encoder, decoder = model.encoder.layers[0], model.decoder.layers[0]
    assert isinstance(encoder.mixer, MultiHeadAttention)
    assert not encoder.mixer.causal, "an encoder's token attends to the whole source"
    assert isinstance(decoder.mixer, MultiHeadAttention)
    assert decoder.mixer.causal, "a decoder's token attends to itself and earlier tokens"
    assert isinstance(decoder.cross, CrossAttention), "and to the encoder's output"


def test_cross_attention_takes_queries_from_the_decoder_and_keys_and_values_from_the_encoder() -> None:
    block = BlockCase("mixer", "cross_attention", {"heads": 4}, "cross").build_perturbed()
    assert isinstance(block, CrossAttention)
    site = block.site
    assert isinstance(site, Site)
    assert (block.q.in_features, block.k.in_features, block.v.in_features) == (32, site.memory_dim, site.memory_dim)
    x, generator = tokens(), torch.Generator().manual_seed(1)
    context = Context.of(x)
    context.memory = torch.randn(2, 5, 24, generator=generator, dtype=torch.float64)
    before = block(x, context)
    changed = x.clone()
    changed[:, 3] += 1.0
    after = block(changed, context)
    same = (before == after).all(-1).all(0).tolist()
    assert same == [True, True, True, False, True, True], "each output depends on its own token and on no other"
