"""What every objective's samples have in common, and what those of each are."""

from collections import Counter
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
import torch

from blockformer.data.samples import UNSCORED, TokenizedText
from blockformer.data.tokenizers.bytes import ByteTokenizer
from blockformer.errors import DataError, UserError
from blockformer.training.objectives import (
    OBJECTIVE,
    Denoising,
    FillInTheMiddle,
    MaskedLM,
    MixtureOfDenoisers,
    Objective,
    ObjectiveSettings,
    PrefixLM,
    SpanCorruption,
)
from blockformer.training.objectives.causal_lm import PackedRows, PromptedPairs
from blockformer.training.objectives.masked_lm import whole_words
from registry import entries
from tests.data.encoded import encoded

TOKENIZER = ByteTokenizer()
TEXTS = [f"Document {n} says {'ha' * (n * 7 % 23)}. Is {n} odd? {'Yes! ' * (n % 2)}So it is." for n in range(61)]
OWN: list[tuple[str, dict[str, Any]]] = [("masked_lm", {"span": 3.0}), ("masked_lm", {"unit": "word"})]
"""Options that make more of an objective than its defaults do."""
CASES = [(name, {}) for name in entries("objective")] + OWN


def text(objective: Objective, texts: list[str] = TEXTS, length: int = 40, **settings: Any) -> TokenizedText:
    if {"classes", "scores"} & {*objective.forms}:
        labels = np.arange(len(texts)) % 3.0
        return TokenizedText((encoded(texts, TOKENIZER),), TOKENIZER, length, labels=labels, **settings)
    documents = encoded(texts, TOKENIZER, before=TOKENIZER.bos)
    sources = () if "documents" in objective.forms else (encoded(texts, TOKENIZER, after=TOKENIZER.eos),)
    extra = {name: TOKENIZER.vocab_size + n for n, name in enumerate(objective.extra_tokens(length))}
    return TokenizedText((*sources, documents), TOKENIZER, length, extra=extra, **settings)


def everything(objective: Objective, *texts: Any, **settings: Any) -> dict[str, torch.Tensor]:
    samples = objective.samples(text(objective, *texts, **settings))
    return samples.batch(np.arange(len(samples)), 0)


@pytest.fixture(params=CASES, ids=lambda case: "-".join((case[0], *case[1])))
def objective(request: pytest.FixtureRequest) -> Objective:
    name, options = request.param
    return ObjectiveSettings(name, **options).objective


def test_every_parameter_is_kept_under_its_name(objective: Objective) -> None:
    settings = objective.as_dict()
    assert set(settings) == {"type", *entries("objective")[objective.name].parameters}
    assert ObjectiveSettings(**settings).objective.as_dict() == settings


def test_a_batch_has_what_the_objective_says(objective: Objective) -> None:
    batch = everything(objective)
    assert {*objective.keys, "index"} <= set(batch)
    assert all(len(value) == len(batch["index"]) for value in batch.values())
    most = TOKENIZER.vocab_size + len(objective.extra_tokens(40))
    if objective.pooled:
        assert batch["targets"].shape == batch["index"].shape
        assert not (batch["targets"].isnan() | (batch["targets"] == -100)).any(), "each row has something to predict"
        batch.pop("targets")
    for key in {"tokens", "source", "target", "positive", "targets"} & set(batch):
        assert batch[key].dtype == torch.int64
        assert batch[key].max() < most
        assert batch[key].shape[1] <= 40 or "pairs" in objective.forms
        least = -100 if key == "targets" else 0
        assert batch[key].min() >= least
    if not objective.pooled:
        assert (batch["targets"] != -100).any(dim=1).all(), "each row has something to predict"


def test_nothing_is_predicted_in_padding(objective: Objective) -> None:
    batch = everything(objective)
    mask = batch.get("attention_mask", batch.get("target_mask"))
    if mask is not None and not objective.pooled:
        assert (batch["targets"][~mask] == -100).all()
    masks = {"attention_mask": "tokens", "source_mask": "source", "target_mask": "target", "positive_mask": "positive"}
    for key, of in masks.items():
        if key in batch:
            assert (batch[of][~batch[key]] == TOKENIZER.pad).all()
            assert (batch[key].long().diff(dim=1) <= 0).all(), "padding is on the right"


def test_a_sample_depends_on_seed_epoch_and_its_number_alone(objective: Objective) -> None:
    samples = objective.samples(text(objective, seed=3))
    chosen = np.array([5, 1, 4])
    batch = samples.batch(chosen, 2)
    for place, number in enumerate(chosen):
        alone = samples.batch(np.array([number]), 2)
        for key, value in alone.items():
            width = value.shape[1] if value.ndim > 1 else None
            assert torch.equal(value[0], batch[key][place][:width] if width else batch[key][place])
    again = objective.samples(text(objective, seed=3)).batch(chosen, 2)
    assert all(torch.equal(value, again[key]) for key, value in batch.items())


def test_what_is_scored_is_the_same_in_every_epoch_and_for_every_seed(objective: Objective) -> None:
    first, other = (objective.samples(text(objective, seed=seed, evaluates=True)) for seed in (0, 1))
    chosen = np.arange(9)
    ours, theirs = first.batch(chosen, 0), other.batch(chosen, 5)
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


@pytest.mark.parametrize("made", [SpanCorruption(), MixtureOfDenoisers(), SpanCorruption(noise=0.6, span=1.0)])
def test_source_and_target_of_spans_make_the_text(made: SpanCorruption | MixtureOfDenoisers) -> None:
    batch = everything(made)
    modes = {made.extra_tokens(40).index(one.mode) + TOKENIZER.vocab_size for one in made.denoisers if one.mode}
    found = bytearray()
    for row in range(len(batch["index"])):
        source = batch["source"][row][batch["source_mask"][row]].tolist()
        target = batch["targets"][row][batch["target_mask"][row]].tolist()
        assert (source.pop(), target.pop()) == (TOKENIZER.eos, TOKENIZER.eos)
        if modes:
            assert source.pop(0) in modes
        spans: dict[int, list[int]] = {}
        for token in target:
            if token >= TOKENIZER.vocab_size:
                spans[token] = []
            else:
                spans[next(reversed(spans))].append(token)
        assert [token for token in source if token >= TOKENIZER.vocab_size] == list(spans), "in order, and each once"
        whole = [one for token in source for one in spans.get(token, [token])]
        found += b"".join(TOKENIZER.pieces[token] for token in whole)
    assert found.decode() == "".join(TEXTS)


def test_spans_have_the_share_and_the_length_asked_for() -> None:
    made = SpanCorruption(noise=0.2, span=4.0)
    batch = everything(made, ["abcdefghijklmnopqrstuvwxyz" * 400], length=102)
    scored = batch["targets"][:-1]
    spans, cut = (scored >= 260).sum(1), ((scored >= 4) & (scored < 260)).sum(1)
    assert set(cut.tolist()) <= {20}, "a fifth of 100 tokens"
    assert set(spans.tolist()) == {5}


def test_the_ways_of_a_mixture_are_equally_frequent() -> None:
    batch = everything(MixtureOfDenoisers(), ["abcdefghijklmnopqrstuvwxyz" * 2000], length=66)
    counts = Counter(batch["source"][:, 0].tolist())
    total = sum(counts.values())
    for mode, ways in ((260, 2), (261, 1), (262, 4)):
        assert counts[mode] / total == pytest.approx(ways / 7, abs=0.05)


def test_a_moved_middle_can_be_put_back() -> None:
    made = FillInTheMiddle(rate=0.7)
    batch = everything(made)
    prefix, suffix, middle = range(260, 263)
    found, moved = bytearray(), 0
    for tokens, mask, targets in zip(batch["tokens"], batch["attention_mask"], batch["targets"], strict=True):
        row = tokens[mask].tolist()
        assert targets[mask][:-1].tolist() == row[1:]
        if row[0] == prefix:
            moved += 1
            assert targets[mask][-1] == TOKENIZER.eos
            at, last = row.index(suffix), row.index(middle)
            row = row[1:at] + row[last + 1 :] + row[at + 1 : last]
        found += b"".join(TOKENIZER.pieces[token] for token in row)
    assert found.decode() == "".join(TEXTS)
    assert moved / len(batch["index"]) == pytest.approx(0.7, abs=0.12)


def test_a_denoised_row_is_whole_and_its_copy_is_damaged() -> None:
    made = Denoising(shuffle_sentences=False)
    batch = everything(made, ["abcdefghijklmnopqrstuvwxyz" * 400], length=102)
    whole, kept = bytearray(), 0
    for row in range(len(batch["index"]) - 1):
        target = batch["targets"][row][batch["target_mask"][row]].tolist()
        source = batch["source"][row][batch["source_mask"][row]].tolist()
        whole += b"".join(TOKENIZER.pieces[token] for token in target)
        rest = iter(target)
        assert all(token in rest for token in source[:-1] if token != TOKENIZER.mask), "what is kept is in order"
        kept += sum(token != TOKENIZER.mask for token in source[:-1])
        assert all(set(pair) != {TOKENIZER.mask} for pair in pairwise(source))
    assert kept / len(whole) == pytest.approx(0.7, abs=0.02)
    assert ("abcdefghijklmnopqrstuvwxyz" * 400).startswith(whole.decode())


def test_sentences_of_a_copy_are_shuffled() -> None:
    made = Denoising(mask_rate=0.001)
    batch = everything(made, ["One. Two? Three! Four\nFive."], length=40)
    source = TOKENIZER.decode(batch["source"][0].tolist())
    sentences = ["One.", " Two?", " Three!", " Four\n", "Five."]
    assert source != "".join(sentences)
    assert all(one in source for one in sentences)


def test_spans_of_a_masked_model_are_whole_and_of_the_length_asked_for() -> None:
    batch = everything(MaskedLM(span=3.0), ["abcdefghijklmnopqrstuvwxyz" * 1000], length=201)
    chosen = batch["targets"][1:-1] != -100
    assert set(chosen.sum(1).tolist()) == {30}
    begins = (chosen & ~chosen.roll(1, dims=1)).sum()
    assert chosen.sum() / begins == pytest.approx(3.0, rel=0.2)
    masked = batch["tokens"][1:-1] == TOKENIZER.mask
    fates = [masked[row, place] == masked[row, place + 1] for row, place in (chosen[:, :-1] & chosen[:, 1:]).nonzero()]
    assert np.mean(fates) > 0.9, "the tokens of a span are masked together"


WORDS = [f"{'a' * (n % 4 + 1)}{n % 10}" for n in range(500)]
"""Words of three to six bytes, with the space before them."""


@pytest.mark.parametrize("rate", [0.15, 0.5, 1.0])
def test_words_of_a_masked_model_are_masked_whole_or_not_at_all(rate: float) -> None:
    made = MaskedLM(unit="word", mask_rate=rate)
    batch = everything(made, [" ".join(WORDS)], length=300)
    fates, whole, tokens = [], 0, batch["tokens"]
    words = torch.where(batch["targets"] == UNSCORED, tokens, batch["targets"])
    for row, targets, text in zip(tokens, batch["targets"], words, strict=True):
        inside = (text >= 4).nonzero()[:, 0].tolist()
        count = round(rate * len(inside))
        assert (targets != UNSCORED).sum() == count, "the share is that of single tokens"
        starts = [place for place in inside if place == inside[0] or text[place] == TOKENIZER.encode(" ")[0]]
        for start, end in pairwise([*starts, inside[-1] + 1]):
            assert len({*(targets[start:end] != UNSCORED).tolist()}) == 1
            if targets[start] != UNSCORED:
                fates.append({*(row[start:end] == TOKENIZER.mask).tolist()})
                whole += row[start] == TOKENIZER.mask
    assert all(len(one) == 1 for one in fates), "the tokens of a word are replaced alike"
    assert 0.6 < whole / len(fates) < 0.95


def test_whole_words_have_the_number_asked_for_wherever_some_words_have_it() -> None:
    draw = np.random.default_rng(0)
    for _ in range(200):
        sizes = draw.integers(1, 9, draw.integers(1, 7))
        words = np.repeat(np.arange(len(sizes)) * 3, sizes)
        count = int(draw.integers(1, len(words) + 1))
        places, owner = whole_words(draw.random(len(words)), count, words)
        sums = {sum(some) for n in range(len(sizes)) for some in combinations(sizes.tolist(), n + 1)}
        assert len(places) == max((n for n in sums if n <= count), default=min(sums))
        assert Counter(owner.tolist()) == {word: sizes[word] for word in set(owner.tolist())}
        assert (words[places] == owner * 3).all()


def test_words_are_chosen_without_preference() -> None:
    draw, words = np.random.default_rng(0), np.repeat(np.arange(40), 3)
    counts = Counter(word for _ in range(2000) for word in whole_words(draw.random(120), 18, words)[1][::3].tolist())
    assert set(counts) == set(range(40))
    assert max(abs(one / 2000 - 6 / 40) for one in counts.values()) < 0.04


def test_spans_of_words_are_refused() -> None:
    with pytest.raises(UserError, match=r"objective\.span 3 has no effect with objective\.unit word"):
        ObjectiveSettings("masked_lm", unit="word", span=3.0)


@pytest.mark.parametrize("name", ["span_corruption", "ul2", "denoising", "fill_in_the_middle"])
def test_rows_that_are_too_short_are_refused(name: str) -> None:
    made = ObjectiveSettings(name).objective
    with pytest.raises(DataError, match=r"data\.length 4 is too short for this objective: [57] or more"):
        made.samples(text(made, length=4))


def test_each_kind_of_model_has_an_objective_where_none_is_named() -> None:
    kinds = {kind for entry in entries("objective").values() for kind in entry.block.kinds}
    assert kinds == {"decoder_only", "encoder_only", "encoder_decoder"}
    assert OBJECTIVE.slots == {"type": "objective"}


@pytest.mark.parametrize("texts", [TEXTS, ["one document" * 40]], ids=["many", "one"])
def test_what_is_predicted_follows_a_prefix_of_each_document(texts: list[str]) -> None:
    made = text(PrefixLM(), texts)
    samples, rows = PrefixLM().samples(made), PackedRows(made.documents, TOKENIZER, 40)
    chosen = np.arange(len(samples))
    batch, whole = samples.batch(chosen, 0), rows.batch(chosen, 0)
    documents = whole.get("documents", torch.zeros_like(whole["tokens"]))
    assert torch.equal(batch["tokens"], whole["tokens"])
    for row in chosen:
        for document in documents[row].unique():
            of = documents[row] == document
            real = of & (whole["targets"][row] != -100)
            prefix, targets = batch["prefix"][row][of], batch["targets"][row][of]
            first = int(prefix.sum())
            if not real.any():
                continue
            assert first >= 1
            assert prefix[:first].all()
            assert (targets[: first - 1] == -100).all()
            assert torch.equal(targets[first - 1 :], whole["targets"][row][of][first - 1 :])
            assert not (batch["prefix"][row] & of & ~real).any(), "padding is no part of a prefix"


def test_a_prefix_has_every_length_equally_often() -> None:
    batch = everything(PrefixLM(), ["abcdefghijklmnopqrstuvwxyz" * 4000], length=20)
    counts = Counter(batch["prefix"].sum(dim=1).tolist())
    assert set(counts) == set(range(1, 21))
    assert max(counts.values()) / len(batch["index"]) == pytest.approx(1 / 20, abs=0.02)


def test_the_prefix_of_a_pair_is_what_is_given_when_its_target_is_generated() -> None:
    sources = encoded(TEXTS, TOKENIZER, after=TOKENIZER.eos)
    targets = encoded([one[::-1] for one in TEXTS], TOKENIZER, before=TOKENIZER.bos)
    chosen = np.arange(len(TEXTS))
    batch = PrefixLM().samples(TokenizedText((sources, targets), TOKENIZER, 80)).batch(chosen, 0)
    plain = PromptedPairs(sources, targets, TOKENIZER).batch(chosen, 0)
    assert all(torch.equal(batch[key], value) for key, value in plain.items())
    for row, one in enumerate(TEXTS):
        given = batch["tokens"][row][batch["prefix"][row]].tolist()
        assert given == [*TOKENIZER.encode(one), TOKENIZER.eos, TOKENIZER.bos]
