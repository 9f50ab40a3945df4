"""Detection of tokens that a small model has put in place of others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Gt, Le
from numpy.typing import NDArray
from torch import Tensor

from blockformer.data.samples import Batch, Samples, TokenizedText
from blockformer.training.objectives.base import Chunk, Factor, Objective, token_count
from blockformer.training.objectives.masked_lm import MaskedRows
from blockformer.training.objectives.vocabulary_loss import LossTerms, loss_of_hidden
from blockformer.training.score import IGNORED, exact_type, metrics_of
from blocks.base import Generator, Head
from blocks.models.base import Model
from registry import Ability, register

FINENESS = 1 << 24  # of draws, which are whole numbers, because a trainer may round others to 16 bits


@register("replaced_token_detection")
class ReplacedTokenDetection(Objective):
    """Detection of tokens that the recipe's `generator` has put in place of masked ones, which it learns to predict.

    The generator reads a row with masked tokens. What it predicts for them is sampled, without a gradient, and put into
    the row; the model gives a logit for each token of this row that it is not the one of the text. The loss is

        (sum of the generator's losses of masked tokens / mask_rate + weight * sum of the losses of all tokens) / tokens

    so but for rounding it is the mean loss of a masked token + weight * the mean loss of a token. Figures are
    `accuracy`, of all tokens, `replaced`, the share of tokens that differ from the text, `found`, the share of these
    that are recognised, and `generator_loss` and `generator_accuracy`, of masked tokens.

    Args:
        mask_rate: Share of a row's tokens that are masked.
        weight: Weight of the detection.
        loss_chunk: Rows whose logits of the generator exist at once, which bounds the memory of the loss; null: by the
            vocabulary, 2^24 logits; 0: all.
    """

    paper = "Clark et al., 2020, ELECTRA: Pre-training Text Encoders as Discriminators, arXiv:2003.10555"
    formula = (
        "loss = (sum_(t ∈ M) G_t / mask_rate + weight * sum_t D_t) / N; "
        'G_t = -log p_G(x_t ∣ x "with" M "masked"); D_t = -log p_D(x′_t = x_t ∣ x′); '
        'x′_t ~ p_G "for" t ∈ M'
    )
    kinds = ("encoder_only",)
    forms = ("documents",)
    keys = ("tokens", "targets", "draws")
    per_token = True
    trains_generator = True

    def __init__(
        self,
        *,
        mask_rate: Annotated[float, Gt(0), Le(1)] = 0.15,
        weight: Factor = 50.0,
        loss_chunk: Chunk = None,
    ) -> None:
        self.mask_rate, self.weight, self.loss_chunk = mask_rate, weight, loss_chunk

    def samples(self, text: TokenizedText) -> Samples:
        return ReplacedRows(text, share=self.mask_rate, always=True)

    def abilities(self, form: str) -> Mapping[Ability, str]:
        return {"padding": "documents of different lengths are padded"}

    def refusal(self, model: Model, classes: Sequence[str]) -> str | None:
        if model.head.values == 1:
            return None
        return (
            f"objective {self.name} predicts one value for each token and the recipe's head gives {model.head.values}: "
            "set --recipe.head.outputs 1"
        )

    def own_figures(self, model: Model) -> tuple[str, ...]:
        return ("generator_loss", "generator_accuracy", "replaced", "found")

    def figures(self, sums: Tensor, model: Model) -> dict[str, float]:
        found = metrics_of(sums, self.own_figures(model))
        return {name: value for name, value in found.items() if name != "perplexity"}

    def tokens(self, batch: Batch) -> Tensor:
        return token_count(batch["tokens"], batch.get("attention_mask"))

    def __call__(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        guessed, of_masked, tokens, replaced = self._proposed(model, batch)
        logits = model(tokens, attention_mask=batch.get("attention_mask"))[..., 0].float()
        real = batch.get("attention_mask", torch.ones_like(replaced))
        detected = F.binary_cross_entropy_with_logits(logits[real], replaced[real].to(logits), reduction="sum")
        loss = guessed / self.mask_rate + self.weight * detected
        with torch.no_grad():
            said, count = logits > 0, real.sum()
            masked = (batch["targets"] != IGNORED).sum()
            right, found, changed = ((one & real).sum() for one in (said == replaced, said & replaced, replaced))
            parts = [loss, detected, right, count, torch.zeros_like(count), count]
            parts += [of_masked[1], masked, of_masked[2], masked, changed, count, found, changed]
            return loss, torch.stack([part.detach().to(exact_type(loss.device)) for part in parts])

    def _proposed(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The generator's summed loss and its sums; (B, T) the row with its proposals; and where they are wrong."""
        targets = batch["targets"]
        masked = targets != IGNORED
        vectors = model(batch["tokens"], attention_mask=batch.get("attention_mask"), hidden=True, propose=True)
        sampling = _Sampling(batch["draws"][masked])
        proposals = _Proposals(model)
        loss, found = loss_of_hidden(proposals, vectors[masked], targets[masked], sampling, self.loss_chunk)
        text = torch.where(masked, targets, batch["tokens"])
        tokens = text.masked_scatter(masked, sampling.tokens)
        return loss, found, tokens, tokens != text

    def logits(self, model: Model, batch: Batch) -> Tensor:
        tokens = self._proposed(model, batch)[2]
        return model(tokens, attention_mask=batch.get("attention_mask"))

    def predict(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        _, _, tokens, replaced = self._proposed(model, batch)
        said = model(tokens, attention_mask=batch.get("attention_mask"))[..., 0] > 0
        real = batch.get("attention_mask", torch.ones_like(replaced))
        return {"predictions": said.long(), "targets": torch.where(real, replaced.long(), IGNORED)}

    def written(self, predicted: Tensor, wanted: Tensor, data: Any) -> dict[str, Any] | None:
        scored = wanted >= 0
        if not scored.any():
            return None
        said, right = predicted[scored], wanted[scored]
        return {"predicted": said.tolist(), "target": right.tolist(), "accuracy": (said == right).float().mean().item()}


class ReplacedRows(MaskedRows):
    """Rows with masked tokens, and with a number for each token, by which the token in its place is sampled."""

    def batch(self, chosen: NDArray[np.int64], epoch: int) -> Batch:
        """As of masked rows, and `draws`: (B, T) from 0 to :data:`FINENESS`, which is not one of them."""
        found = super().batch(chosen, epoch)
        draws = np.zeros(found["tokens"].shape, np.int64)
        for row, sample in enumerate(chosen):
            count = draws.shape[1]  # the numbers before these decide what is masked
            draws[row] = self._rows.uniform(int(sample), epoch, 4 * count)[3 * count :] * FINENESS
        return found | {"draws": torch.from_numpy(draws)}


class _Sampling:
    """The loss of the generator, which samples a token of each row of logits as it sees them.

    Args:
        draws: (N,) of the rows.

    Attributes:
        tokens: (N,) ids.
    """

    def __init__(self, draws: Tensor) -> None:
        self._draws = draws
        self.tokens = torch.zeros_like(draws)

    def __call__(self, logits: Tensor, wanted: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            self.tokens[rows] = sampled(logits, self._draws[rows])
        return LossTerms()(logits, wanted, rows)


@dataclass(frozen=True)
class _Proposals:
    """What makes logits of the vectors of a model's generator."""

    model: Model

    @property
    def generator(self) -> Generator:
        """The model's."""
        generator = getattr(self.model, "generator", None)
        assert isinstance(generator, Generator)
        return generator

    @property
    def head(self) -> Head:
        """Its head."""
        return self.generator.head

    @property
    def table(self) -> Tensor:
        """(V, width) the token table, which its head may share."""
        return self.model.table

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.model.vocab_size

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, V) logits of (N, d) vectors."""
        return self.generator.logits(hidden, self.table)


def sampled(logits: Tensor, draws: Tensor) -> Tensor:
    """(N,) ids of the probabilities of (N, V) logits: the first up to which they sum to more than the draw.

    Args:
        logits: of the ids.
        draws: (N,) from 0 to :data:`FINENESS`, which is not one of them; uniform.
    """
    sums = logits.float().softmax(-1).cumsum(-1)
    return (sums <= (draws / FINENESS)[:, None] * sums[:, -1:]).sum(-1).clamp(max=logits.shape[-1] - 1)
