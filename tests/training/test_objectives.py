import math

import pytest
import torch
from torch import nn

import blockformer as bf
from blockformer.training.objectives import CausalLM, MaskedLM, SequenceToSequence, objective_for
from blockformer.training.score import Score, sums_of


def test_sums_are_those_of_a_loop_over_targets() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 3, 5), torch.tensor([[1, -100, 4], [0, 2, -100]])
    loss, sums = sums_of(logits, targets, 0.0, torch.tensor([7, 9]), torch.tensor(6))
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
    loss, sums = sums_of(logits, targets, 0.1, None, torch.tensor(2))
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
        assert type(objective_for(cls.kind)) is cls
        assert type(objective_for(cls.kind, cls.name)) is cls
    with pytest.raises(ValueError, match="masked_lm trains encoder_only models, and this one is decoder_only"):
        objective_for("decoder_only", "masked_lm")
    with pytest.raises(ValueError, match="label_smoothing"):
        objective_for("decoder_only", label_smoothing=1.0)


def test_documents_reach_the_model() -> None:
    class Listening(nn.Module):
        def forward(self, tokens: torch.Tensor, **context: torch.Tensor) -> torch.Tensor:
            self.heard = context
            return torch.zeros(*tokens.shape, 5)

    model, documents = Listening(), torch.zeros(1, 3)
    CausalLM().logits(model, {"tokens": torch.zeros(1, 3), "documents": documents})
    assert model.heard["documents"] is documents
