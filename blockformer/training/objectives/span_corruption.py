"""Prediction of spans that are cut out of a document."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Ge, Gt, Lt
from numpy.typing import NDArray

from blockformer.data.samples import Batch, Samples, TokenizedText
from blockformer.training.objectives.base import Chunk, Factor, Smoothing
from blockformer.training.objectives.document_rows import DocumentRows
from blockformer.training.objectives.seq2seq import SequenceToSequence, padded_pairs
from registry import Ability, register

Tokens = NDArray[np.int64]
SENTINEL = "<extra_id_{}>"  # the name that T5 gave it, under which a tokenizer may have it
ADDED = 2  # tokens of a pair at most beyond those of its row: EOS or BOS, and the mode


class Rewritten:
    """Rows of documents as pairs of what the encoder reads and what the decoder predicts.

    Args:
        text: The documents, and the most tokens in a row.
        purpose: Name of what is drawn at random for a row.
    """

    vary: bool = True

    def __init__(self, text: TokenizedText, purpose: str) -> None:
        self.text, self.rows = text, DocumentRows(text, purpose, ADDED)

    def __len__(self) -> int:
        return len(self.rows)

    def lengths(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) tokens of the text of each row."""
        return self.rows.sizes(chosen)[1]

    def batch(self, chosen: NDArray[np.int64], epoch: int) -> Batch:
        """`source`, `source_mask` (B, S), `target`, `target_mask` and `targets` (B, T)."""
        tokens, real = self.rows.read(chosen)
        special = self.text.tokenizer
        sources: list[Tokens] = []
        targets: list[Tokens] = []
        for row, sample in enumerate(chosen):
            kept = tokens[row][real[row]]
            source, target = self.pair(kept[kept != special.bos], int(sample), epoch)
            sources.append(np.append(source, special.eos))
            targets.append(np.insert(target, 0, special.bos))
        return padded_pairs(chosen, sources, targets, special)

    @abstractmethod
    def pair(self, tokens: Tokens, sample: int, epoch: int) -> tuple[Tokens, Tokens]:
        """What the encoder reads and what the decoder predicts of a row, without BOS and EOS."""


class Denoiser(NamedTuple):
    """How spans are cut out.

    Attributes:
        noise: share of the tokens that are cut out.
        span: mean length of a span; None: one span, at the end.
        mode: the token that the source begins with; None: none.
    """

    noise: float
    span: float | None
    mode: str | None = None

    def spans(self, length: int) -> tuple[int, int]:
        """Tokens to cut out of so many, and the number of spans."""
        noise = min(max(1, round(self.noise * length)), max(1, length - 1))
        return noise, 1 if self.span is None else min(max(1, round(noise / self.span)), noise, max(1, length - noise))


class CorruptedRows(Rewritten):
    """Rows of which spans are cut out: in the source a sentinel stands for each, in the target it precedes the span.

    As in T5, kept and cut spans alternate, beginning with a kept one, and each division of the tokens among them is
    equally probable. Each row is treated by one of the denoisers.

    Args:
        text: The documents, and the most tokens in a row.
        denoisers: What may be done to a row.
    """

    def __init__(self, text: TokenizedText, denoisers: Sequence[Denoiser]) -> None:
        super().__init__(text, "spans")
        self._denoisers = denoisers

    def pair(self, tokens: Tokens, sample: int, epoch: int) -> tuple[Tokens, Tokens]:
        draws = self.rows.uniform(sample, epoch, 2 * len(tokens) + 1)
        noise, span, mode = self._denoisers[int(draws[0] * len(self._denoisers))]
        cut, number = Denoiser(noise, span).spans(len(tokens))
        removed = _divided(cut, number, draws[1 : 1 + len(tokens)])
        kept = _divided(len(tokens) - cut, number, draws[1 + len(tokens) :])
        source, target = ([[self.text.extra[mode]]] if mode else []), []
        start = 0
        for place, (before, gone) in enumerate(zip(kept, removed, strict=True)):
            sentinel = [self.text.extra[SENTINEL.format(place)]]
            source += [tokens[start : start + before], sentinel]
            target += [sentinel, tokens[start + before : start + before + gone]]
            start += before + gone
        return np.concatenate(source).astype(np.int64), np.concatenate(target).astype(np.int64)


def _divided(total: int, parts: int, draws: NDArray[np.float64]) -> NDArray[np.int64]:
    """A total as a sum of positive parts, each division equally probable; zeros where there is nothing to divide."""
    if total < parts:
        return np.array([total, *[0] * (parts - 1)])
    cuts = np.sort(np.argsort(draws[: total - 1], kind="stable")[: parts - 1]) + 1
    return np.diff(np.concatenate(([0], cuts, [total])))


class _SpanObjective(SequenceToSequence):
    """Prediction of spans by an encoder-decoder."""

    forms = ("documents",)
    denoisers: tuple[Denoiser, ...]

    def samples(self, text: TokenizedText) -> Samples:
        return CorruptedRows(text, self.denoisers)

    def extra_tokens(self, length: int) -> tuple[str, ...]:
        most = max(one.spans(length)[1] for one in self.denoisers)
        modes = dict.fromkeys(one.mode for one in self.denoisers if one.mode is not None)
        return (*modes, *(SENTINEL.format(number) for number in range(most)))

    def abilities(self, form: str) -> Mapping[Ability, str]:
        return {"padding": "rows of different lengths are padded"}


@register("span_corruption")
class SpanCorruption(_SpanObjective):
    """Prediction of the spans that are cut out of rows of at most `data.length` tokens of one document.

    Each span is replaced by a token of its own, such as `<extra_id_0>`. Those that the tokenizer has, as that of T5, it
    shares with the objective; the others come after its ids.

    Args:
        noise: Share of the tokens that are cut out.
        span: Mean length of a span.
        label_smoothing: Share of each target's probability that is spread over the vocabulary, in training only.
        z_loss: Factor of log(Z)^2 in training, where Z is the sum of exp(logits), such as 1e-4.
        loss_chunk: Rows whose logits exist at once, which bounds the memory of the loss; null: by the vocabulary, 2^24
            logits; 0: all.
    """

    paper = "Raffel et al., 2020, Exploring the Limits of Transfer Learning with T5, arXiv:1910.10683, section 3.1.4"
    formula = (
        "loss = -mean_t log p(y_t ∣ y_1, ..., y_(t-1), x′); "
        'x′ = [a, s_1, c, s_2, ...]; y = [s_1, b, s_2, ...] "for" x = [a, b, c, ...]'
    )

    def __init__(
        self,
        *,
        noise: Annotated[float, Gt(0), Lt(1)] = 0.15,
        span: Annotated[float, Ge(1)] = 3.0,
        label_smoothing: Smoothing = 0.0,
        z_loss: Factor = 0.0,
        loss_chunk: Chunk = None,
    ) -> None:
        super().__init__(label_smoothing=label_smoothing, z_loss=z_loss, loss_chunk=loss_chunk)
        self.noise, self.span = noise, span
        self.denoisers = (Denoiser(noise, span),)


REGULAR, SEQUENTIAL, EXTREME = "<R>", "<S>", "<X>"


@register("ul2")
class MixtureOfDenoisers(_SpanObjective):
    """Prediction of spans that are short, long or many, or of the end of a row, each row in one of seven ways.

    A token at the beginning of the source says whether the spans are regular, extreme, or the end of the row: `<R>`,
    `<X>` or `<S>`. It and the tokens that replace the spans are those of the tokenizer where it has special tokens of
    these names, as that of T5 has `<extra_id_0>`; the others come after its ids.

    Args:
        label_smoothing: Share of each target's probability that is spread over the vocabulary, in training only.
        z_loss: Factor of log(Z)^2 in training, where Z is the sum of exp(logits), such as 1e-4.
        loss_chunk: Rows whose logits exist at once, which bounds the memory of the loss; null: by the vocabulary, 2^24
            logits; 0: all.
    """

    paper = "Tay et al., 2023, UL2: Unifying Language Learning Paradigms, arXiv:2205.05131, table 1"
    formula = (
        "loss = -mean_t log p(y_t ∣ y_1, ..., y_(t-1), x′); "
        'x′ = [way, a, s_1, c, ...]; y = [s_1, b, ...] "for" x = [a, b, c, ...]; way ∈ {"<R>", "<S>", "<X>"}'
    )
    denoisers = (
        Denoiser(0.15, 3.0, REGULAR),
        Denoiser(0.15, 8.0, REGULAR),
        Denoiser(0.25, None, SEQUENTIAL),
        Denoiser(0.5, 3.0, EXTREME),
        Denoiser(0.5, 8.0, EXTREME),
        Denoiser(0.15, 64.0, EXTREME),
        Denoiser(0.5, 64.0, EXTREME),
    )

    def __init__(self, *, label_smoothing: Smoothing = 0.0, z_loss: Factor = 0.0, loss_chunk: Chunk = None) -> None:
        super().__init__(label_smoothing=label_smoothing, z_loss=z_loss, loss_chunk=loss_chunk)
