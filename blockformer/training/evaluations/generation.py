"""Generated answers, compared with those of the validation rows."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

from torch import Tensor

from blockformer.errors import UserError
from blockformer.generation import beam_search, generate
from blockformer.generation.text_model import text_after
from blockformer.training.evaluations.base import Better, Evaluation, Outcome, Subject
from blockformer.training.evaluations.prompts import Numbered, check_prompts, in_order, validation_prompts
from registry import Positive, register
from registry.errors import nearest

Score = Literal["exact_match", "bleu", "chrf"]
Texts = Sequence[str]


@register("generation")
class Generation(Evaluation):
    """Compare what a model generates for the sources of validation pairs with their targets, as texts.

    `exact_match` is the share of the answers that are the target, character by character. `bleu` (words as in 13a of
    sacreBLEU, no smoothing) and `chrf` (up to 6 characters, beta 2) are those of all answers together, from 0 to 100.

    Args:
        scores: Which of `exact_match`, `bleu` and `chrf` are computed.
        rows: Validation rows that are answered, rounded up to whole batches; null: all.
        beams: Sequences that beam search keeps; 1: greedy decoding.
        max_new_tokens: Most tokens of an answer; null: `data.length`.
    """

    paper = (
        "Papineni et al., 2002, BLEU: a Method for Automatic Evaluation of Machine Translation; Popović, 2015, chrF: "
        "character n-gram F-score for automatic MT evaluation"
    )

    def __init__(
        self,
        *,
        scores: tuple[Score, ...] = ("exact_match",),
        rows: Positive | None = 256,
        beams: Positive = 1,
        max_new_tokens: Positive | None = None,
    ) -> None:
        if not scores:
            raise UserError("scores must name at least one of exact_match, bleu and chrf")
        self.scores, self.rows, self.beams, self.max_new_tokens = scores, rows, beams, max_new_tokens

    def better(self, figure: str) -> Better:
        if figure not in self.scores:
            known = nearest(figure, self.scores) or f"its scores are {', '.join(self.scores)}"
            raise UserError(f"has no figure {figure!r}; {known}")
        return max

    def prepare(self, subject: Subject) -> None:
        check_prompts(subject)

    def __call__(self, subject: Subject) -> Outcome:
        rows: list[tuple[tuple[int, int], dict[str, str]]] = []
        for batch in validation_prompts(subject, self.rows):
            if batch:
                rows += zip((row.place for row in batch), self._answered(subject, batch), strict=True)
        texts = in_order(subject.gathered(rows))
        written, wanted = [row["written"] for row in texts], [row["target"] for row in texts]
        return Outcome({name: SCORES[name](written, wanted) for name in self.scores}, texts)

    def _answered(self, subject: Subject, batch: Sequence[Numbered]) -> list[dict[str, str]]:
        """Source, target and generated text of each row."""
        asked = [row.prompt for row in batch]
        given = [one.given for one in asked]
        sources = None if asked[0].source is None else [one.source or [] for one in asked]
        most, eos = self.max_new_tokens or subject.data.length, subject.tokenizer.eos
        how: dict[str, Any] = {"bidirectional_prompt": subject.objective.bidirectional_prompt}
        if self.beams == 1:
            found = generate(subject.model, given, max_new_tokens=most, sources=sources, eos=eos, **how)
        else:
            searched = beam_search(
                subject.model, given, max_new_tokens=most, sources=sources, eos=eos, beams=self.beams, **how
            )
            found = [list(best.tokens) for best, *_ in searched]
        tokenizer = subject.tokenizer
        return [
            {
                "source": tokenizer.decode(one.source or one.given),
                "target": text_after(tokenizer, one.given, one.answer),
                "written": text_after(tokenizer, one.given, tokens),
            }
            for one, tokens in zip(asked, found, strict=True)
        ]


def _exact_match(written: Texts, wanted: Texts) -> float:
    return sum(ours == theirs for ours, theirs in zip(written, wanted, strict=True)) / len(wanted)


def _bleu(written: Texts, wanted: Texts) -> float:
    from torchmetrics.functional.text import sacre_bleu_score  # takes seconds to import

    return 100 * sacre_bleu_score(written, [[text] for text in wanted]).item()


def _chrf(written: Texts, wanted: Texts) -> float:
    from torchmetrics.functional.text import chrf_score  # as above

    found = chrf_score(written, [[text] for text in wanted], n_word_order=0)
    return 100 * cast("Tensor", found).item()


SCORES: Mapping[str, Callable[[Texts, Texts], float]] = {"exact_match": _exact_match, "bleu": _bleu, "chrf": _chrf}
