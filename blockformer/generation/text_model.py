"""A trained model with its tokenizer: text in, text out."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from blockformer.assembly.checkpoint import checkpoint_of
from blockformer.assembly.loading import load_checkpoint
from blockformer.data import tokenizer as tokenizers
from blockformer.errors import UserError
from blockformer.generation import Blank, Choose, beam_search, fill, greedy, stream
from blockformer.generation.session import room
from blocks.models.base import Model

TOGETHER = 64
"""Texts that are searched for side by side, which bounds the memory."""


class TextModel:
    """What a model does with text.

    Args:
        model: in evaluation mode.
        tokenizer: the one that it was trained with.
    """

    def __init__(self, model: Model, tokenizer: tokenizers.Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> "TextModel":
        """Read a checkpoint, or the best or else the last one of a run's folder.

        Raises:
            UserError: there is none, it is damaged, or it holds no tokenizer.
        """
        path = find(Path(path))
        model, metadata = load_checkpoint(path, device)
        if metadata["tokenizer"] is None:
            raise UserError(f"{path}: holds no tokenizer, so its model can neither read nor write text")
        return cls(model, tokenizers.load(metadata["tokenizer"]))

    def encode(self, text: str) -> list[int]:
        """Token ids of a text as the model is given it, with what begins or ends it."""
        kinds = {"decoder_only": self._begin, "encoder_decoder": self._source}
        return kinds.get(self.model.kind, self.tokenizer.encode)(text)

    def room(self, text: str, max_new_tokens: int) -> int:
        """How many tokens may follow a text: as many as asked for, but none past the model's ``max_length``."""
        return room(self.model, self._begin(text), max_new_tokens)

    def stream(
        self, text: str, *, max_new_tokens: int, choose: Choose = greedy, source: str | None = None
    ) -> Iterator[str]:
        """Continue a text, giving characters as soon as all their bytes are there.

        Args:
            text: what is there already; for an encoder_decoder the beginning of its translation, usually nothing.
            max_new_tokens: most tokens to write.
            choose: :func:`~blockformer.generation.greedy` or a :func:`~blockformer.generation.sampler`.
            source: what an encoder_decoder reads.

        Raises:
            ValueError: the model does not write, or a text is too long for it.
        """
        sources = None if source is None else [self._source(source)]
        decoder, begin, eos = self.tokenizer.stream(), [self._begin(text)], self.tokenizer.eos
        for (token,) in stream(
            self.model, begin, max_new_tokens=max_new_tokens, sources=sources, eos=eos, choose=choose
        ):
            if token is not None:
                yield decoder.feed(token)
        yield decoder.end()

    def search(
        self,
        texts: Sequence[str],
        *,
        max_new_tokens: int,
        sources: Sequence[str] | None = None,
        beams: int = 4,
        best: int = 1,
        alpha: float = 0.6,
    ) -> list[list[tuple[str, float]]]:
        """Continue texts by :func:`~blockformer.generation.beam_search`: each with its score, best first.

        Raises:
            ValueError: as for the search itself.
        """
        results: list[list[tuple[str, float]]] = []
        for start in range(0, len(texts), TOGETHER):
            part = slice(start, start + TOGETHER)
            found = beam_search(
                self.model,
                [self._begin(text) for text in texts[part]],
                sources=None if sources is None else [self._source(source) for source in sources[part]],
                max_new_tokens=max_new_tokens,
                eos=self.tokenizer.eos,
                beams=beams,
                best=best,
                alpha=alpha,
            )
            results += [[(self.tokenizer.decode(one.tokens), one.score) for one in row] for row in found]
        return results

    def fill(self, text: str, blank: str, *, top: int = 5) -> tuple[str, list[Blank]]:
        """Fill in the blanks of a text, a token each.

        Args:
            text: with ``blank`` in the place of every missing token; of a tokenizer of bytes a token is a byte.
            blank: how a blank is written.
            top: number of candidates to report for each.

        Raises:
            ValueError: the model does not fill in blanks, there is none, or the text is too long.
        """
        first, *others = text.split(blank)
        tokens = self.tokenizer.encode(first)
        for piece in others:
            tokens += [self.tokenizer.mask, *self.tokenizer.encode(piece)]
        filled, blanks = fill(self.model, tokens, self.tokenizer.mask, top=top)
        return self.tokenizer.decode(filled), blanks

    def _begin(self, text: str) -> list[int]:
        return [self.tokenizer.bos, *self.tokenizer.encode(text)]

    def _source(self, text: str) -> list[int]:
        return [*self.tokenizer.encode(text), self.tokenizer.eos]


def find(path: Path) -> Path:
    """A checkpoint's file: the path itself, or in a run's folder the best or else the last one.

    Raises:
        UserError: the folder has none.
    """
    if not path.is_dir():
        return path
    if (file := checkpoint_of(path)) is not None:
        return file
    raise UserError(f"{path}: is no run's folder, as it has neither checkpoints/best.ckpt nor checkpoints/last.ckpt")
