"""Drafts of another model change how fast tokens come, and not which."""

import copy
import itertools
from collections import Counter

import pytest
import torch

from blockformer.generation import Drafting, Sampler, generate, speculate
from blockformer.generation.speculative import _verified
from blocks.models.base import Model
from tests.generation.test_every_mixer import CAUSAL, POSITIONS, PROMPTS, model

MIXERS = [{"type": name} for name in CAUSAL if name != "none"]  # its drafts are always right
MIXERS += [{"type": "attention", "heads": 2, "positions": name} for name in POSITIONS]
MIXERS += [{"type": "attention", "heads": 2, "window": 3, "positions": "alibi"}, {"type": "latent", "window": 4}]
WRONG = 9.2
"""Chi-square with 4 degrees of freedom has this value or more with a probability of 0.056; seeds are fixed."""


def named(mixer: dict[str, object]) -> str:
    return " ".join(str(value) for value in mixer.values())


def nearly(writer: Model, noise: float = 0.03) -> Model:
    """A model that agrees with another one on some tokens."""
    found, draw = copy.deepcopy(writer), torch.Generator().manual_seed(1)
    for parameter in found.parameters():
        parameter.data += noise * torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype)
    return found


@pytest.mark.parametrize("mixer", MIXERS, ids=named)
def test_greedy_tokens_are_those_without_drafts_with_every_mixer(mixer: dict[str, object]) -> None:
    writer = model(mixer)
    drafting = Drafting(nearly(writer))
    expected = generate(writer, PROMPTS, max_new_tokens=12)
    assert [list(speculate(writer, drafting, prompt, max_new_tokens=12)) for prompt in PROMPTS] == expected
    assert 0 < drafting.accepted < drafting.proposed


@pytest.mark.parametrize("mixer", MIXERS[:2], ids=named)
def test_a_model_accepts_all_that_it_drafts_for_itself(mixer: dict[str, object]) -> None:
    writer = model(mixer)
    drafting = Drafting(copy.deepcopy(writer), tokens=3)
    assert (
        list(speculate(writer, drafting, [1, 2], max_new_tokens=9)) == generate(writer, [[1, 2]], max_new_tokens=9)[0]
    )
    assert drafting.share == 1.0
    assert drafting.proposed == 6  # 1 token of the prompt, then twice 3 and the one after them


def test_texts_end_at_eos_and_at_the_lengths_that_each_model_can_read(make) -> None:
    writer, draft = make("learned", max_length=16), make("learned", max_length=7, seed=1)
    free = generate(writer, PROMPTS, max_new_tokens=100)
    assert [list(speculate(writer, Drafting(draft), prompt, max_new_tokens=100)) for prompt in PROMPTS] == free
    eos = free[1][4]
    expected = generate(writer, PROMPTS, max_new_tokens=100, eos=eos)
    given = {"max_new_tokens": 100, "eos": eos}
    assert [list(speculate(writer, Drafting(nearly(writer)), prompt, **given)) for prompt in PROMPTS] == expected


def test_translations_are_those_without_drafts(make) -> None:
    writer = make("translator")
    sources = [[2, 7, 1, 8], [6], [2, 8]]
    expected = generate(writer, [[1]] * 3, sources=sources, max_new_tokens=10)
    drafting = Drafting(nearly(writer), tokens=2)
    assert [list(speculate(writer, drafting, [1], source=one, max_new_tokens=10)) for one in sources] == expected


@pytest.mark.parametrize("scaling", ["dynamic", "longrope"])
def test_rope_scaling_that_changes_on_the_way_changes_nothing(scaling: str) -> None:
    factors = {"long": [2.0] * 4} if scaling == "longrope" else {"factor": 2.0}
    positions = {"type": "rotary", "scaling": {"type": scaling, "trained_length": 8, **factors}}
    writer = model({"type": "attention", "heads": 2, "positions": positions})
    expected = generate(writer, PROMPTS, max_new_tokens=14)
    drafting = Drafting(nearly(writer))
    assert [list(speculate(writer, drafting, prompt, max_new_tokens=14)) for prompt in PROMPTS] == expected


@pytest.mark.parametrize("options", [{}, {"temperature": 0.6}, {"top_k": 3}, {"top_p": 0.7}], ids=str)
def test_what_follows_a_draft_has_the_distribution_of_the_model(options: dict[str, float]) -> None:
    draw = torch.Generator().manual_seed(3)
    wanted, drafted = torch.randn(2, 1, 5, generator=draw)
    choose = Sampler(generator=draw, **options)
    p, q = choose.probabilities(wanted)[0], choose.probabilities(drafted)[0]
    assert (p - q).abs().max() > 0.1
    counts, total = torch.zeros(5), 3000
    for _ in range(total):
        draft = int(choose.draw(q[None])[0])
        accepted, following = _verified(wanted.expand(2, -1), [draft], [q], choose)
        counts[draft if accepted else following] += 1
    assert not counts[p == 0].any()
    chi_square = ((counts - total * p)[p > 0].square() / (total * p[p > 0])).sum()
    assert chi_square < WRONG


@pytest.mark.slow
def test_sampled_texts_have_the_distribution_of_the_model() -> None:
    """All texts of three tokens out of three."""
    writer = model({"type": "attention", "heads": 2}, vocab_size=3)
    draft, total = model({"type": "linear", "heads": 2}, vocab_size=3), 400
    texts = list(itertools.product(range(3), repeat=3))
    logits = writer(torch.tensor([[1, *text] for text in texts]))[:, :-1].log_softmax(-1)
    expected = total * logits.gather(-1, torch.tensor(texts)[..., None]).sum((1, 2)).exp()
    choose = Sampler(generator=torch.Generator().manual_seed(0))
    found = Counter(
        tuple(speculate(writer, Drafting(draft, 2), [1], max_new_tokens=3, choose=choose)) for _ in range(total)
    )
    counts = torch.tensor([found[text] for text in texts])
    assert counts.sum() == total
    often = expected > 5
    parts = (counts - expected)[often].square() / expected[often]
    assert parts.sum() < 2 * often.sum()


def test_drafts_that_cannot_work_are_refused_with_the_reason(make) -> None:
    writer = make("learned")
    for draft, settings, reason in (
        (make("learned", vocab_size=12), {}, "decoder_only with 12 ids cannot draft for a decoder_only with 11"),
        (make("translator"), {}, "encoder_decoder with 11 ids cannot draft for a decoder_only"),
        (make("rotary"), {"choose": lambda logits: logits.argmin(-1)}, "need greedy decoding or a Sampler"),
        (make("rotary", max_length=2), {}, "3 tokens, but the draft's max_length is 2"),
    ):
        with pytest.raises(ValueError, match=reason):
            next(speculate(writer, Drafting(draft), [1, 2, 3], max_new_tokens=3, **settings))
    with pytest.raises(ValueError, match="draft_tokens=0"):
        Drafting(writer, tokens=0)


def test_a_cache_that_cannot_go_back_is_refused(make, monkeypatch) -> None:
    from blocks.base import KeyValues

    monkeypatch.delattr(KeyValues, "mark")
    with pytest.raises(ValueError, match="KeyValues cannot go back"):
        list(speculate(make("learned"), Drafting(make("rotary")), [1], max_new_tokens=3))
