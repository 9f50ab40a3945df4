"""Prediction of a target from a source."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blockformer.data.datasets.base import UNSCORED
from blockformer.data.samples import Batch, Samples, TokenizedText, scored_batch
from blockformer.data.sequences import Sequences, padded
from blockformer.data.tokenizer import Tokenizer
from blockformer.training.objectives.base import Chunk, Factor, Prompt, Smoothing, TokenObjective, token_count
from blocks.models.base import Model
from registry import Ability, register


@register("seq2seq")
class SequenceToSequence(TokenObjective):
    """Prediction of the next token of a target from the source and the target's earlier tokens.

    Args:
        label_smoothing: Share of each target's probability that is spread over the vocabulary, in training only.
        z_loss: Factor of log(Z)^2 in training, where Z is the sum of exp(logits), such as 1e-4.
        loss_chunk: Rows whose logits exist at once, which bounds the memory of the loss; null: by the vocabulary, 2^24
            logits; 0: all.
    """

    paper = "Vaswani et al., 2017, Attention Is All You Need, arXiv:1706.03762"
    formula = "loss = -mean_t log p(y_t ∣ y_1, ..., y_(t-1), x)"
    kinds = ("encoder_decoder",)
    forms = ("pairs",)
    keys = ("source", "target", "targets")
    generates = ("pairs",)

    def __init__(self, *, label_smoothing: Smoothing = 0.0, z_loss: Factor = 0.0, loss_chunk: Chunk = None) -> None:
        super().__init__(label_smoothing, z_loss, loss_chunk)

    def samples(self, text: TokenizedText) -> Samples:
        return PaddedPairs(*text.pairs, text.tokenizer)

    def abilities(self, form: str) -> Mapping[Ability, str]:
        return {"padding": "pairs of different lengths are padded"}

    def prompt(self, batch: Batch, row: int) -> Prompt:
        source, targets = batch["source"][row], batch["targets"][row]
        *answer, _ = targets[targets != UNSCORED].tolist()
        return Prompt(source[batch["source_mask"][row]].tolist(), batch["target"][row, :1].tolist(), answer)

    def hidden(self, model: Model, batch: Batch) -> Tensor:
        masks = {key: batch.get(key) for key in ("source_mask", "target_mask")}
        return model(batch["source"], batch["target"], **masks, hidden=True)

    def tokens(self, batch: Batch) -> Tensor:
        source = token_count(batch["source"], batch.get("source_mask"))
        return source + token_count(batch["target"], batch.get("target_mask"))


class PaddedPairs:
    """Pairs for encoder-decoders: the source ends with EOS; the decoder reads BOS and target, predicts target and EOS.

    Args:
        sources: Token sequences that end with EOS.
        targets: As many token sequences, which begin with BOS.
        tokenizer: For special tokens and the number of bytes of each token.
    """

    vary: bool = True

    def __init__(self, sources: Sequences, targets: Sequences, tokenizer: Tokenizer) -> None:
        self._sources, self._targets, self._tokenizer = sources, targets, tokenizer

    def __len__(self) -> int:
        return len(self._sources)

    def lengths(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) tokens of source and target together."""
        return self._sources.lengths(chosen) + self._targets.lengths(chosen)

    def batch(self, chosen: NDArray[np.int64], epoch: int) -> Batch:
        """`source`, `source_mask` (B, S), `target`, `target_mask`, `targets` (B, T) and `bytes` (B,)."""
        source, source_mask = self._sources.padded(chosen, self._tokenizer.pad)
        target, target_mask, targets = self._answers(chosen)
        given = {"source": source, "source_mask": source_mask, "target": target, "target_mask": target_mask}
        return scored_batch(chosen, targets, self._tokenizer, **given)

    def _answers(self, chosen: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
        """(B, T) what the decoder reads, where that is no padding, and what it predicts."""
        special = self._tokenizer
        target, target_mask = self._targets.padded(chosen, special.pad)
        following = np.concatenate((target[:, 1:], np.full_like(target[:, :1], special.pad)), axis=1)
        ends = np.arange(target.shape[1]) == self._targets.lengths(chosen)[:, None] - 1
        return target, target_mask, np.where(ends, special.eos, np.where(target_mask, following, UNSCORED))


def padded_pairs(
    chosen: NDArray[np.int64], sources: list[NDArray[np.int64]], targets: list[NDArray[np.int64]], special: Tokenizer
) -> Batch:
    """A batch of sources, each before an EOS, and targets, each after a BOS; it does not count bytes."""
    source, source_mask = padded(sources, special.pad)
    target, target_mask = padded(targets, special.pad)
    following = [np.append(one[1:], special.eos) for one in targets]
    batch = {"source": source, "source_mask": source_mask, "target": target, "target_mask": target_mask}
    batch |= {"targets": padded(following, UNSCORED)[0], "index": chosen}
    return {name: torch.from_numpy(value) for name, value in batch.items()}
