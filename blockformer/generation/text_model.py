"""A trained model with its tokenizer: text in, text out."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from blockformer.assembly.loading import load, load_with_metadata
from blockformer.data.chat_tokens import ChatEncoder
from blockformer.data.corpora.chats import ASSISTANT
from blockformer.data.corpora.corpus import Chat
from blockformer.data.tokenizer import Tokenizer
from blockformer.errors import DataError, UserError
from blockformer.generation.beam_search import beam_search
from blockformer.generation.mask_filling import FilledMask, fill_masks
from blockformer.generation.sampling import TokenChooser, greedy
from blockformer.generation.session import Ends, token_budget
from blockformer.generation.speculative import Drafting, speculate
from blockformer.generation.streaming import generate, stream
from blockformer.generation.trained_folder import find_checkpoint, imported_tokenizer, is_imported, stored_tokenizer
from blocks.models.base import Model

Prompt = str | Sequence[int]
"""A text, or token ids with all special tokens that the model needs."""
SEARCH_BATCH = 64
"""Texts that are searched in one batch, which bounds the memory."""
WRITING_BATCH = 16
"""Texts that are continued in one batch."""


class TextModel:
    """A model that reads and generates text.

    Args:
        model: in evaluation mode.
        tokenizer: the one that it was trained with.
        bidirectional_prompt: the tokens of a prompt depend on each other in both directions, as in its training.
    """

    def __init__(self, model: Model, tokenizer: Tokenizer, *, bidirectional_prompt: bool = False) -> None:
        self.model, self.tokenizer, self.bidirectional_prompt = model, tokenizer, bidirectional_prompt

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> "TextModel":
        """Load a checkpoint, from a run's folder the best checkpoint, else the last, or an imported folder.

        Raises:
            UserError: there is none, it is damaged, it has no valid tokenizer, or its head pools.
        """
        bidirectional = False
        if is_imported(path := Path(path)):
            model = load(path, device=device, dtype=torch.float32)
            tokenizer = imported_tokenizer(path)
        else:
            path = find_checkpoint(path)
            model, metadata = load_with_metadata(path, device)
            bidirectional = bool(metadata.get("bidirectional_prompt"))
            tokenizer = stored_tokenizer(path, metadata)
        if model.pooled:
            raise UserError(
                f"{path}: its head pools, so it gives one row of outputs for each text and cannot generate or fill in "
                "text; use `blockformer test` or `blockformer predict`"
            )
        if model.per_token:
            raise UserError(
                f"{path}: its head gives {model.head.values} values for each token, not logits of ids, so it cannot "
                "generate or fill in text; use `blockformer test` or `blockformer predict`"
            )
        if tokenizer.vocab_size > model.vocab_size:
            raise UserError(f"{path}: its tokenizer has {tokenizer.vocab_size} ids, and its model {model.vocab_size}")
        return cls(model, tokenizer, bidirectional_prompt=bidirectional)

    @property
    def kind(self) -> str:
        """The model's kind for the tokenizer, which adds other special tokens where the head pools."""
        return "pooled" if self.model.pooled else self.model.kind

    def encode(self, text: str) -> list[int]:
        """The model's input for a text: token ids, with the special tokens of the model's kind."""
        before, after = self.tokenizer.around(self.kind)
        return [*before, *self.tokenizer.encode(text), *after]

    def chat_prompts(self, chats: Sequence[Chat]) -> tuple[list[list[int]], list[int]]:
        """Prompts for the assistant's next message in conversations, by the tokenizer's chat template.

        Returns:
            The token ids of each conversation with the template's generation prompt, and the ids that end an answer:
            the tokenizer's end token, and the special token that the template puts after an answer.

        Raises:
            DataError: the tokenizer has no chat template, or a conversation cannot be rendered.
            ValueError: the model is no decoder_only, or there is nothing to answer in a conversation, or it is too
                long.
        """
        if self.model.kind != "decoder_only":
            raise ValueError(f"a model of kind {self.model.kind} does not answer messages; use a decoder_only")
        if self.tokenizer.chat is None:
            raise DataError(
                "the model's tokenizer has no chat template, which messages need: use --prompt, or train with "
                "--data.chat_template FILE"
            )
        for chat in chats:
            if chat.messages[-1]["role"] == ASSISTANT:
                raise ValueError(f"{chat.where}: the last message is the assistant's: remove it to have it generated")
        with ChatEncoder(self.tokenizer) as encoder:
            prompts = [one.ids.tolist() for one in encoder.encode(chats, prompt=True)]
            ends = {self.tokenizer.eos, encoder.end_of_answer(chats[0])} if chats else set[int]()
        for chat, prompt in zip(chats, prompts, strict=True):
            if len(prompt) > (longest := self.model.max_length):
                raise ValueError(f"{chat.where}: has {len(prompt)} tokens, but the model's max_length is {longest}")
        return prompts, [one for one in ends if one is not None]

    def prompt_size(self, prompt: Prompt) -> int:
        """How many tokens the model reads of a prompt."""
        return len(self._encode_prompt(prompt))

    def token_budget(self, prompt: Prompt, max_new_tokens: int) -> int:
        """How many tokens can follow a prompt: ``max_new_tokens``, or fewer to stay within its longest sequence."""
        return token_budget(self.model, self._encode_prompt(prompt), max_new_tokens)

    def drafting(self, other: "TextModel", tokens: int = 4) -> Drafting:
        """Let another model draft tokens for :meth:`stream`, ``tokens`` at a time.

        Raises:
            ValueError: it has another tokenizer, or ``tokens`` is below 1.
        """
        if not self.tokenizer.encodes_as(other.tokenizer):
            raise ValueError(
                "the draft has another tokenizer, so that its tokens mean other texts; train one with this"
            )
        return Drafting(other.model, tokens)

    def stream(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int,
        choose: TokenChooser = greedy,
        source: str | None = None,
        eos: Ends = None,
        prompt_chunk: int | None = None,
        compiled: bool = False,
        drafting: Drafting | None = None,
    ) -> Iterator[str]:
        """Continue a prompt and yield characters as soon as all their bytes are known.

        Args:
            prompt: what to continue; for an encoder_decoder the beginning of the target, usually empty.
            max_new_tokens: most tokens to generate.
            choose: :func:`~blockformer.generation.greedy` or a :func:`~blockformer.generation.sampler`.
            source: the encoder's input, for an encoder_decoder.
            eos: the ids that end the text; None: the tokenizer's end token.
            prompt_chunk: tokens of the prompt that are read at once; None: 2048.
            compiled: compile the steps after the prompt.
            drafting: a model that drafts tokens, of :meth:`drafting`; None: none does.

        Raises:
            ValueError: the model cannot generate, or a text is too long for it.
        """
        ids, read = self._encode_prompt(prompt), None if source is None else self.encode(source)
        given: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "eos": self.tokenizer.eos if eos is None else eos,
            "choose": choose,
            "bidirectional_prompt": self.bidirectional_prompt,
            "prompt_chunk": prompt_chunk,
        }
        decoder = self.tokenizer.stream(ids)
        if drafting is not None and compiled:
            raise ValueError("compiled has no effect with drafting, whose steps have varying numbers of tokens")
        if drafting is not None:
            tokens = speculate(self.model, drafting, ids, source=read, **given)
        else:
            sources = None if read is None else [read]
            steps = stream(self.model, [ids], sources=sources, compiled=compiled, **given)
            tokens = (token for (token,) in steps if token is not None)
        for token in tokens:
            yield decoder.feed(token)
        yield decoder.end()

    def write(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        choose: TokenChooser = greedy,
        eos: Ends = None,
        prompt_chunk: int | None = None,
        compiled: bool = False,
    ) -> list[str]:
        """The continuations of prompts that a decoder_only reads side by side; greedily as of each alone.

        Arguments and errors as of :meth:`stream`.
        """
        written: list[str] = []
        for start in range(0, len(prompts), WRITING_BATCH):
            batch = [self._encode_prompt(one) for one in prompts[start : start + WRITING_BATCH]]
            rows = generate(
                self.model,
                batch,
                max_new_tokens=max_new_tokens,
                eos=self.tokenizer.eos if eos is None else eos,
                choose=choose,
                bidirectional_prompt=self.bidirectional_prompt,
                prompt_chunk=prompt_chunk,
                compiled=compiled,
            )
            written += [text_after(self.tokenizer, prompt, row) for prompt, row in zip(batch, rows, strict=True)]
        return written

    def search(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        sources: Sequence[str] | None = None,
        beams: int = 4,
        best: int = 1,
        alpha: float = 0.6,
        eos: Ends = None,
    ) -> list[list[tuple[str, float]]]:
        """The continuations of each prompt that beam search finds, with their scores, best first.

        Raises:
            ValueError: as for the search itself.
        """
        results: list[list[tuple[str, float]]] = []
        for start in range(0, len(prompts), SEARCH_BATCH):
            part = slice(start, start + SEARCH_BATCH)
            encoded = [self._encode_prompt(prompt) for prompt in prompts[part]]
            found = beam_search(
                self.model,
                encoded,
                sources=None if sources is None else [self.encode(source) for source in sources[part]],
                max_new_tokens=max_new_tokens,
                eos=self.tokenizer.eos if eos is None else eos,
                beams=beams,
                best=best,
                alpha=alpha,
                bidirectional_prompt=self.bidirectional_prompt,
            )
            for prompt, row in zip(encoded, found, strict=True):
                results.append([(text_after(self.tokenizer, prompt, one.tokens), one.score) for one in row])
        return results

    def fill_masks(self, text: str, blank: str, *, top: int = 5) -> tuple[str, list[FilledMask]]:
        """Predict the missing tokens of a text.

        Args:
            text: with ``blank`` at every missing token; with a byte tokenizer, a token is one byte.
            blank: the characters that stand for a missing token.
            top: number of candidates to return for each.

        Raises:
            ValueError: the model is no encoder, there is no blank, or the text is too long.
        """
        first, *others = text.split(blank)
        tokens = self.tokenizer.encode(first)
        for piece in others:
            tokens += [self.tokenizer.mask, *self.tokenizer.encode(piece)]
        before, after = self.tokenizer.around(self.model.kind)
        filled, masks = fill_masks(self.model, [*before, *tokens, *after], self.tokenizer.mask, top=top)
        return self.tokenizer.decode(filled), masks

    def _encode_prompt(self, text: Prompt) -> list[int]:
        """What is continued: an empty text and the target of an encoder-decoder begin with BOS in any tokenizer."""
        if not isinstance(text, str):
            return list(text)
        if self.model.kind == "encoder_decoder":
            return [self.tokenizer.bos, *self.tokenizer.encode(text)]
        return self.encode(text) or [self.tokenizer.bos]


def text_after(tokenizer: Tokenizer, prompt: Sequence[int], tokens: Sequence[int]) -> str:
    """The text of tokens after a prompt."""
    stream = tokenizer.stream(prompt)
    return "".join([*map(stream.feed, tokens), stream.end()])
