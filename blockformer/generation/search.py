"""Beam search over the continuations of one prompt, with the probabilities given."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from blockformer.generation.lists import integers, numbers


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
    """((5 + length) / 6)^alpha: 1 if alpha=0, which favours short texts; alpha=1 about averages over tokens.

    Wu et al., 2016, arXiv:1609.08144, section 7.
    """
    return ((5 + length) / 6) ** alpha


@dataclass
class Search:
    """One prompt's search.

    Attributes:
        steps: tokens that may still come.
        beams: texts kept at each step, those that have ended included.
        alpha: exponent of the length penalty.
        eos: the id that ends a text; None: none does.
        best: how many texts are wanted.
        beam: the texts that go on, most probable first: their tokens and log-probability.
        found: the texts that have left the beam.
    """

    steps: int
    beams: int
    alpha: float
    eos: int | None
    best: int = 1
    beam: list[tuple[tuple[int, ...], float]] = field(default_factory=lambda: [((), 0.0)])
    found: list[Hypothesis] = field(default_factory=list[Hypothesis])

    def extend(self, log_probabilities: Tensor) -> list[tuple[int, int]]:
        """Move on by one token; the beam is empty when the search is over.

        Args:
            log_probabilities: (beam, V) of the token that follows each text on the beam.

        Returns:
            For each text on the new beam the place on the old beam of the text that it extends, and the token.
        """
        before = torch.tensor([total for _, total in self.beam], device=log_probabilities.device)
        totals, places = self._best((before[:, None] + log_probabilities).flatten())
        old, self.beam, self.steps = self.beam, [], self.steps - 1
        origins: list[tuple[int, int]] = []
        for total, place in zip(totals, places, strict=True):
            parent, token = divmod(place, log_probabilities.shape[1])
            tokens = old[parent][0]
            if token == self.eos:
                self._leave(tokens, total, len(tokens) + 1, ended=True)
            else:
                self.beam.append(((*tokens, token), total))
                origins.append((parent, token))
        return origins if self._goes_on() else []

    def ranking(self) -> list[Hypothesis]:
        """What was found, best first; what ended by itself before what was cut off."""
        return sorted(self.found, key=lambda hypothesis: (hypothesis.ended, hypothesis.score), reverse=True)

    def _best(self, totals: Tensor) -> tuple[list[float], list[int]]:
        values, places = totals.topk(min(self.beams - len(self.found), len(totals)))
        return numbers(values), integers(places)

    def _leave(self, tokens: tuple[int, ...], total: float, length: int, *, ended: bool) -> None:
        self.found.append(Hypothesis(tokens, total, total / length_penalty(length, self.alpha), ended))

    def _goes_on(self) -> bool:
        if not self.steps:
            for tokens, total in self.beam:
                self._leave(tokens, total, len(tokens), ended=False)
        if not self.steps or self._decided():
            self.beam = []
        return bool(self.beam)

    def _decided(self) -> bool:
        """Whether nothing on the beam can still come among the best that are wanted."""
        if not self.beam or len(self.found) < self.best:
            return False
        tokens, total = self.beam[0]
        # At best the most probable loses nothing more and gets long; a log-probability is negative, so length helps it.
        reach = total / length_penalty(len(tokens) + self.steps, self.alpha)
        return self.ranking()[self.best - 1].score >= reach
