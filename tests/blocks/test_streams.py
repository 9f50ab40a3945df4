"""Several residual streams against second implementations, and how they start."""

from importlib import import_module
from typing import Any, cast

import pytest
import torch
from torch import Tensor

import blockformer as bf
from blockformer.conformance import BlockCase
from blockformer.training.watch.recorder import Recorder
from blocks.base import Context, Site
from registry import RecipeError, parse

KINDS = ["hyper", "hyper_unmixed", "hyper_sinkhorn"]  # those that begin like one stream
PLAIN: dict[str, Any] = {
    "type": "decoder_only",
    "dim": 24,
    "vocab_size": 31,
    "max_length": 16,
    "embedding": {"positions": "none"},
    "decoder": {
        "depth": 3,
        "layer": {"mixer": {"type": "attention", "heads": 4, "positions": "rotary"}, "residual": "pre"},
        "norm": "rms",
    },
}
TOKENS = torch.randint(31, (2, 9), generator=torch.Generator().manual_seed(0))


def recipe(residual: Any, **stack: Any) -> dict[str, Any]:
    decoder = {**PLAIN["decoder"], **stack}
    return {**PLAIN, "decoder": {**decoder, "layer": {**decoder["layer"], "residual": residual}}}


def perturbed(residual: str, **params: Any) -> tuple[Any, Tensor]:
    block: Any = BlockCase("residual", residual, params).build_perturbed()
    torch.manual_seed(1)
    return block, torch.randn(2, 3, block.streams, 32, dtype=torch.float64)


def sublayer(x: Tensor) -> Tensor:
    return torch.sin(3 * x)


def test_a_hyper_connection_equals_loops_over_streams() -> None:
    block, x = perturbed("hyper", streams=3)
    count, y = 3, torch.zeros_like(x)
    read, write, mix = block.bias[:count], block.bias[count : 2 * count], block.bias[2 * count :]
    moved = [torch.tanh(block.streams_norm(x[..., j, :]) @ block.weight.T) for j in range(count)]
    heard = sum((read[j] + block.scale[0] * moved[j][..., 0])[..., None] * x[..., j, :] for j in range(count))
    update = sublayer(block.inner.norm(heard))
    for i in range(count):
        y[..., i, :] = (write[i] + block.scale[1] * moved[i][..., 1])[..., None] * update
        for j in range(count):
            weight = mix[j * count + i] + block.scale[2] * moved[j][..., 2 + i]
            y[..., i, :] += weight[..., None] * x[..., j, :]
    torch.testing.assert_close(block(x, sublayer), y)


def mixing(**params: Any) -> tuple[Any, Tensor, Tensor]:
    """A block that mixes its streams a lot, streams, and the weights of mixing."""
    block, x = perturbed("hyper_sinkhorn", eps=0.0, **params)
    block.bias.data.copy_(torch.randn(block.bias.shape, generator=torch.Generator().manual_seed(2)))
    return block, x, block.weights(x).mix.detach()


def test_mixing_is_doubly_stochastic_and_keeps_the_mean_of_the_streams() -> None:
    block, x, mix = mixing(streams=3, iterations=50)
    assert bool((mix > 0).all())
    assert float(mix.std()) > 0.05  # not uniform
    torch.testing.assert_close(mix.sum(-1), torch.ones_like(mix[..., 0]))
    torch.testing.assert_close(mix.sum(-2), torch.ones_like(mix[..., 0]))
    y = block(x, torch.zeros_like)
    torch.testing.assert_close(y.mean(-2), x.mean(-2))
    assert float((y - x).detach().abs().max()) > 0.1


def test_more_iterations_come_closer_to_a_doubly_stochastic_matrix() -> None:
    found = [float((mixing(iterations=count)[2].sum(-1) - 1).abs().max()) for count in (1, 3, 10)]
    assert found[0] > 2 * found[1] > 4 * found[2] > 0


@pytest.mark.parametrize(("kind", "tolerance"), [("hyper", 1e-5), ("hyper_unmixed", 0.02), ("hyper_sinkhorn", 0.02)])
def test_a_model_starts_like_one_with_one_stream(kind: str, tolerance: float) -> None:
    plain = bf.build(PLAIN, seed=0).eval()
    streams = bf.build(recipe(kind), seed=0).eval()
    shared = dict(plain.named_parameters())
    same = [name for name, one in streams.named_parameters() if name in shared and torch.equal(one, shared[name])]
    assert len(same) >= len(shared) - 2 * 3 * 2  # all but the norms of residuals, which have another name
    with torch.inference_mode():
        expected, found = plain(TOKENS), streams(TOKENS)
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


def difference_of_streams(model: Any) -> float:
    """The variance among the streams after the last layer, as a share of their mean square."""
    seen: list[Tensor] = []
    handle = model.get_submodule("decoder.layers.2").register_forward_hook(lambda *given: seen.append(given[2]))
    with torch.no_grad():
        model(TOKENS)
    handle.remove()
    return float((seen[0] - seen[0].mean(dim=2, keepdim=True)).square().mean() / seen[0].square().mean())


@pytest.mark.parametrize("kind", KINDS)
def test_streams_come_to_differ_in_training(kind: str) -> None:
    """They are about equal at the start, but no symmetry keeps them so."""
    model = bf.build(recipe(kind), seed=0).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    before = difference_of_streams(model)
    for _ in range(20):
        logits = model(TOKENS)
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert before < 1e-6 < 5e-6 < difference_of_streams(model)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_model_with_one_stream_starts_one_with_several(kind: str) -> None:
    old = bf.build(PLAIN, seed=3).eval()
    for parameter in old.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    new = bf.build(recipe(kind), seed=4).eval()
    bf.warm_start(new, old)
    with torch.inference_mode():
        expected, found = old(TOKENS), new(TOKENS)
    assert float((found - expected).abs().max()) <= 0.05 * float(expected.abs().max())


def test_the_update_is_that_of_the_inner_residual() -> None:
    block, x = perturbed("hyper_unmixed", inner={"type": "sandwich", "norm": "rms"})
    read, write, _ = block.weights(x)
    heard = (read[..., None] * x).sum(-2)
    update = block.inner.after(sublayer(block.inner.norm(heard)))
    torch.testing.assert_close(block(x, sublayer), x + write[..., None] * update[..., None, :])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"layer": {"mixer_residual": "pre", "residual": "hyper"}},
            "sublayers of a layer have 1 and 4 residual streams",
        ),
        (
            {"layers": {"a": {"residual": "hyper"}, "b": {"residual": {"type": "hyper", "streams": 2}}}},
            "layers of a stack have 2 and 4 residual streams",
        ),
        ({"layer": {"residual": {"type": "hyper", "inner": "post"}}}, "choose pre, output or sandwich"),
        ({"layer": {"type": "shortcut", "residual": "hyper"}}, "layer shortcut has one residual stream"),
        ({"layer": {"residual": "pre"}, "readout": "weighted"}, "readout: has no effect"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    pattern = {"pattern": ["a", "b"], "rest": "cut"} if "layers" in change else {}
    decoder = {"depth": 3, **change, **pattern}
    with pytest.raises(RecipeError, match=message):
        bf.build({**PLAIN, "decoder": decoder})


def test_a_scaled_residual_may_have_several_streams_inside() -> None:
    model = bf.build(recipe({"type": "scaled", "by": 0.0, "inner": "hyper"}), seed=0).eval()
    with torch.inference_mode():
        expected = model.head(model.decoder.norm(model.embedding(TOKENS, Context.of(TOKENS))), model.embedding.table)
        torch.testing.assert_close(model(TOKENS), expected)


def test_the_size_of_activations_is_the_mean_over_streams_without_padding() -> None:
    model = bf.build(recipe("hyper"), seed=0).eval()
    mask = torch.ones_like(TOKENS, dtype=torch.bool)
    mask[0, 5:] = False
    seen: list[Tensor] = []
    handle = model.get_submodule("decoder.layers.1").register_forward_hook(lambda *given: seen.append(given[2]))
    recorder = Recorder(model)
    with recorder.recording(), torch.no_grad():
        model(TOKENS, attention_mask=mask)
    handle.remove()
    expected = seen[0][mask].square().mean().sqrt()
    found = recorder.figures(lambda tensor: tensor)["activation_rms/decoder.layers.1"]
    torch.testing.assert_close(found, float(expected))


def _theirs(name: str, config: str, attribute: str, **settings: Any) -> Any:
    pytest.importorskip("transformers")
    where = f"transformers.models.{name}"
    module = cast("Any", import_module(f"{where}.modeling_{name}"))
    made = getattr(import_module(f"{where}.configuration_{name}"), config)(hidden_size=16, hc_mult=3, **settings)
    theirs = getattr(module, attribute)(made)
    for index, parameter in enumerate(theirs.parameters()):
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
    return theirs


X = torch.randn(2, 5, 3, 16, generator=torch.Generator().manual_seed(0))


def _ours(slot: str, name: str, theirs: Any, prefix: str = "", **params: Any) -> Any:
    given = (Site(dim=16), 3) if slot == "readout" else (Site(dim=16),)
    params |= {} if slot == "readout" else {"streams": 3}
    block: Any = parse(slot, {"type": name, "streams_norm": {"type": "rms", "weight": False, "eps": 1e-3}, **params})(
        *given
    )
    stored = theirs.state_dict()
    for ours, other in (("weight", "fn"), ("bias", "base"), ("scale", "scale")):
        getattr(block, ours).data.copy_(stored[f"{prefix}{other}"])
    return block.eval()


@torch.no_grad()
def test_manifold_constrained_hyper_connections_equal_those_of_deepseek_v4() -> None:
    theirs = _theirs(
        "deepseek_v4",
        "DeepseekV4Config",
        "DeepseekV4HyperConnection",
        hc_eps=1e-2,
        hc_sinkhorn_iters=3,
        rms_norm_eps=1e-3,
    )
    ours = _ours("residual", "hyper_sinkhorn", theirs, eps=1e-2, iterations=3)
    post, comb, collapsed = theirs(X)
    found = ours.weights(X)
    torch.testing.assert_close(found.write, post)
    torch.testing.assert_close(found.mix, comb)
    expected = post[..., None] * sublayer(ours.inner.norm(collapsed))[..., None, :] + comb.mT @ X
    torch.testing.assert_close(ours(X, sublayer), expected)


@torch.no_grad()
def test_hyper_connections_without_mixing_equal_those_of_hy_v4() -> None:
    theirs = _theirs("hy_v4", "HYV4Config", "HYV4HyperConnection", hc_eps=1e-2, hc_magnitude=1.5, rms_norm_eps=1e-3)
    ours = _ours("residual", "hyper_unmixed", theirs, eps=1e-2, magnitude=1.5)
    post, collapsed = theirs(X)
    expected = post[..., None] * sublayer(ours.inner.norm(collapsed))[..., None, :] + X
    torch.testing.assert_close(ours(X, sublayer), expected)


@torch.no_grad()
def test_the_weighted_readout_equals_that_of_deepseek_v4() -> None:
    theirs = _theirs("deepseek_v4", "DeepseekV4Config", "DeepseekV4HyperHead", hc_eps=1e-2, rms_norm_eps=1e-3)
    torch.testing.assert_close(_ours("readout", "weighted", theirs, "hc_", eps=1e-2)(X), theirs(X))


@torch.no_grad()
def test_gated_streams_equal_those_of_qwen4_exp() -> None:
    pytest.importorskip("transformers")
    where = "transformers.models.qwen4_exp"
    config: Any = import_module(f"{where}.configuration_qwen4_exp")
    module: Any = import_module(f"{where}.modeling_qwen4_exp")
    made = config.Qwen4ExpTextConfig(hidden_size=16, hc_count=3, hc_lowrank=5, rms_norm_eps=1e-2)
    site, norm = Site(dim=16), {"type": "rms", "eps": 1e-2, "offset": 1.0}
    residual: Any = parse("residual", {"type": "hyper_gated", "streams": 3, "rank": 5, "norm": norm})(site)
    readout: Any = parse("readout", {"type": "gated", "rank": 5, "norm": norm})(site, 3)
    for ours, writes in ((residual, True), (readout, False)):
        theirs = module.Qwen4ExpTextGatedResidual(made, use_combine=writes)
        for index, parameter in enumerate(theirs.parameters()):
            parameter.data = 0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
        ours.reading.norm.weight.data = theirs.hc_norm.weight.view(3, 16)
        ours.reading.down.weight.data = theirs.input_mix_weight_down.weight
        ours.reading.up.weight.data = theirs.input_mix_weight_up.weight
        if not writes:
            torch.testing.assert_close(ours(X), theirs(X.flatten(-2)))
            continue
        ours.write.weight.data = theirs.block_inject_weight.weight
        read, _, write = theirs(X.flatten(-2))
        torch.testing.assert_close(ours(X, sublayer), X + write[..., None] * sublayer(read)[..., None, :])
