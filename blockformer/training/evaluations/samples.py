"""Texts that a model generates, to be read."""

from dataclasses import replace

import torch

from blockformer.errors import UserError
from blockformer.generation import generate, greedy, sampler
from blockformer.generation.text_model import TextModel, text_after
from blockformer.training.evaluations.base import Better, Evaluation, Outcome, Subject
from blockformer.training.evaluations.prompts import check_prompts, validation_prompts
from blockformer.training.objectives import Prompt
from registry import NonNegativeFloat, Positive, register

KINDS = ("decoder_only", "encoder_decoder")


@register("samples")
class TextSamples(Evaluation):
    """Texts that a model generates: a decoder continues prompts, an encoder-decoder reads them as sources.

    They are always drawn with the same random numbers, so that the texts of two steps differ by the model alone.

    Args:
        prompts: Texts to begin with; empty: the sources of validation pairs.
        rows: Validation pairs whose sources are the prompts, where none are given.
        temperature: Divides the logits before a token is drawn; 0: the most probable token.
        top_p: Draw from the fewest tokens whose probabilities sum to this; null: from all.
        max_new_tokens: Most tokens of a text.
    """

    def __init__(
        self,
        *,
        prompts: tuple[str, ...] = (),
        rows: Positive = 4,
        temperature: NonNegativeFloat = 0.0,
        top_p: float | None = None,
        max_new_tokens: Positive = 64,
    ) -> None:
        if top_p is not None and not 0 < top_p <= 1:
            raise UserError(f"top_p must be above 0 and at most 1, not {top_p}")
        if top_p is not None and not temperature:
            raise UserError("top_p has no effect with temperature 0, which takes the most probable token; remove it")
        self.prompts, self.rows, self.temperature, self.top_p = prompts, rows, temperature, top_p
        self.max_new_tokens = max_new_tokens

    def better(self, figure: str) -> Better:
        raise UserError("has no figures: it gives texts")

    def prepare(self, subject: Subject) -> None:
        model = subject.model
        if model.kind not in KINDS:
            raise UserError(f"an {model.kind} model does not generate text")
        if not self.prompts:
            try:
                check_prompts(subject)
            except UserError as error:
                raise UserError(f"{error}, or give prompts") from None
        for one in self._given(subject):
            for ids, most in ((one.source or (), model.max_length), (one.given, model.target_max_length)):
                if len(ids) > most:
                    raise UserError(f"a prompt has {len(ids)} tokens, and the model reads at most {most}: shorten it")

    def __call__(self, subject: Subject) -> Outcome:
        if subject.rank:  # the first process writes the texts
            return Outcome()
        asked = self._given(subject) or self._first_rows(replace(subject, world=1))
        choose = greedy
        if self.temperature:
            generator = torch.Generator().manual_seed(0)
            choose = sampler(temperature=self.temperature, top_p=self.top_p, generator=generator)
        texts: list[dict[str, str]] = []
        tokenizer, most = subject.tokenizer, self.max_new_tokens
        for one in asked:  # one by one: not every model can read prompts of different lengths side by side
            sources = None if one.source is None else [one.source]
            (tokens,) = generate(
                subject.model,
                [one.given],
                max_new_tokens=most,
                sources=sources,
                eos=tokenizer.eos,
                choose=choose,
                bidirectional_prompt=subject.objective.bidirectional_prompt,
            )
            written = text_after(tokenizer, one.given, tokens)
            texts.append({"prompt": tokenizer.decode(one.source or one.given), "written": written})
        return Outcome(texts=texts)

    def _first_rows(self, subject: Subject) -> list[Prompt]:
        return [row.prompt for batch in validation_prompts(subject, self.rows) for row in batch][: self.rows]

    def _given(self, subject: Subject) -> list[Prompt]:
        """The prompts that the user has given, as ids."""
        reader = TextModel(subject.model, subject.tokenizer)
        if subject.model.kind == "encoder_decoder":
            return [Prompt(reader.encode(text), [subject.tokenizer.bos], []) for text in self.prompts]
        return [Prompt(None, reader.encode(text) or [subject.tokenizer.bos], []) for text in self.prompts]
