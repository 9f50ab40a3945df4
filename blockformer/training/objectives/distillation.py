"""Imitation of a trained model's predictions."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Gt, Le
from torch import Tensor

from blockformer.data.datasets.base import Form
from blockformer.data.samples import Batch, Samples, TokenizedText
from blockformer.errors import UserError
from blockformer.training.objectives.base import Objective, Prompt, TokenObjective
from blockformer.training.objectives.causal_lm import CausalLM
from blockformer.training.objectives.teacher import OPTION, Teacher
from blockformer.training.objectives.vocabulary_loss import RowLoss
from blockformer.training.score import IGNORED
from blocks.base import SitelessFactory
from blocks.models.base import Model
from registry import Ability, PositiveFloat, register

Divergence = Literal["forward_kl", "reverse_kl", "jensen_shannon"]


@register("distillation")
class Distillation(TokenObjective):
    """Prediction of what another objective predicts, from its targets and from a trained model, the teacher.

    The loss of a place is (1 - weight) * loss of the target + weight * temperature^2 * D, where D is a divergence
    between the teacher's probabilities p and the student's q, both of logits / temperature. Validation scores the
    targets alone, so its figures are those of a model that was trained without a teacher. The teacher must have the
    same kind, tokenizer and number of token ids; it is not part of checkpoints.

    Args:
        teacher: A run's folder (its best checkpoint, or else its last), a checkpoint, or an imported folder.
        of: What is predicted: an objective with its parameters, such as {type: masked_lm, mask_rate: 0.3}.
        weight: Share of the teacher's part of the loss; 1: the targets are not used.
        temperature: Divides the logits of both models; above 1, improbable tokens count more.
        divergence: D: forward_kl is KL(p || q), which makes the student cover all that the teacher holds probable;
            reverse_kl is KL(q || p), which lets it keep to the most probable; jensen_shannon is the mean of KL(p || m)
            and KL(q || m) with m = (p + q) / 2 (Agarwal et al. 2024, arXiv:2306.13649).
    """

    paper = "Hinton et al., 2015, Distilling the Knowledge in a Neural Network, arXiv:1503.02531"
    formula = "loss = (1 - weight) L + weight * T^2 D(p, q); p = softmax(teacher(x) / T); q = softmax(student(x) / T)"
    kinds = ("decoder_only", "encoder_only", "encoder_decoder")
    forms = ("documents", "pairs", "answers", "ids", "chats")
    reads = ("teacher",)

    def __init__(
        self,
        *,
        teacher: str | None = None,
        of: SitelessFactory[Objective] = CausalLM,
        weight: Annotated[float, Gt(0), Le(1)] = 0.5,
        temperature: PositiveFloat = 1.0,
        divergence: Divergence = "forward_kl",
    ) -> None:
        self.teacher, self.weight, self.temperature = teacher, weight, temperature
        self.divergence: Divergence = divergence
        inner = of()
        if not isinstance(inner, TokenObjective) or inner.reads or inner.trains_extra:
            raise UserError(f"objective.of: {inner.name} cannot be distilled; name one such as causal_lm or masked_lm")
        self.of = inner
        self.kinds, self.forms, self.keys = inner.kinds, inner.forms, inner.keys
        self.generates, self.bidirectional_prompt = inner.generates, inner.bidirectional_prompt
        self._teacher = None if teacher is None else Teacher(teacher)
        super().__init__(inner.label_smoothing, inner.z_loss, inner.loss_chunk)

    def as_dict(self) -> dict[str, Any]:
        return super().as_dict() | {"of": self.of.as_dict()}

    def samples(self, text: TokenizedText) -> Samples:
        return self.of.samples(text)

    def extra_tokens(self, length: int) -> tuple[str, ...]:
        return self.of.extra_tokens(length)

    def longest_side(self, length: int) -> int:
        return self.of.longest_side(length)

    def abilities(self, form: Form) -> Mapping[Ability, str]:
        return self.of.abilities(form)

    def prompt(self, batch: Batch, row: int) -> Prompt:
        return self.of.prompt(batch, row)

    def check(self, model: Model, data: Any) -> None:
        self._known().check(model, data, self.of)

    def facts(self) -> Mapping[str, Any]:
        return {} if self._teacher is None else {"teacher": self._teacher.facts()}

    def __call__(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        if not model.training:
            return self.of(model, batch)
        teacher = self._known().model(model.table)
        with torch.no_grad():
            vectors = self.of.hidden(teacher, batch).flatten(0, -2)
        return self.scored(model, batch, _Imitation(self.terms(model, batch), teacher, vectors, self))

    def hidden(self, model: Model, batch: Batch) -> Tensor:
        return self.of.hidden(model, batch)

    def tokens(self, batch: Batch) -> Tensor:
        return self.of.tokens(batch)

    def _known(self) -> Teacher:
        if self._teacher is None:
            raise UserError(
                f"{OPTION}: distillation needs a teacher (its path in a checkpoint from elsewhere is not read): give "
                f"--{OPTION} a run's folder, a checkpoint or an imported folder"
            )
        return self._teacher


@dataclass(frozen=True)
class _Imitation:
    """The loss of some rows against their targets and a teacher.

    Args:
        hard: the loss against the targets.
        teacher: makes logits of its own vectors.
        vectors: (N, D) of all rows, before the teacher's head.
        settings: the weight, the temperature and the divergence.
    """

    hard: RowLoss
    teacher: Model
    vectors: Tensor
    settings: Distillation

    def __call__(self, logits: Tensor, wanted: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        weight, temperature = self.settings.weight, self.settings.temperature
        loss, found = self.hard(logits, wanted, rows)
        with torch.no_grad():
            known = self.teacher.logits(self.vectors[rows])
        apart = divergence(known, logits, temperature, self.settings.divergence)
        loss = (1 - weight) * loss + weight * temperature**2 * (apart * (wanted != IGNORED)).sum()
        return loss, torch.cat([loss.detach().to(found)[None], found[1:]])


def divergence(teacher: Tensor, student: Tensor, temperature: float, kind: Divergence) -> Tensor:
    """(N,) divergences, in nats, of the student's probabilities from the teacher's; both are given as (N, V) logits."""
    p, q = ((logits.float() / temperature).log_softmax(-1) for logits in (teacher, student))
    if kind == "forward_kl":
        return _kl(p, q)
    if kind == "reverse_kl":
        return _kl(q, p)
    m = torch.logaddexp(p, q) - log(2)
    return (_kl(p, m) + _kl(q, m)) / 2


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of (N, V) logarithms of probabilities."""
    return F.kl_div(q, p, log_target=True, reduction="none").sum(-1)
