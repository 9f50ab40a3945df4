"""Speculative decoding: a small model drafts tokens, and the model checks several of them in one forward pass."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from blockformer.generation.sampling import Sampler, TokenChooser, greedy
from blockformer.generation.session import DecodingSession, Ends, SessionMark, ending, token_budget
from blocks.models.base import Model


@dataclass
class Drafting:
    """A model that drafts, and how its drafts fared.

    Attributes:
        model: decoder_only or encoder_decoder as the model that is drafted for, with the same vocabulary.
        tokens: drafted at a time, at least 1.
        proposed: tokens drafted so far.
        accepted: those of them that the model took.

    Raises:
        ValueError: ``tokens`` is below 1.
    """

    model: Model
    tokens: int = 4
    proposed: int = 0
    accepted: int = 0

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError(f"draft_tokens={self.tokens} must be at least 1")

    @property
    def share(self) -> float:
        """Of drafted tokens that were accepted; 0 without any."""
        return self.accepted / self.proposed if self.proposed else 0.0


@torch.inference_mode()
def speculate(
    model: Model,
    drafting: Drafting,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    source: Sequence[int] | None = None,
    eos: Ends = None,
    choose: TokenChooser = greedy,
    bidirectional_prompt: bool = False,
    prompt_chunk: int | None = None,
) -> Iterator[int]:
    """Continue a prompt like :func:`~blockformer.generation.streaming.stream`, with drafts of another model.

    Greedily, the tokens are those without drafts, but for ties within rounding; with a sampler, they have the same
    distribution (Leviathan et al., 2022, arXiv:2211.17192, algorithm 1; Chen et al., 2023, arXiv:2302.01318).

    Args:
        model: decoder_only or encoder_decoder, in evaluation mode.
        drafting: the other model; the number of drafted and of accepted tokens is added up in it.
        prompt: at least one id.
        max_new_tokens: most new tokens.
        source: ids for the encoder of an encoder_decoder.
        eos: the id that ends the text, or several of which each does, which is not yielded; None: none does.
        choose: :func:`~blockformer.generation.sampling.greedy`, or a :class:`~blockformer.generation.sampling.Sampler`.
        bidirectional_prompt: as in :class:`~blockformer.generation.session.DecodingSession`.
        prompt_chunk: as in :class:`~blockformer.generation.session.DecodingSession`.

    Raises:
        ValueError: the models differ in kind or vocabulary, a block's cache cannot go back, the choice of tokens is
            neither of the two, or as for :func:`~blockformer.generation.streaming.stream`.
    """
    _check(model, drafting.model, choose, len(prompt))
    left, ends = token_budget(model, prompt, max_new_tokens), ending(eos)
    given: dict[str, Any] = {"bidirectional_prompt": bidirectional_prompt, "prompt_chunk": prompt_chunk}
    target = DecodingSession(model, [prompt], None if source is None else [source], **given)
    pending = new = [int(choose(target.begin())[0])]  # pending: chosen, but not yet read by the model
    drafter = _Drafter(drafting.model, prompt, source, choose, given)
    drafter.follow(0, new[0])
    while True:
        for token in new:
            if token in ends:
                return
            yield token
            left -= 1
        if not left:
            return
        if len(pending) > drafting.tokens:  # they are read again and again by a cache that cannot keep any
            target.extend(torch.tensor([pending[:-1]], device=target.device))
            pending = pending[-1:]
        count = min(drafting.tokens, left - 1)
        drafts, q = drafter.draft(count if target.grows_evenly(len(pending) + count) else 0)
        mark = target.mark()
        logits = target.extend(torch.tensor([pending + drafts], device=target.device))[0, len(pending) - 1 :]
        accepted, following = _verified(logits, drafts, q, choose)
        drafting.proposed, drafting.accepted = drafting.proposed + len(drafts), drafting.accepted + accepted
        new = [*drafts[:accepted], following]
        if accepted == len(drafts) or target.restore(mark, len(pending) + accepted):
            pending = [following]
        else:
            pending = [*pending, *new]
        drafter.follow(accepted, following)


class _Drafter:
    """Drafts tokens, and goes back to those that were accepted."""

    def __init__(
        self,
        model: Model,
        prompt: Sequence[int],
        source: Sequence[int] | None,
        choose: TokenChooser,
        given: Mapping[str, Any],
    ) -> None:
        self.session = DecodingSession(model, [prompt], None if source is None else [source], **given)
        self.model, self.choose = model, choose
        self.length = len(prompt)
        """Number of tokens so far, read or not."""
        self.pending: list[int] = []
        self.drafts: list[int] = []
        self.marks: list[SessionMark] = []
        self.session.begin()

    def follow(self, accepted: int, following: int) -> None:
        """Go on after the first ``accepted`` drafts and the token ``following``."""
        if accepted < len(self.drafts):
            self.session.restore(self.marks[accepted])
        elif self.drafts:
            self.pending = [self.drafts[-1]]
        self.pending.append(following)
        self.length += accepted + 1

    def draft(self, count: int) -> tuple[list[int], list[Tensor]]:
        """At most ``count`` tokens, fewer at the end of what the model can read, and with a sampler each one's (V,)."""
        count = min(count, self.model.target_max_length - self.length + 1)
        self.drafts, self.marks, unread = [], [], self.pending
        probabilities: list[Tensor] = []
        while len(self.drafts) < count:
            logits = self.session.extend(torch.tensor([unread], device=self.session.device))[:, -1]
            self.marks.append(self.session.mark())
            if isinstance(self.choose, Sampler):
                probabilities.append(self.choose.probabilities(logits)[0])
                unread = [int(self.choose.draw(probabilities[-1][None])[0])]
            else:
                unread = [int(self.choose(logits)[0])]
            self.drafts += unread
            self.pending = []
        return self.drafts, probabilities


def _verified(logits: Tensor, drafts: Sequence[int], q: Sequence[Tensor], choose: TokenChooser) -> tuple[int, int]:
    """How many of the drafts are accepted, and the token after them.

    Args:
        logits: (len(drafts) + 1, V) of the model.
        drafts: the tokens.
        q: with a sampler the probabilities (V,) that each was drawn from.
        choose: greedy, or the sampler.
    """
    if not isinstance(choose, Sampler):
        best: list[int] = cast("Any", choose(logits)).tolist()
        accepted = next((index for index, token in enumerate(drafts) if token != best[index]), len(drafts))
        return accepted, best[accepted]
    p = choose.probabilities(logits)
    for index, token in enumerate(drafts):
        if choose.uniform() * float(q[index][token]) >= float(p[index, token]):
            rest = (p[index] - q[index]).clamp(min=0)
            return index, int(choose.draw((rest if bool(rest.any()) else p[index])[None])[0])
    return len(drafts), int(choose.draw(p[-1:])[0])


def _check(model: Model, draft: Model, choose: TokenChooser, length: int) -> None:
    if draft.kind != model.kind or draft.vocab_size != model.vocab_size:
        raise ValueError(
            f"a {draft.kind} with {draft.vocab_size} ids cannot draft for a {model.kind} with {model.vocab_size}: kind "
            "and vocabulary must be the same"
        )
    if choose is not greedy and not isinstance(choose, Sampler):
        raise ValueError("drafts need greedy decoding or a Sampler, whose probabilities are known")
    name, longest = draft.target_limit
    if length > longest:
        raise ValueError(f"a prompt has {length} tokens, but the draft's {name} is {longest}")
