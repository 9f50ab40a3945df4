"""The contract of an objective, and what those that predict tokens have in common."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

from annotated_types import Ge, Lt
from torch import Tensor

from blockformer.data.datasets.base import Form
from blockformer.data.mixed_samples import MEMBERSHIP
from blockformer.data.samples import Batch, Samples, TokenizedText
from blockformer.training.objectives.vocabulary_loss import LossTerms, RowLoss, loss_of_hidden
from blockformer.training.score import metrics_of, sums_of
from blocks.models.base import Model
from registry import Ability, Block, Slot, entry_of

if TYPE_CHECKING:
    from torchmetrics import Metric  # takes seconds to import

COMMON = ("type",)
"""Settings of :class:`~blockformer.training.objectives.settings.ObjectiveSettings` that are not of one objective."""

Smoothing = Annotated[float, Ge(0), Lt(1)]
Factor = Annotated[float, Ge(0)]
Chunk = Annotated[int, Ge(0)] | None


class Prompt(NamedTuple):
    """A row as a question and its answer, in token ids.

    Attributes:
        source: what the encoder reads; None: there is no encoder.
        given: what the decoder begins with, at least one id.
        answer: what follows, without the token that ends it.
    """

    source: list[int] | None
    given: list[int]
    answer: list[int]


class Objective(Block, ABC):
    """What a model learns to predict: it cuts text into samples, calls the model on a batch of them, and scores it.

    The constructor's parameters are options of `blockformer fit`, such as `--objective.mask_rate`; each is kept in an
    attribute of its name.

    Attributes:
        kinds: the kinds of models that it trains.
        forms: the forms of data that it learns from.
        keys: what a batch has for it.
        bidirectional_prompt: whether the model reads what it is given in both directions, also when it generates.
        generates: the forms of data whose rows are a prompt and the answer that follows it.
        pooled: whether it scores one row of outputs for each text, from a head that pools, and not one for each token.
        per_token: whether it scores the values that a head gives for each token, and not logits of ids.
        trains_extra: whether it trains the extra predictions of a model.
        trains_generator: whether it trains the generator of a model.
        reads: the parameters that name files, which are not taken from a checkpoint of another user.
    """

    slot = Slot(
        "objective",
        "Decides what a model learns to predict, and from what.",
        parent_arguments=(),
        option="objective.type",
        reserved=frozenset(COMMON),
    )
    kinds: tuple[str, ...]
    forms: tuple[Form, ...]
    keys: tuple[str, ...] = ("tokens", "targets")
    bidirectional_prompt: bool = False
    generates: tuple[Form, ...] = ()
    pooled: ClassVar[bool] = False
    per_token: ClassVar[bool] = False
    trains_extra: ClassVar[bool] = False
    trains_generator: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The name under which it is registered."""
        return entry_of(type(self)).name

    def as_dict(self) -> dict[str, Any]:
        """Its name as `type`, and its parameters, as plain data."""
        return {"type": self.name, **{key: getattr(self, key) for key in entry_of(type(self)).parameters}}

    @abstractmethod
    def samples(self, text: TokenizedText) -> Samples:
        """The samples of a text of one of its `forms`; never called for rows with answers, which are samples."""

    def extra_tokens(self, length: int) -> tuple[str, ...]:
        """Names of tokens that it needs beyond those of the tokenizer, where rows have this length."""
        return ()

    def longest_side(self, length: int) -> int:
        """Tokens that each side of a pair may have, where rows have this length."""
        return length

    def abilities(self, form: Form) -> Mapping[Ability, str]:
        """What the blocks of a model must support for data of this form, each with the reason as a clause."""
        return {}

    def prompt(self, batch: Batch, row: int) -> Prompt:
        """A row of a batch of a form that it `generates` as a prompt and an answer."""
        raise NotImplementedError(f"{type(self).__name__}.prompt, which generates {self.generates}")

    def check(self, model: Model, data: Any) -> None:
        """Check what it needs beyond its parameters, before it trains a model.

        Args:
            model: the model to train, perhaps on the meta device.
            data: the data module.

        Raises:
            UserError: something is missing or does not fit; the message names the option.
        """

    def refusal(self, model: Model, classes: Sequence[str]) -> str | None:
        """Why it can neither train nor score this model, with the remedy; None: it can.

        Args:
            model: of one of its `kinds`.
            classes: names of the classes of the data; of other data none.
        """
        return None

    def own_figures(self, model: Model) -> tuple[str, ...]:
        """Names of figures of its own, each a mean; its sums have a total and a count of each after the usual six."""
        return ()

    def facts(self) -> Mapping[str, Any]:
        """What it reads, as plain data for checkpoints; a run continues only where these are the same."""
        return {}

    @abstractmethod
    def __call__(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        """The summed loss, with label smoothing and z-loss only in training mode, and the sums of a :class:`Score`.

        Where a batch says which of S sources each row is from, the sums are followed by loss and number of targets of
        each source; an objective that does not compute them gives (6,) sums, and those figures are left out.
        """

    @abstractmethod
    def logits(self, model: Model, batch: Batch) -> Tensor:
        """(B, T, V) logits, one row for each place of ``batch["targets"]``; of one that is `pooled` (B, outputs)."""

    @abstractmethod
    def tokens(self, batch: Batch) -> Tensor:
        """Number of tokens that the model reads in this batch, without padding."""

    def figures(self, sums: Tensor, model: Model) -> dict[str, float]:
        """The figures of the sums of one batch or several, by name."""
        return metrics_of(sums, self.own_figures(model))

    def metrics(self, model: Model) -> dict[str, "Metric"]:
        """Figures of an evaluation that sums do not give, by name; :meth:`evaluate` updates them."""
        return {}

    def evaluate(self, model: Model, batch: Batch, metrics: Mapping[str, "Metric"]) -> Tensor:
        """The sums of a batch that is only scored, while `metrics` are updated."""
        return self(model, batch)[1]

    def predict(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        """The `predictions` at every place and the `targets`."""
        return {"predictions": self.logits(model, batch).argmax(-1), "targets": batch["targets"]}

    def written(self, predicted: Tensor, wanted: Tensor, data: Any) -> dict[str, Any] | None:
        """What `predict` writes about a row.

        Args:
            predicted: a row of `predictions`.
            wanted: a row of `targets`.
            data: the data module.

        Returns:
            JSON values; None: nothing in the row is scored.
        """
        scored = wanted >= 0
        if not scored.any():
            return None
        tokenizer = data.tokenizer
        decode = list if tokenizer is None else tokenizer.decode  # the ids of a task are not text
        texts = {"predicted": decode(predicted[scored].tolist()), "target": decode(wanted[scored].tolist())}
        return texts | {"accuracy": (predicted[scored] == wanted[scored]).float().mean().item()}


class TokenObjective(Objective):
    """An objective that predicts tokens, whose loss is computed from the vectors before the model's head.

    Args:
        label_smoothing: share of each target's probability that is spread over the vocabulary, in training only;
            validation losses are never smoothed.
        z_loss: factor of log(Z)^2, where Z is the sum of exp(logits); in training only.
        loss_chunk: rows whose logits exist at once; None: by the vocabulary; 0: all.
    """

    def __init__(self, label_smoothing: float, z_loss: float, loss_chunk: int | None) -> None:
        self.label_smoothing, self.z_loss, self.loss_chunk = label_smoothing, z_loss, loss_chunk

    def __call__(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.scored(model, batch, self.terms(model, batch))

    def terms(self, model: Model, batch: Batch) -> LossTerms:
        """What the loss against the targets is made of, in the model's mode, and the sources of the batch's rows."""
        sources, shape = batch.get(MEMBERSHIP), batch["targets"].shape
        groups = None if sources is None else sources[:, None].expand(*shape, -1).flatten(0, 1)
        return LossTerms(self.label_smoothing, self.z_loss, groups) if model.training else LossTerms(groups=groups)

    def scored(self, model: Model, batch: Batch, loss: RowLoss) -> tuple[Tensor, Tensor]:
        """The summed loss of a batch and the sums of a :class:`Score`, with this loss of each part of the rows."""
        targets = batch["targets"]
        total, found = loss_of_hidden(model, self.hidden(model, batch), targets, loss, self.loss_chunk)
        return total, sums_of(found, targets, batch.get("bytes"), self.tokens(batch))

    @abstractmethod
    def hidden(self, model: Model, batch: Batch) -> Tensor:
        """(B, T, D) vectors before the model's head, one for each place of ``batch["targets"]``."""

    def logits(self, model: Model, batch: Batch) -> Tensor:
        return model.logits(self.hidden(model, batch))


def token_count(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Number of tokens where mask (True: a token, False: padding) allows them; without a mask all."""
    return tokens.new_tensor(tokens.numel()) if mask is None else mask.sum()
