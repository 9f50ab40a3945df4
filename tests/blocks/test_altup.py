"""Alternating updates of streams, and learned paths beside sublayers, against second implementations."""

from typing import Any

import pytest
import torch
from torch import Tensor

import blockformer as bf
from blockformer.conformance import BlockCase
from blocks.attention.softmax import MultiHeadAttention
from blocks.base import Context, Site
from blocks.layers.altup import AltUpLayer
from blocks.residual.post import PostNorm

RECIPE: dict[str, Any] = {
    "type": "decoder_only",
    "dim": 24,
    "vocab_size": 31,
    "max_length": 16,
    "decoder": {"depth": 3, "layer": {"type": "altup", "streams": 3, "inner": {"mixer": {"heads": 4}}}},
}
TOKENS = torch.randint(31, (2, 9), generator=torch.Generator().manual_seed(0))


def layer(index: int = 0, **params: Any) -> tuple[Any, Tensor, Context]:
    """A layer with random values, three streams, and their context."""
    case = BlockCase("layer", "altup", {"streams": 3, **params})
    block: Any = case.build_perturbed()
    x = torch.randn(2, 5, 3, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    context = Context.of(x[..., 0, :])
    block.prepare(context)
    return block, x, context


def test_streams_are_predicted_and_corrected_by_the_change_of_the_first() -> None:
    block, x, context = layer()
    router, streams = block.router, [x[..., i, :] for i in range(3)]
    routed = torch.tanh(block.norm(streams[0]) @ router.T / 32)
    predict = (routed @ block.predict.T).view(2, 5, 3, 3)
    predicted = [s + sum(predict[..., i, j, None] * streams[j] for j in range(3)) for i, s in enumerate(streams)]
    after = block.inner(predicted[0], context)
    correct = torch.tanh(block.norm(after) @ router.T / 32) @ block.correct.T
    expected = [p + (1 + correct[..., i, None]) * (after - predicted[0]) for i, p in enumerate(predicted)]
    torch.testing.assert_close(block(x, context), torch.stack(expected, dim=-2))


def test_other_streams_get_what_a_mixer_reads_from_the_corrected_first() -> None:
    block, x, context = layer(others={"type": "attention", "heads": 4}, others_scale=True, others_residual="output")
    plain: Any = BlockCase("layer", "altup", {"streams": 3}).build_perturbed()
    plain.load_state_dict({name: block.state_dict()[name] for name in plain.state_dict()})
    plain.prepare(context)
    corrected = plain(x, context)
    added = block.others_residual.norm(block.others(corrected[..., 0, :] * block.others_scale, context))
    found = block(x, context)
    torch.testing.assert_close(found[..., 0, :], corrected[..., 0, :])
    torch.testing.assert_close(found[..., 1:, :], corrected[..., 1:, :] + added[..., None, :])


def test_the_active_stream_changes_from_layer_to_layer() -> None:
    sites = [Site(dim=32, layer=index, depth=4) for index in range(4)]
    assert [AltUpLayer(site, streams=3, alternate=True).active for site in sites] == [0, 1, 2, 0]
    assert [AltUpLayer(site, streams=3).active for site in sites] == [0, 0, 0, 0]


@pytest.mark.parametrize("dynamic", [True, False])
def test_streams_that_begin_equal_come_to_differ(dynamic: bool) -> None:
    tree = RECIPE | {"decoder": {**RECIPE["decoder"], "layer": {**RECIPE["decoder"]["layer"], "dynamic": dynamic}}}
    model = bf.build(tree, seed=0).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    seen: list[Tensor] = []
    model.get_submodule("decoder.layers.2").register_forward_hook(lambda *given: seen.append(given[2].detach()))
    for _ in range(5):
        logits = model(TOKENS)
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    others = seen[-1][..., 1:, :]
    assert float((others[..., 0, :] - others[..., 1, :]).abs().max()) > 1e-5


@pytest.mark.parametrize("readout", ["mean", "projected"])
def test_projected_streams_have_the_magnitude_of_the_first(readout: str) -> None:
    tree = RECIPE | {"decoder": {**RECIPE["decoder"], "expansion": "projected", "readout": readout}}
    model = bf.build(tree, seed=0).eval()
    seen: list[Tensor] = []
    model.get_submodule("decoder.layers.0").register_forward_hook(lambda *given: seen.append(given[1][0]))
    model(TOKENS)
    streams = seen[0]
    size = streams.square().mean(-1)
    torch.testing.assert_close(size[..., 1:], size[..., :1].expand_as(size[..., 1:]))
    for index, project in enumerate(model.get_submodule("decoder.expansion.others").children()):
        moved = project(streams[..., 0, :])
        similar = torch.nn.functional.cosine_similarity(moved, streams[..., index + 1, :], dim=-1)
        torch.testing.assert_close(similar, torch.ones_like(similar))


def test_the_projected_readout_is_the_mean_of_projections_as_large_as_the_first() -> None:
    block: Any = BlockCase("readout", "projected").build_perturbed()
    count = 1 + len(block.projections.others)
    x = torch.randn(2, 5, count, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    first, length = x[..., 0, :], x[..., 0, :].norm(dim=-1, keepdim=True)
    moved = [x[..., i + 1, :] @ one.weight.T for i, one in enumerate(block.projections.others)]
    expected = (first + sum(y * length / y.norm(dim=-1, keepdim=True) for y in moved)) / count
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("reads", ["stream", "sublayer"])
@pytest.mark.parametrize("skip", [True, False])
def test_a_learned_path_is_added_beside_the_sublayer(reads: str, skip: bool) -> None:
    params = {"rank": 3, "reads": reads, "norm": "rms", "skip": skip, "sum_scale": 0.5, "inner": "sandwich"}
    block: Any = BlockCase("residual", "laurel", params).build_perturbed()
    x = torch.randn(2, 5, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    normed = block.inner.norm(x)
    read = x if reads == "stream" else normed
    path = block.norm(read @ block.down.weight.T @ block.up.weight.T) + (read if skip else 0)
    torch.testing.assert_close(block(x, torch.sin), 0.5 * (x + block.inner.after(torch.sin(normed)) + path))


def test_a_layer_with_one_stream_starts_the_inner_layer() -> None:
    old = bf.build({**RECIPE, "decoder": {"depth": 3, "layer": RECIPE["decoder"]["layer"]["inner"]}}, seed=3)
    new = bf.build(RECIPE, seed=4)
    bf.warm_start(new, old)
    name = "decoder.layers.1.inner.mixer.q.weight"
    torch.testing.assert_close(new.get_parameter(name), old.get_parameter(name.replace("inner.", "")))


def test_an_inner_layer_with_several_streams_is_refused() -> None:
    with pytest.raises(ValueError, match="inner layer of altup has one residual stream, but its residuals have 3"):
        AltUpLayer(Site(dim=32), inner=lambda site: AltUpLayer(site, streams=3))
    with pytest.raises(ValueError, match="others_residual does not add an update"):
        AltUpLayer(Site(dim=32), others=MultiHeadAttention, others_residual=PostNorm)
