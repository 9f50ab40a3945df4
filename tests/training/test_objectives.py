import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import blockformer as bf
from blockformer.errors import UserError
from blockformer.training.objectives import (
    CausalLM,
    MaskedLM,
    ObjectiveSettings,
    SequenceToSequence,
    check_kind,
    objective_for,
)
from blockformer.training.objectives.vocabulary_loss import LossTerms, loss_of_hidden, loss_of_logits, rows_at_once
from blockformer.training.score import Score, sums_of


def test_sums_are_those_of_a_loop_over_targets() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 3, 5), torch.tensor([[1, -100, 4], [0, 2, -100]])
    loss, found = loss_of_logits(logits.flatten(0, 1), targets.flatten(), LossTerms())
    sums = sums_of(found, targets, torch.tensor([7, 9]), torch.tensor(6))
    score = Score.of(sums)
    scored = [(row, place) for row in range(2) for place in range(3) if targets[row, place] >= 0]
    surprise = [-math.log(logits[r, p].softmax(-1)[targets[r, p]]) for r, p in scored]
    assert score.nll == pytest.approx(sum(surprise), rel=1e-6)
    assert loss.item() == pytest.approx(score.nll)
    assert score.correct == sum(logits[r, p].argmax() == targets[r, p] for r, p in scored)
    assert (score.targets, score.bytes, score.tokens) == (4, 16, 6)
    assert score.metrics()["bits_per_byte"] == pytest.approx(sum(surprise) / math.log(2) / 16)
    assert score.metrics()["perplexity"] == pytest.approx(math.exp(sum(surprise) / 4))


def test_label_smoothing_spreads_its_share_evenly_and_leaves_perplexity_alone() -> None:
    logits, targets = torch.randn(1, 2, 4), torch.tensor([[3, 0]])
    loss, found = loss_of_logits(logits[0], targets[0], LossTerms(0.1))
    sums = sums_of(found, targets, None, torch.tensor(2))
    logs = logits.log_softmax(-1)[0]
    by_hand = sum(-0.9 * logs[place, target] - 0.1 * logs[place].mean() for place, target in enumerate((3, 0)))
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert Score.of(sums).nll == pytest.approx(-(logs[0, 3] + logs[1, 0]).item(), rel=1e-5)
    assert "bits_per_byte" not in Score.of(sums).metrics()


def test_smoothing_is_for_training_only() -> None:
    model = bf.build("tiny_decoder", {"decoder.depth": 1})
    batch = {"tokens": torch.randint(260, (2, 8)), "targets": torch.randint(260, (2, 8))}
    objective = CausalLM(label_smoothing=0.1)
    trained, evaluated = (Score.of(objective(model.train(mode), batch)[1]) for mode in (True, False))
    assert trained.loss > trained.nll
    assert evaluated.loss == evaluated.nll


def test_padding_is_not_counted_as_read() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    batch = {"source": torch.zeros(2, 3), "source_mask": mask, "target": torch.zeros(2, 4)}
    assert SequenceToSequence().tokens(batch) == 3 + 8
    assert MaskedLM().tokens({"tokens": torch.zeros(2, 3), "attention_mask": mask}) == 3


def test_the_kind_of_model_decides_unless_told() -> None:
    for cls in (CausalLM, MaskedLM, SequenceToSequence):
        assert type(objective_for(cls.kinds[0])) is cls
    with pytest.raises(UserError, match="masked_lm trains encoder_only models, and this one is decoder_only: use caus"):
        check_kind(MaskedLM(), "decoder_only")
    with pytest.raises(UserError, match=r"objective\.label_smoothing must be less than 1"):
        ObjectiveSettings("causal_lm", label_smoothing=1.0)
    with pytest.raises(UserError, match='there is no objective "causal"; did you mean'):
        ObjectiveSettings("causal")


def test_documents_reach_the_model() -> None:
    class Listening(nn.Module):
        def forward(self, tokens: torch.Tensor, **context: torch.Tensor) -> torch.Tensor:
            self.heard = context
            return torch.zeros(*tokens.shape, 5)

        def logits(self, hidden: torch.Tensor) -> torch.Tensor:
            return hidden

    model, documents = Listening(), torch.zeros(1, 3)
    CausalLM().logits(model, {"tokens": torch.zeros(1, 3), "documents": documents})
    assert model.heard["documents"] is documents


def test_z_loss_is_the_square_of_the_log_of_the_sum() -> None:
    logits, targets = torch.randn(4, 5), torch.tensor([1, -100, 4, 0])
    plain, _ = loss_of_logits(logits, targets, LossTerms())
    loss, found = loss_of_logits(logits, targets, LossTerms(z_loss=0.1))
    by_hand = sum(0.1 * logits[place].exp().sum().log() ** 2 for place in (0, 2, 3))
    assert (loss - plain).item() == pytest.approx(by_hand.item(), rel=1e-5)  # type: ignore[union-attr]
    assert found[1].item() == pytest.approx(plain.item())


HEADS: dict[str, Any] = {
    "tied": "tied",
    "own": {"type": "own", "bias": True, "softcap": 5.0, "scale": 0.5},
    "transformed": {"type": "tied", "bias": True, "transform": "mlm", "scale": "inverse_sqrt_dim"},
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("terms", [LossTerms(), LossTerms(0.1, 0.01)], ids=["plain", "smoothed"])
@pytest.mark.parametrize("chunk", [1, 5, 16])
def test_a_loss_in_parts_is_that_of_all_logits_with_the_same_gradients(head: str, terms: LossTerms, chunk: int) -> None:
    model = bf.build("tiny_decoder", {"decoder.depth": 1, "vocab_size": 40, "head": HEADS[head]}).double()
    tokens, targets = torch.randint(40, (2, 8)), torch.randint(40, (2, 8))
    targets[0, 3:6] = -100

    def losses(chunk: int) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor | None]]:
        model.zero_grad()
        loss, found = loss_of_hidden(model, model(tokens, hidden=True), targets, terms, chunk)
        (loss * 3).backward()
        return loss, found, {name: parameter.grad for name, parameter in model.named_parameters()}

    wanted, counted, gradients = losses(0)
    loss, found, parts = losses(chunk)
    torch.testing.assert_close(loss.double(), wanted.double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(found, counted, rtol=1e-6, atol=0)
    torch.testing.assert_close(parts, gradients, rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        _, alone = loss_of_hidden(model, model(tokens, hidden=True), targets, terms, chunk)
    torch.testing.assert_close(alone, counted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("terms", [LossTerms(), LossTerms(0.1, 0.01)], ids=["plain", "smoothed"])
@pytest.mark.parametrize("chunk", [0, 5])
def test_the_losses_of_groups_are_those_of_their_rows_alone(terms: LossTerms, chunk: int) -> None:
    model = bf.build("tiny_decoder", {"decoder.depth": 1, "vocab_size": 40})
    tokens, targets = torch.randint(40, (4, 8)), torch.randint(40, (4, 8))
    targets[0, 3:6] = -100
    groups = torch.tensor([[True, False, False], [False, True, False], [True, False, False], [False, True, False]])
    counting = replace(terms, groups=groups[:, None].expand(4, 8, 3).flatten(0, 1))
    loss, found = loss_of_hidden(model, model(tokens, hidden=True), targets, counting, chunk)
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    plain, counted = loss_of_hidden(model, model(tokens, hidden=True), targets, terms, chunk)
    plain.backward()
    torch.testing.assert_close([loss.double(), found[:3]], [plain.double(), counted], rtol=1e-5, atol=0)
    torch.testing.assert_close(gradients, [parameter.grad for parameter in model.parameters()], rtol=1e-4, atol=1e-6)
    for group in range(3):
        rows = groups[:, group]
        own, count = found[3:].view(3, 2)[group].tolist()
        assert count == (targets[rows] != -100).sum()
        if count:
            alone, _ = loss_of_hidden(model, model(tokens[rows], hidden=True), targets[rows], terms, chunk)
            assert own == pytest.approx(alone.item(), rel=1e-5)


def test_a_loss_in_parts_reaches_hooks_of_a_parameter_once() -> None:
    model = bf.build("tiny_decoder", {"decoder.depth": 1, "vocab_size": 40})
    tokens, seen = torch.randint(40, (2, 8)), []
    model.table.register_post_accumulate_grad_hook(seen.append)  # what DDP and FSDP2 listen to
    loss, _ = loss_of_hidden(model, model(tokens, hidden=True), tokens, LossTerms(), 4)
    assert not seen
    loss.backward()
    assert len(seen) == 1


def test_a_loss_in_parts_leaves_frozen_parameters_alone() -> None:
    model = bf.build("tiny_decoder", {"decoder.depth": 1, "vocab_size": 40, "head": "own"})
    model.head.requires_grad_(False)
    tokens = torch.randint(40, (2, 8))
    loss_of_hidden(model, model(tokens, hidden=True), tokens, LossTerms(), 4)[0].backward()
    assert all(parameter.grad is None for parameter in model.head.parameters())
    assert model.table.grad is not None


def test_a_part_has_at_most_so_many_logits() -> None:
    assert rows_at_once(131072, 1024) == 128
    assert rows_at_once(256, 1024) == 1024
    assert rows_at_once(10**9, 1024) == 16
    assert rows_at_once(131072, 1024, 0) == 1024
    assert rows_at_once(131072, 1024, 100) == 100


@pytest.mark.parametrize("head", HEADS)
def test_a_loss_in_parts_is_the_same_under_autocast(head: str) -> None:
    model = bf.build("tiny_decoder", {"decoder.depth": 1, "vocab_size": 40, "head": HEADS[head]})
    tokens = torch.randint(40, (2, 8))

    def gradients(chunk: int) -> dict[str, torch.Tensor | None]:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = loss_of_hidden(model, model(tokens, hidden=True), tokens, LossTerms(), chunk)
        loss.backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    whole = gradients(0)
    for name, gradient in gradients(4).items():
        wanted = whole[name]
        assert (gradient is None) == (wanted is None), name
        if gradient is not None and wanted is not None:
            assert gradient.dtype == wanted.dtype == torch.float32
            assert (gradient - wanted).norm() < 0.02 * wanted.norm(), name
