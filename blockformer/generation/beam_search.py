"""Beam search: the most probable continuations of each prompt."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from blockformer.assembly.free_memory import require_free
from blockformer.generation.session import DecodingSession, Ends, ending, token_budget
from blocks.models.base import Model

MOST_BEAMS = 4096


@dataclass(frozen=True)
class Hypothesis:
    """A continuation that the search found.

    Attributes:
        tokens: the new tokens, without the end token.
        log_probability: of the new tokens, the end token included, in nats.
        score: the log-probability over the length penalty; higher is better.
        ended: whether it ended with the end token, and was not cut off by a length limit.
    """

    tokens: tuple[int, ...]
    log_probability: float
    score: float
    ended: bool


def length_penalty(length: int, alpha: float) -> float:
    """((5 + length) / 6)^alpha: alpha=0 favours short sequences, alpha=1 roughly averages over tokens.

    Wu et al., 2016, arXiv:1609.08144, section 7.
    """
    return ((5 + length) / 6) ** alpha


@torch.inference_mode()
def beam_search(
    model: Model,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sources: Sequence[Sequence[int]] | None = None,
    eos: Ends = None,
    beams: int = 4,
    best: int = 1,
    alpha: float = 0.6,
    use_cache: bool = True,
    bidirectional_prompt: bool = False,
) -> list[list[Hypothesis]]:
    """For each prompt the best continuations found, best first (Wu et al., 2016, arXiv:1609.08144, section 7).

    Each step extends every sequence on the beam by every token and keeps the most probable. A sequence that ends leaves
    the beam, which narrows by one: one beam is greedy decoding, and a beam wide enough for all sequences is exhaustive.
    The search for a prompt stops when no sequence on its beam can still rank among the ``best`` that ended. Sequences
    cut off by a length limit rank after those that ended. The paper's coverage penalty is left out.

    Args:
        model: decoder_only or encoder_decoder, in evaluation mode.
        prompts: B rows of at least one id; for an encoder_decoder the beginning of the target, usually a start token.
        max_new_tokens: most tokens of a continuation, the end token included.
        sources: B rows of ids for the encoder of an encoder_decoder.
        eos: the id that ends a sequence, or several of which each does; None: sequences end at their length limit only.
        beams: sequences kept at each step, at least 1.
        best: how many continuations are wanted for each prompt, at most ``beams``; more may be returned.
        alpha: exponent of :func:`length_penalty`, at least 0.
        use_cache: keep keys and values instead of running the whole sequences at each step; the result is the same.
        bidirectional_prompt: as in :class:`~blockformer.generation.session.DecodingSession`.

    Raises:
        ValueError: a prompt is empty or too long, the model cannot generate, or a number is out of its range.
        TooLargeError: the beams do not fit into the free memory.
    """
    if not 1 <= beams <= MOST_BEAMS or not 0 <= alpha < math.inf:
        raise ValueError(f"beams={beams} must be from 1 to {MOST_BEAMS}, and alpha={alpha} at least 0")
    if not 1 <= best <= beams:
        raise ValueError(f"best={best} must be at least 1 and at most beams={beams}")
    rows = len(prompts) * beams
    cached = getattr(model, "cached_per_token", None) or 0
    numbers = rows * (
        3 * model.vocab_size + 2 * cached * model.target_max_length
    )  # logits and their copies, cache and its copy
    require_free(4 * numbers, f"a search with {rows:,} beams", next(model.parameters()).device)
    session = DecodingSession(model, prompts, sources, use_cache=use_cache, bidirectional_prompt=bidirectional_prompt)
    ends = ending(eos)
    searches = [Search(token_budget(model, prompt, max_new_tokens), beams, alpha, ends, best) for prompt in prompts]
    active, logits = searches, session.begin()
    while active:
        parents, tokens = _step(active, logits.float().log_softmax(dim=-1))
        active = [search for search in active if search.beam]
        if active:
            session.keep(torch.tensor(parents, device=session.device))
            logits = session.advance(torch.tensor(tokens, device=session.device))
    return [search.ranking() for search in searches]


def _step(searches: list["Search"], log_probabilities: Tensor) -> tuple[list[int], list[int]]:
    """Extend every beam by one token: for each row on the new beams, its row on the old ones and its new token."""
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
class Search:
    """The beam of one prompt.

    Attributes:
        steps: tokens that may still be added.
        beams: sequences kept at each step, those that ended included.
        alpha: exponent of the length penalty.
        ends: the ids that end a sequence.
        best: how many continuations are wanted.
        beam: the sequences that continue, most probable first: their tokens and log-probability.
        found: the sequences that left the beam.
    """

    steps: int
    beams: int
    alpha: float
    ends: frozenset[int]
    best: int = 1
    beam: list[tuple[tuple[int, ...], float]] = field(default_factory=lambda: [((), 0.0)])
    found: list[Hypothesis] = field(default_factory=list[Hypothesis])

    def extend(self, log_probabilities: Tensor) -> list[tuple[int, int]]:
        """Add one token to every sequence and keep the most probable; the beam is empty when the search is over.

        Args:
            log_probabilities: (beam, V) of the next token of each sequence on the beam.

        Returns:
            For each sequence on the new beam: the index of its parent on the old beam, and its new token.
        """
        before = torch.tensor([total for _, total in self.beam], device=log_probabilities.device)
        candidates = (before[:, None] + log_probabilities).flatten()
        totals, indices = candidates.topk(min(self.beams - len(self.found), len(candidates)))
        old, self.beam, self.steps = self.beam, [], self.steps - 1
        origins: list[tuple[int, int]] = []
        for total, index in zip(totals.tolist(), indices.tolist(), strict=True):
            parent, token = divmod(index, log_probabilities.shape[1])
            tokens = old[parent][0]
            if token in self.ends:
                self._leave(tokens, total, len(tokens) + 1, ended=True)
            else:
                self.beam.append(((*tokens, token), total))
                origins.append((parent, token))
        if not self.steps:
            for tokens, total in self.beam:
                self._leave(tokens, total, len(tokens), ended=False)
        if not self.steps or self._is_decided():
            self.beam = []
        return origins if self.beam else []

    def ranking(self) -> list[Hypothesis]:
        """What was found, best first; sequences that ended come before those cut off."""
        return sorted(self.found, key=lambda hypothesis: (hypothesis.ended, hypothesis.score), reverse=True)

    def _leave(self, tokens: tuple[int, ...], total: float, length: int, *, ended: bool) -> None:
        self.found.append(Hypothesis(tokens, total, total / length_penalty(length, self.alpha), ended))

    def _is_decided(self) -> bool:
        """Whether no sequence on the beam can still rank among the best that are wanted."""
        if not self.beam or len(self.found) < self.best:
            return False
        tokens, total = self.beam[0]
        # An upper bound on the score of any continuation: probability 1 from here on, and the greatest length, as a
        # negative log-probability gains from a larger penalty.
        bound = total / length_penalty(len(tokens) + self.steps, self.alpha)
        return self.ranking()[self.best - 1].score >= bound
