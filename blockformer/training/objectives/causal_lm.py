"""Prediction of the next token."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blockformer.data.datasets.base import UNSCORED
from blockformer.data.samples import Batch, EqualRows, Samples, TokenizedText, scored_batch
from blockformer.data.sequences import Sequences, gather
from blockformer.data.tokenizer import Tokenizer
from blockformer.errors import UserError
from blockformer.training.objectives.base import Chunk, Factor, Prompt, Smoothing, TokenObjective, token_count
from blockformer.training.objectives.best_fit_rows import BestFitRows
from blockformer.training.objectives.chat_rows import BestFitChats, ConcatenatedChats
from blockformer.training.objectives.seq2seq import PaddedPairs
from blocks.models.base import Model
from registry import Ability, register


@register("causal_lm")
class CausalLM(TokenObjective):
    """Prediction of the next token.

    Documents share rows of `data.length` tokens. Of pairs, source and target stand in one row, and the target
    is predicted; of conversations, answers are.

    Args:
        separate_documents: Limit attention to the token's document in rows with several.
        packing: How documents share rows: "concatenate", one after another, cut where a row is full; or "best_fit":
            none is cut that fits into a row, what is left of a row is padding (Ding et al. 2024, arXiv:2404.10830).
        label_smoothing: Share of each target's probability that is spread over the vocabulary, in training only.
        z_loss: Factor of log(Z)^2 in training, where Z is the sum of exp(logits), such as 1e-4.
        loss_chunk: Rows whose logits exist at once, which bounds the memory of the loss; null: by the vocabulary, 2^24
            logits; 0: all.
    """

    paper = "Radford et al., 2018, Improving Language Understanding by Generative Pre-Training"
    formula = "loss = -mean_t log p(x_t ∣ x_1, ..., x_(t-1))"
    kinds = ("decoder_only",)
    forms = ("documents", "pairs", "answers", "ids", "chats")
    generates = ("pairs",)

    def __init__(
        self,
        *,
        separate_documents: bool = True,
        packing: Literal["concatenate", "best_fit"] = "concatenate",
        label_smoothing: Smoothing = 0.0,
        z_loss: Factor = 0.0,
        loss_chunk: Chunk = None,
    ) -> None:
        super().__init__(label_smoothing, z_loss, loss_chunk)
        self.separate_documents, self.packing = separate_documents, packing

    def samples(self, text: TokenizedText) -> Samples:
        if text.paired:
            if self.packing == "best_fit":
                raise UserError(f"objective.packing {self.packing} has no effect with pairs; remove it")
            return PromptedPairs(*text.pairs, text.tokenizer)
        if text.answers is not None:
            rows = BestFitChats if self.packing == "best_fit" else ConcatenatedChats
            return rows(text, text.answers, separate=self.separate_documents)
        if self.packing == "best_fit":
            return BestFitRows(text, separate=self.separate_documents)
        return PackedRows(text.documents, text.tokenizer, text.length, separate=self.separate_documents)

    def longest_side(self, length: int) -> int:
        return length // 2

    def abilities(self, form: str) -> Mapping[Ability, str]:
        if form == "pairs":
            return {"padding": "pairs of different lengths are padded"}
        if form in ("documents", "ids", "chats") and self.separate_documents:
            why = "rows hold several documents that are kept apart (unless objective.separate_documents is false)"
            return {"documents": why}
        return {}

    def check(self, model: Model, data: Any) -> None:
        if self.packing == "best_fit" and getattr(data, "form", None) == "answers":
            raise UserError(f"objective.packing best_fit has no effect with dataset {data.dataset}; remove it")

    def prompt(self, batch: Batch, row: int) -> Prompt:
        scored = batch["targets"][row] != UNSCORED
        first = int(scored.nonzero()[0])
        *answer, _ = batch["targets"][row][scored].tolist()
        return Prompt(None, batch["tokens"][row, : first + 1].tolist(), answer)

    def hidden(self, model: Model, batch: Batch) -> Tensor:
        masks = {key: batch.get(key) for key in ("attention_mask", "documents", "prefix")}
        return model(batch["tokens"], **masks, hidden=True)

    def tokens(self, batch: Batch) -> Tensor:
        return token_count(batch["tokens"], batch.get("attention_mask"))


class PackedRows(EqualRows):
    """Rows of `length` tokens for causal language models, cut from concatenated documents, each after a BOS.

    The target of a token is the next token of its document, or EOS at the document's end; never the BOS of the next
    document. So every byte is predicted once, and the sum of losses over the sum of `bytes` is the code length of the
    text, with any tokenizer.

    Args:
        documents: Token sequences that begin with BOS.
        tokenizer: For special tokens and the number of bytes of each token.
        length: T, tokens in a row.
        separate: Add the number of each token's document to batches, to limit attention to the document.
    """

    def __init__(self, documents: Sequences, tokenizer: Tokenizer, length: int, *, separate: bool = True) -> None:
        self._flat, self._tokenizer, self._length = documents.flat, tokenizer, length
        self._separate = separate and len(documents) > 1

    def __len__(self) -> int:
        return -(-len(self._flat) // self._length)

    def batch(self, chosen: NDArray[np.int64], epoch: int) -> Batch:
        """`tokens`, `targets` (B, T), `bytes` (B,) and, with several documents, `documents` (B, T)."""
        T, special = self._length, self._tokenizer
        starts = chosen * T
        left = len(self._flat) - starts
        block, _ = gather(self._flat, starts, np.minimum(left, T + 1), special.bos, width=T + 1)
        real = np.arange(T) < left[:, None]
        tokens = np.where(real, block[:, :-1], special.pad)
        following = np.where(block[:, 1:] == special.bos, special.eos, block[:, 1:])
        batch = scored_batch(chosen, np.where(real, following, UNSCORED), special, tokens=tokens)
        if self._separate:
            documents = np.cumsum(tokens == special.bos, axis=1)
            batch["documents"] = torch.from_numpy(np.where(real, documents, T + 1))
        return batch


class PromptedPairs(PaddedPairs):
    """Pairs for decoder-only models: source, EOS, BOS and target in one row; the target and EOS are predicted.

    The same tokens are scored as in :class:`PaddedPairs`, so that the losses of both kinds of model can be compared.
    """

    def batch(self, chosen: NDArray[np.int64], epoch: int) -> Batch:
        """`tokens`, `attention_mask`, `targets` (B, S + T) and `bytes` (B,)."""
        source, source_mask = self._sources.padded(chosen, self._tokenizer.pad)
        target, target_mask, following = self._answers(chosen)
        first = source_mask.sum(axis=1, keepdims=True)
        places = np.arange(int(self.lengths(chosen).max(initial=0)))
        asked, answered = places < first, (places >= first) & (places < first + target_mask.sum(axis=1, keepdims=True))
        tokens = np.full(asked.shape, self._tokenizer.pad, dtype=np.int64)
        targets = np.full(asked.shape, UNSCORED, dtype=np.int64)
        tokens[asked], tokens[answered] = source[source_mask], target[target_mask]
        targets[answered] = following[target_mask]
        return scored_batch(chosen, targets, self._tokenizer, tokens=tokens, attention_mask=asked | answered)
