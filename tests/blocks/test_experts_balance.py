"""How the choices of routers are balanced."""

import copy
from collections.abc import Mapping
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import blockformer as bf
from blocks.base import Context, Site
from blocks.models.base import Model
from blocks.routing.balance import Balance, balance_loss, tokens_per_expert
from blocks.routing.top_k import TopKRouter
from registry import parse

torch.set_num_threads(1)
DIM, EXPERTS = 24, 6


def router(**settings: Any) -> TopKRouter:
    made = cast("TopKRouter", parse("router", {"type": "top_k", **settings})(Site(dim=DIM, experts=EXPERTS)))
    with torch.no_grad():
        made.linear.weight.normal_(0.0, 0.5, generator=torch.Generator().manual_seed(0))
    return made


def tokens(count: int = 40, seed: int = 1) -> Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))


def model(settings: Mapping[str, Any] | None = None, **decoder: Any) -> Model:
    feedforward = {"type": "moe", "experts": EXPERTS, "expert": {"hidden": 16}, "router": settings or {}}
    layer = {"mixer": {"heads": 4}, "feedforward": feedforward}
    stack = {"depth": 2, "layer": layer, **decoder}
    return bf.build({"type": "decoder_only", "dim": DIM, "vocab_size": 50, "max_length": 16, "decoder": stack})


def ids(rows: int = 3, length: int = 8) -> Tensor:
    return torch.randint(50, (rows, length), generator=torch.Generator().manual_seed(2))


def itself(counts: Tensor) -> Tensor:
    return counts


def test_the_loss_is_least_where_all_are_chosen_equally_often() -> None:
    chosen = torch.arange(EXPERTS).view(-1, 2)
    uniform, collapsed = torch.full((3, EXPERTS), 1 / EXPERTS), torch.eye(EXPERTS)[[0, 0, 0]]
    assert float(balance_loss(uniform, tokens_per_expert(chosen, EXPERTS) / 3)) == pytest.approx(2.0)
    assert float(balance_loss(collapsed, tokens_per_expert(torch.zeros_like(chosen), EXPERTS) / 3)) == pytest.approx(
        2 * EXPERTS
    )
    assert tokens_per_expert(chosen, EXPERTS, torch.tensor([True, False, True])).tolist() == [1, 1, 0, 0, 1, 1]


def test_a_model_adds_up_the_losses_of_its_routers() -> None:
    built, x = model({"balance_loss": 0.5}), ids()
    seen: list[Tensor] = []
    for each in built.routers:
        each.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    built(x)
    found = built.auxiliary_loss()
    expected = torch.zeros(())
    for each, rows in zip(built.routers, seen, strict=True):
        probabilities = cast("TopKRouter", each).linear(rows).softmax(-1)
        share = tokens_per_expert(probabilities.topk(2).indices, EXPERTS) / len(rows)
        expected = expected + 0.5 * balance_loss(probabilities, share)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert all(bool(cast("TopKRouter", each).linear.weight.grad.any()) for each in built.routers)


def test_the_loss_of_a_batch_does_not_depend_on_how_processes_share_it() -> None:
    of, rows = router(balance_loss=1.0), tokens(40)

    def loss(part: Tensor, reduce: Any) -> Tensor:
        of.prepare(Context.of(part[None]))
        of(part)
        found = of.auxiliary_loss(reduce)
        assert found is not None
        return found

    whole = loss(rows, itself)
    halves = [loss(part, lambda counts: tokens_per_expert(of(rows)[1], EXPERTS)) for part in rows.split(20)]
    torch.testing.assert_close((halves[0] + halves[1]) / 2, whole)


def test_there_is_no_loss_without_routers_or_coefficient_or_training() -> None:
    dense = bf.build({"type": "decoder_only", "dim": DIM, "vocab_size": 50, "decoder": {"depth": 1}})
    free, evaluated = model({"balance_loss": 0.0, "balance_rate": 0.1}), model().eval()
    for built in (dense, free, evaluated):
        built(ids())
        assert float(built.auxiliary_loss()) == 0.0
    built = model({"balance_loss": 0.0})
    built(ids())
    assert float(built.auxiliary_loss()) == float(built.auxiliary_loss()) == 0.0


def test_says_so_if_a_loss_is_asked_for_that_was_not_recorded() -> None:
    built = model()
    with pytest.raises(RuntimeError, match="prepare"):
        built.auxiliary_loss()
    built(ids())
    built.auxiliary_loss()
    with pytest.raises(RuntimeError, match="once after each forward"):
        built.auxiliary_loss()


def test_padding_counts_nowhere() -> None:
    built, x = model({"balance_rate": 0.1}), ids(rows=2)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[:, 5:] = False
    found: list[tuple[Tensor, list[Tensor | None]]] = []
    for given, what in ((x, mask), (x[:, :5], None)):
        built(given, attention_mask=what)
        losses = built.auxiliary_loss()
        found.append((losses, [cast("Balance", cast("TopKRouter", r).balance).take_load() for r in built.routers]))
    torch.testing.assert_close(found[0], found[1])


def test_a_shared_layer_counts_each_time_it_runs() -> None:
    shared = model({"balance_loss": 1.0}, distinct=1)
    shared(ids())
    both = shared.auxiliary_loss().detach()
    assert float(both) >= 2 * 2 * 0.99, "two passes, each at least top_k, or nearly"
    assert len(shared.routers) == 1


def gradients(built: Model, loss: Tensor) -> dict[str, Tensor]:
    built.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in built.named_parameters() if p.grad is not None}


def one_step(built: Model, call: Any) -> tuple[dict[str, Tensor], Tensor]:
    logits = call(ids())
    found = gradients(built, logits.logsumexp(-1).mean() + built.auxiliary_loss())
    counts = [cast("Balance", cast("TopKRouter", each).balance).take_load() for each in built.routers]
    return found, torch.stack([each for each in counts if each is not None])


def test_activation_checkpointing_changes_neither_gradients_nor_counts() -> None:
    built = model({"scores": "sigmoid", "balance_loss": 1.0, "balance_rate": 0.1})
    expected = one_step(built, built)
    for layer in cast("Any", built).decoder.layers:
        plain = layer.forward
        layer.forward = lambda *args, plain=plain: checkpoint(plain, *args, use_reentrant=False)
    torch.testing.assert_close(one_step(built, built), expected)
    passes = [cast("Balance", cast("TopKRouter", each).balance).passes.values for each in built.routers]
    assert all(held is None for held in passes), "computed again, a layer must hold on to nothing"


@pytest.mark.slow
def test_compiles_whole_with_the_same_gradients_and_counts() -> None:
    built = model({"scores": "sigmoid", "balance_loss": 1.0, "balance_rate": 0.1})
    expected = one_step(built, built)
    torch.compiler.reset()
    compiled = torch.compile(built, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(one_step(built, compiled), expected)
    with torch._dynamo.config.patch(error_on_recompile=True):
        torch.testing.assert_close(one_step(built, compiled), expected)


def test_biases_move_against_the_load() -> None:
    of = router(balance_rate=0.25, balance_loss=0.0)
    asked: list[Tensor] = []

    def doubled(counted: Tensor) -> Tensor:  # as if another process had the same
        asked.append(counted)
        return 2 * counted

    for rows in (tokens(20), tokens(20, seed=3)):  # two parts of one batch
        of.prepare(Context.of(rows[None]))
        of(rows)
        assert of.auxiliary_loss(doubled) is None
    counts = tokens_per_expert(of(torch.cat([tokens(20), tokens(20, seed=3)]))[1], EXPERTS)
    of.update()
    assert sum(asked).tolist() == counts.tolist()
    assert of.selection_bias is not None
    assert of.selection_bias.tolist() == (0.25 * (counts.mean() - counts).sign()).tolist()
    before = of.selection_bias.clone()
    of.update()
    assert torch.equal(of.selection_bias, before), "nothing was counted since"


def test_loss_free_balancing_evens_out_the_load() -> None:
    of, x = router(balance_rate=0.01, balance_loss=0.0, scores="sigmoid"), tokens(600) + 0.5

    def unevenness() -> float:
        counts = tokens_per_expert(of(x)[1], EXPERTS)
        return float(counts.max() / counts.mean())

    before = unevenness()
    for _ in range(100):
        of.prepare(Context.of(x[None]))
        of(x)
        of.auxiliary_loss(itself)
        of.update()
    assert before > 1.3
    assert unevenness() < 1.05


def test_the_balance_loss_evens_out_the_load() -> None:
    of, x = router(balance_loss=1.0), tokens(600) + 0.5
    descent = torch.optim.SGD(of.parameters(), lr=0.5)
    ratios: list[float] = []
    for _ in range(60):
        of.prepare(Context.of(x[None]))
        counts = tokens_per_expert(of(x)[1], EXPERTS)
        ratios.append(float(counts.max() / counts.mean()))
        loss = of.auxiliary_loss(itself)
        assert loss is not None
        descent.zero_grad()
        loss.backward()
        descent.step()
    assert ratios[0] > 1.3
    assert ratios[-1] < 1.15


def test_the_selection_bias_is_state_that_no_optimizer_moves() -> None:
    built = model({"balance_rate": 0.5})
    built(ids())
    (built(ids()).square().sum() + built.auxiliary_loss()).backward()
    built.update()
    biases = {name: value for name, value in built.state_dict().items() if "selection_bias" in name}
    assert len(biases) == 2
    assert all(bool(value.any()) for value in biases.values())
    assert all(not built.get_parameter(name).requires_grad for name in biases)
    other = model({"balance_rate": 0.5})
    assert all(not bool(other.get_parameter(name).any()) for name in biases), "it starts at 0"
    other.load_state_dict(built.state_dict())
    assert all(torch.equal(other.get_parameter(name), value) for name, value in biases.items())


def test_the_selection_bias_stays_precise_in_half_precision() -> None:
    built = model({"balance_rate": 0.001}).to(torch.bfloat16)
    kinds = {name.rpartition(".")[2]: parameter.dtype for name, parameter in built.named_parameters()}
    assert kinds["selection_bias"] == torch.float32
    assert kinds["weight"] == torch.bfloat16


def test_a_model_can_be_copied_between_forward_and_loss() -> None:
    built = model()
    built(ids())
    other = copy.deepcopy(built)
    torch.testing.assert_close(other.eval()(ids()), built.eval()(ids()))


def test_a_model_that_reads_and_writes_leaves_out_the_padding_of_both() -> None:
    stack = {"depth": 1, "layer": {"feedforward": {"type": "moe", "experts": EXPERTS, "expert": {"hidden": 16}}}}
    sizes = {"dim": DIM, "vocab_size": 50, "max_length": 16}
    built = bf.build({"type": "encoder_decoder", **sizes, "encoder": stack, "decoder": stack})
    source, target = ids(), ids(length=6)
    built(source[:, :5], target[:, :4])
    expected = built.auxiliary_loss()
    masks = [torch.arange(t.shape[1]).expand_as(t) < kept for t, kept in ((source, 5), (target, 4))]
    built(source, target, source_mask=masks[0], target_mask=masks[1])
    torch.testing.assert_close(built.auxiliary_loss(), expected)
