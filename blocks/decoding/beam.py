"""Beam search: the texts that a model finds most probable, looked for a token at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from blocks.decoding.padding import pad_left
from blocks.decoding.writer import Writer, room
from blocks.models.base import Model


@dataclass(frozen=True)
class Hypothesis:
    """A text that the search found.

    Attributes:
        tokens: its new tokens, without the one that ended it.
        log_probability: of the new tokens, the ending one included, in nats.
        score: the log-probability over the length penalty; the greater the better.
        ended: it ended by itself, and was not cut off.
    """

    tokens: tuple[int, ...]
    log_probability: float
    score: float
    ended: bool


def length_penalty(length: int, alpha: float) -> float:
    """((5 + length) / 6)^alpha: 1 with alpha=0, which favours short texts; with alpha=1 nearly the mean over the tokens."""
    return ((5 + length) / 6) ** alpha


@torch.inference_mode()
def beam_search(
    model: Model,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sources: Sequence[Sequence[int]] | None = None,
    eos: int | None = None,
    beams: int = 4,
    alpha: float = 0.6,
    use_cache: bool = True,
) -> list[list[Hypothesis]]:
    """For each prompt the best continuations found, best first (Wu et al., 2016, arXiv:1609.08144, section 7, no coverage penalty).

    Each step extends all that is on the beam by every token and keeps the most probable. A text that ends leaves the beam,
    which becomes narrower by it; so one beam is greedy decoding, and a beam wide enough for all texts misses none. The
    search for a prompt is over when nothing on its beam can overtake the best that has ended. Texts cut off by the limits
    of :func:`~blocks.decoding.streaming.stream` come after those that ended.

    Args:
        model: decoder_only or encoder_decoder, in evaluation mode.
        prompts: B rows of at least one id; for an encoder_decoder its target's beginning, usually a start token.
        max_new_tokens: most tokens of a continuation, the ending one included.
        sources: B rows of ids for an encoder_decoder to read.
        eos: the id that ends a text; None: none does, and the best of the longest texts are found.
        beams: texts kept at each step, at least 1.
        alpha: exponent of :func:`length_penalty`, at least 0.
        use_cache: remember keys and values instead of running the whole text at each step; the result is the same.

    Raises:
        ValueError: a prompt is empty or too long, the model cannot write, or a number is out of its range.
    """
    if beams < 1 or alpha < 0:
        raise ValueError(f"beams={beams} must be at least 1, and alpha={alpha} at least 0")
    searches = [_Search(room(model, prompt, max_new_tokens), beams, alpha, eos) for prompt in prompts]
    writer = Writer(model, sources, use_cache=use_cache)
    tokens, mask = pad_left(prompts, writer.device)
    open_searches = searches
    while open_searches:
        log_probabilities = writer.advance(tokens, mask).float().log_softmax(dim=-1)
        parents, chosen = _step(open_searches, log_probabilities)
        open_searches = [search for search in open_searches if search.beam]
        if open_searches:
            writer.keep(torch.tensor(parents, device=writer.device))
            tokens, mask = torch.tensor(chosen, device=writer.device)[:, None], None
    return [search.ranking() for search in searches]


def _step(searches: list["_Search"], log_probabilities: Tensor) -> tuple[list[int], list[int]]:
    """Extend every beam by one token; the rows, and their new tokens, that are on the beams afterwards."""
    parents: list[int] = []
    chosen: list[int] = []
    start = 0
    for search in searches:
        end = start + len(search.beam)
        for parent, token in search.extend(log_probabilities[start:end]):
            parents.append(start + parent)
            chosen.append(token)
        start = end
    return parents, chosen


@dataclass
class _Search:
    """One prompt's search: what is on the beam, (tokens, log-probability) each, and what has left it."""

    steps: int
    beams: int
    alpha: float
    eos: int | None
    beam: list[tuple[tuple[int, ...], float]] = field(default_factory=lambda: [((), 0.0)])
    found: list[Hypothesis] = field(default_factory=list[Hypothesis])

    def extend(self, log_probabilities: Tensor) -> list[tuple[int, int]]:
        """Take the (beam, V) log-probabilities of the next token; say which text each on the new beam extends, by what."""
        before = torch.tensor([logp for _, logp in self.beam], device=log_probabilities.device)
        totals = (before[:, None] + log_probabilities).flatten()
        width = min(self.beams - len(self.found), len(totals))
        values, places = totals.topk(width)
        extended: list[tuple[tuple[int, ...], float]] = []
        origins: list[tuple[int, int]] = []
        for value, place in zip(values.tolist(), places.tolist(), strict=True):
            parent, token = divmod(place, log_probabilities.shape[1])
            tokens = self.beam[parent][0]
            if token == self.eos:
                self._leave(tokens, value, len(tokens) + 1, ended=True)
            else:
                extended.append(((*tokens, token), value))
                origins.append((parent, token))
        self.beam, self.steps = extended, self.steps - 1
        if self._decided():
            for tokens, value in self.beam:
                self._leave(tokens, value, len(tokens), ended=False)
            self.beam, origins = [], []
        return origins

    def ranking(self) -> list[Hypothesis]:
        return sorted(self.found, key=lambda hypothesis: (hypothesis.ended, hypothesis.score), reverse=True)

    def _leave(self, tokens: tuple[int, ...], value: float, length: int, *, ended: bool) -> None:
        self.found.append(Hypothesis(tokens, value, value / length_penalty(length, self.alpha), ended))

    def _decided(self) -> bool:
        if not self.steps or not self.beam:
            return True
        longest = len(self.beam[0][0]) + self.steps
        reach = self.beam[0][1] / length_penalty(longest, self.alpha)  # log-probabilities only fall, and are below 0
        return any(hypothesis.score >= reach for hypothesis in self.found)
