"""Layers against torch's own, before and after the norm, in encoder and decoder."""

import pytest
import torch
from torch import Tensor, nn

from blockformer import build
from blockformer.conformance import BlockCase
from blocks.attention.cross import CrossAttention
from blocks.attention.softmax import MultiHeadAttention
from blocks.base import Context, Site
from blocks.layers.sequential import SequentialLayer

DIM, HEADS, HIDDEN = 32, 4, 48


def layer(*, norm_first: bool, cross: bool) -> SequentialLayer:
    attention = {"type": "attention", "heads": HEADS, "bias": True}
    residual = {"type": "pre" if norm_first else "post", "norm": "layer"}
    params = {
        "mixer": attention,
        "cross": {**attention, "type": "cross_attention"},
        "feedforward": {"type": "mlp", "hidden": HIDDEN, "activation": "gelu"},
        "residual": residual,
    }
    site = Site(dim=DIM, causal=cross, memory_dim=DIM if cross else None)
    made = BlockCase("layer", "sequential", params).spec(site)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.2)
    return made.double().eval()


def copy_attention(ours: MultiHeadAttention | CrossAttention, theirs: nn.MultiheadAttention) -> None:
    theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.k.weight, ours.v.weight]))
    theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.k.bias, ours.v.bias]))
    theirs.out_proj.load_state_dict(ours.out.state_dict())


@torch.no_grad()
def copy_layer(ours: SequentialLayer, theirs: nn.TransformerEncoderLayer | nn.TransformerDecoderLayer) -> None:
    copy_attention(ours.mixer, theirs.self_attn)
    sublayers = [ours.mixer_residual]
    if isinstance(theirs, nn.TransformerDecoderLayer):
        copy_attention(ours.cross, theirs.multihead_attn)
        sublayers.append(ours.cross_residual)
    sublayers.append(ours.feedforward_residual)
    for number, residual in enumerate(sublayers, start=1):
        getattr(theirs, f"norm{number}").load_state_dict(residual.norm.state_dict())
    theirs.linear1.load_state_dict(ours.feedforward.up.state_dict())
    theirs.linear2.load_state_dict(ours.feedforward.down.state_dict())


def vectors(time: int, seed: int) -> Tensor:
    return torch.randn(2, time, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("norm_first", [True, False], ids=["pre", "post"])
def test_an_encoder_layer_equals_torch_s(norm_first: bool) -> None:
    ours, x = layer(norm_first=norm_first, cross=False), vectors(6, 0)
    theirs = nn.TransformerEncoderLayer(
        DIM, HEADS, HIDDEN, dropout=0.0, activation="gelu", batch_first=True, norm_first=norm_first
    ).double()
    copy_layer(ours, theirs)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    expected = theirs(x, src_key_padding_mask=~mask)
    torch.testing.assert_close(ours(x, Context.of(x, attention_mask=mask))[mask], expected[mask])


@pytest.mark.parametrize("norm_first", [True, False], ids=["pre", "post"])
def test_a_decoder_layer_equals_torch_s(norm_first: bool) -> None:
    ours, x, memory = layer(norm_first=norm_first, cross=True), vectors(5, 0), vectors(7, 1)
    theirs = nn.TransformerDecoderLayer(
        DIM, HEADS, HIDDEN, dropout=0.0, activation="gelu", batch_first=True, norm_first=norm_first
    ).double()
    copy_layer(ours, theirs)
    mask = torch.tensor([[True] * 7, [True] * 3 + [False] * 4])
    context = Context.of(x)
    context.memory, context.memory_mask = memory, mask
    hidden = torch.ones(5, 5, dtype=torch.bool).triu(1)
    expected = theirs(x, memory, tgt_mask=hidden, memory_key_padding_mask=~mask)
    torch.testing.assert_close(ours(x, context), expected)


def test_what_only_reads_needs_no_cache() -> None:
    reading = build("tiny_encoder_decoder", {"encoder.layer.mixer": "fourier"})
    assert reading.allows("cache")
    assert not reading.allows("padding")


def test_stream_and_branch_have_learned_weights_and_shifts() -> None:
    block = BlockCase("residual", "weighted", {"branch": True, "shift": True, "norm": "layer"}).build_perturbed()
    x = torch.randn(2, 5, block.site.dim, dtype=torch.float64)
    update = torch.tanh(block.norm(x))
    expected = block.stream * (x + block.stream_shift) + block.branch * (update + block.branch_shift)
    torch.testing.assert_close(block(x, torch.tanh), expected)


def test_the_output_of_a_layer_has_a_learned_scale() -> None:
    case = BlockCase("layer", "sequential", {"mixer": {"type": "attention", "heads": 4}, "output_scale": True})
    block = case.build_perturbed()
    x = torch.randn(2, 5, block.site.dim, dtype=torch.float64)
    scaled, scale = block(x, Context.of(x)), block.output_scale
    block.output_scale = None
    assert scale.item() != 1.0
    torch.testing.assert_close(scaled, block(x, Context.of(x)) * scale)


def test_a_bottleneck_transforms_a_narrow_stream() -> None:
    params = {"narrow_width": 12, "feedforwards": 2, "mixer": {"type": "attention", "heads": HEADS}}
    block = BlockCase("layer", "bottleneck", params).build_perturbed()
    x = torch.randn(2, 5, DIM, dtype=torch.float64)
    y = block.norm(block.down(x))
    y = block.mixer_norm(y + block.mixer(x, Context.of(x)))
    for wiring, feedforward in zip(block.residuals, block.feedforwards, strict=True):
        y = wiring.norm(y + feedforward(y))
    assert y.shape == (2, 5, 12)
    torch.testing.assert_close(block(x, Context.of(x)), block.outer.norm(x + block.up(y)))
