"""The index of sparse attention: what it chooses, what is computed with it, and how it learns."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from blockformer.conformance import BlockCase
from blockformer.conformance.checks.compilation import check_backends_agree
from blockformer.conformance.checks.construction import check_flops_match_torch
from blockformer.conformance.checks.recording import check_records_what_it_declares
from blocks.attention import key_selector
from blocks.attention.key_selector import highest
from blocks.attention.latent import LatentAttention
from blocks.attention.visibility import Visibility
from blocks.base import Cache, Context, Site
from blocks.extra_predictions.sequential import SequentialPrediction
from blocks.init.keyed import initialise
from blocks.init.schemes import Xavier
from blocks.selectors.indexer import Indexer
from registry import parse

SITE = Site(dim=32, max_length=32)
INDEX: dict[str, Any] = {"type": "indexer", "heads": 3, "head_dim": 12, "rotary_dim": 8, "keep": 5}


def mixer(index: dict[str, Any] | None = None, **params: Any) -> LatentAttention:
    block: Any = parse(
        "mixer", {"type": "latent", "heads": 4, "q_rank": 20, "selector": {**INDEX, **(index or {})}, **params}
    )(SITE)
    initialise(block, Xavier(), 0)
    with torch.no_grad():
        for number, parameter in enumerate(block.parameters()):
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    return block.eval()


def inputs(batch: int = 2, length: int = 24) -> Tensor:
    return torch.randn(batch, length, SITE.dim, generator=torch.Generator().manual_seed(0))


def run(block: LatentAttention, x: Tensor, cache: Cache | None = None, **given: Any) -> Tensor:
    context = Context.of(x, cache=cache, **given)
    block.prepare(context)
    y = block(x, context)
    if cache is not None:
        cache.advance(x.shape[1])
    return y


def selector_of(block: LatentAttention) -> Indexer:
    assert isinstance(block.selector, Indexer)
    return block.selector


def chosen_by(block: LatentAttention, x: Tensor) -> Tensor:
    """(B, T, S) bool"""
    found: list[Any] = []
    hook = selector_of(block).register_forward_hook(lambda _, given, choice: found.append(choice))
    run(block, x)
    hook.remove()
    return found[0].keys[:, 0]


@pytest.mark.parametrize("rotary_at", ["first", "last"])
def test_it_chooses_the_keys_with_the_highest_index(rotary_at: str) -> None:
    """Against loops over queries, keys and heads."""
    block, x = mixer({"rotary_at": rotary_at}), inputs(batch=1)
    index = selector_of(block)
    assert block.q_down is not None
    assert block.q_norm is not None
    queries = index.q(block.q_norm(block.q_down(x)))[0]  # (H, T, K)
    keys, weights = index.k_norm(index.k(x))[0, 0], index.weights(x)[0]  # (T, K), (T, H)
    rotated = slice(0, 8) if rotary_at == "first" else slice(4, 12)

    def turned(vector: Tensor, position: int) -> Tensor:
        vector = vector.clone()
        a, b = vector[rotated][:4].clone(), vector[rotated][4:].clone()
        angles = position * 10000.0 ** (-torch.arange(4) / 4)
        vector[rotated] = torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()])
        return vector

    chosen = chosen_by(block, x)[0]
    for t in range(5, x.shape[1]):
        matches = [[turned(queries[h, t], t).dot(turned(keys[s], s)).relu() for h in range(3)] for s in range(t + 1)]
        scores = torch.stack([torch.stack(of_heads).dot(weights[t]) for of_heads in matches])
        best = scores.topk(5)
        if best.values[-1] != 0.0:  # the last of several keys that match no head
            assert chosen[t].nonzero().flatten().tolist() == best.indices.sort().values.tolist()
    assert (chosen.sum(-1) == torch.arange(1, 25).clamp(max=5)).all()


def test_other_keys_have_no_effect() -> None:
    block, x = mixer({"ties": "last"}), inputs(batch=1)
    y, chosen = run(block, x), chosen_by(block, x)[0]
    mask = torch.ones(24, 24, dtype=torch.bool).tril() & chosen
    dense = mixer(index={"keep": 24})
    dense.load_state_dict(block.state_dict())
    seen: list[Visibility] = []
    attend = dense.attend

    def masked(q: Tensor, k: Tensor, v: Tensor, visible: Visibility, scoring: Any) -> Tensor:
        seen.append(visible)
        return attend(q, k, v, visible.among(mask[None, None]), scoring)

    assert not torch.allclose(run(dense, x), y, atol=1e-3)
    dense.attend = masked
    torch.testing.assert_close(run(dense, x), y)
    assert seen[0].chosen is None, "24 tokens see at most 24 keys"


def test_of_equal_scores_the_last_are_chosen() -> None:
    scores = torch.tensor([[0.0, 2.0, 0.0, 0.0, -1.0], [3.0, 3.0, 3.0, 3.0, 3.0]])
    found = highest(scores, 3, last=True)
    assert found.tolist() == [[False, True, True, True, False], [False, False, True, True, True]]
    assert highest(scores, 3, last=False).sum(-1).tolist() == [3, 3]


def test_parts_of_queries_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    block, x = mixer(), inputs()
    documents = torch.tensor([[0] * 10 + [1] * 14]).expand(2, -1)
    whole = run(block, x, documents=documents)
    block.train()
    run(block, x, documents=documents)
    loss = selector_of(block).auxiliary_loss(lambda tensor: tensor)
    monkeypatch.setattr(key_selector, "SCORES", 1000)
    torch.testing.assert_close(run(block.eval(), x, documents=documents), whole)
    block.train()
    run(block, x, documents=documents)
    torch.testing.assert_close(selector_of(block).auxiliary_loss(lambda tensor: tensor), loss)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_buffers_of_fixed_size_give_the_same(backend: str) -> None:
    block, x = mixer(backend=backend), inputs()
    expected, cache = run(block, x), Cache(1, windowed=False)
    run(block, x[:, :14], cache)
    cache.fix(capacity=30, last=31, batch=2, device=x.device)
    for time in range(14, 24):
        torch.testing.assert_close(run(block, x[:, time : time + 1], cache), expected[:, time : time + 1])


def test_a_window_drops_index_keys_too() -> None:
    block, x, cache = mixer(window=9), inputs(), Cache(1)
    expected = run(block, x)
    for begin, end in ((0, 3), (3, 14), (14, 15), (15, 24)):
        torch.testing.assert_close(run(block, x[:, begin:end], cache), expected[:, begin:end])
    index: Any = cache.layers[0]["index"]
    assert index.keys.shape[2] < 24


def test_decoding_goes_back_to_a_mark() -> None:
    block, x, cache = mixer(), inputs(), Cache(1)
    expected = run(block, x)
    run(block, x[:, :14], cache)
    mark = cache.mark()
    run(block, torch.cat([x[:, 14:16], inputs(length=3)], dim=1), cache)
    assert cache.restore(mark, 2) == 2
    torch.testing.assert_close(run(block, x[:, 16:], cache), expected[:, 16:])


def test_it_learns_what_attention_attends_to() -> None:
    block, x = mixer({"heads": 8, "keep": 4}, scale=1.5).train(), inputs(batch=4)
    with torch.no_grad():
        weights = key_selector.mean_weights(*attended(block, x))
    learned = list(selector_of(block).parameters())
    optimizer = torch.optim.Adam(learned, lr=1e-2)

    def caught() -> float:
        return float((weights * chosen_by(block.eval(), x)).sum(-1)[:, 8:].mean())

    before, losses = caught(), list[float]()
    for _ in range(150):
        run(block.train(), x)
        loss = selector_of(block).auxiliary_loss(lambda tensor: tensor)
        assert loss is not None
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    assert caught() > before + 0.1, f"the weight of what is chosen grew only from {before:.2f} to {caught():.2f}"


def attended(block: LatentAttention, x: Tensor) -> tuple[Any, ...]:
    """Queries, keys, visibility without a choice, and options."""
    found: list[tuple[Any, ...]] = []
    index = selector_of(block)
    learn = index.learn
    setattr(index, "learn", lambda _, *given: found.append(given))  # noqa: B010 (pyright: its parameters have names)
    run(block, x)
    setattr(index, "learn", learn)  # noqa: B010
    index.auxiliary_loss(lambda tensor: tensor)
    return found[0]


def test_padding_does_not_change_the_loss() -> None:
    block, x = mixer().train(), inputs(length=12)
    run(block, x)
    expected = selector_of(block).auxiliary_loss(lambda tensor: tensor)
    mask = (torch.arange(15) < 12).expand(2, -1)
    run(block, torch.cat([x, inputs(length=3)], dim=1), attention_mask=mask)
    torch.testing.assert_close(selector_of(block).auxiliary_loss(lambda tensor: tensor), expected)


def test_the_loss_is_taken_once_after_each_forward() -> None:
    block = mixer().train()
    with pytest.raises(RuntimeError, match="no forward was recorded"):
        selector_of(block).auxiliary_loss(lambda tensor: tensor)
    run(block, inputs())
    copy.deepcopy(block)  # although it holds tensors of a forward
    selector_of(block).auxiliary_loss(lambda tensor: tensor)


def test_without_a_loss_it_stays_as_it_is_and_can_be_cut() -> None:
    block = mixer({"index_loss": 0.0})
    assert not any(parameter.requires_grad for parameter in selector_of(block).parameters())
    assert "q" in block.shards()
    assert not mixer().shards(), "the loss needs the attention weights of all heads"


def stack(names: str, **mixers: dict[str, Any]) -> Any:
    """Layers whose mixers are called by one letter each."""
    usual = {"type": "latent", "heads": 4, "selector": INDEX}
    layers = {name: {"mixer": {**usual, **mixers.get(name, {})}} for name in dict.fromkeys(names)}
    block: Any = parse("stack", {"depth": len(names), "layers": layers, "pattern": tuple(names)})(SITE)
    initialise(block, Xavier(), 0)
    return block.eval()


def test_layers_share_the_choice_of_the_nearest_earlier_one() -> None:
    block, x = stack("abab", b={"selector": "earlier"}), inputs()
    seen: list[Any] = []
    for layer in block.layers:
        layer.mixer.selector.register_forward_hook(lambda _, given, choice: seen.append(choice.keys))
    expected = block(x, Context.of(x))
    assert seen[0].equal(seen[1])
    assert seen[2].equal(seen[3])
    assert not seen[0].equal(seen[2])
    cache = Cache(4)
    for begin, end in ((0, 9), (9, 10), (10, 24)):
        y = block(x[:, begin:end], Context.of(x[:, begin:end], cache=cache))
        cache.advance(end - begin)
        torch.testing.assert_close(y, expected[:, begin:end])
    assert [sorted(states) for states in cache.layers] == [["index", "mixer"], ["mixer"]] * 2


@pytest.mark.parametrize("windows", [(9, None), (None, 9), (6, 9)])
def test_a_choice_is_shared_between_windows(windows: tuple[int | None, int | None]) -> None:
    first, second = windows
    block, x = stack("ab", a={"window": first}, b={"selector": "earlier", "window": second}), inputs()
    expected, cache = block(x, Context.of(x)), Cache(2)
    for begin, end in ((0, 3), (3, 14), (14, 15), (15, 24)):
        y = block(x[:, begin:end], Context.of(x[:, begin:end], cache=cache))
        cache.advance(end - begin)
        torch.testing.assert_close(y, expected[:, begin:end])


def test_without_an_earlier_choice_a_stack_is_refused() -> None:
    with pytest.raises(ValueError, match="layer 0 attends to the keys that an earlier layer has chosen, but none has"):
        stack("ba", b={"selector": "earlier"})
    taking = parse("layer", {"type": "sequential", "mixer": {"type": "latent", "heads": 4, "selector": "earlier"}})
    with pytest.raises(ValueError, match="layer 0 attends to the keys"):
        SequentialPrediction(SITE, layer=taking)


def test_the_rotated_part_fits_in_a_head() -> None:
    with pytest.raises(ValueError, match="rotary_dim=14 is more than head_dim=12"):
        mixer({"rotary_dim": 14})


@pytest.mark.parametrize("check", [check_backends_agree, check_flops_match_torch, check_records_what_it_declares])
def test_it_holds_in_a_mixer(check: Any) -> None:
    for place in ("causal", "bidirectional"):
        check(BlockCase("mixer", "latent", {"selector": {"type": "indexer", "keep": 2}}, place))
