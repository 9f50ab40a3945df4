import numpy as np
import pytest
import torch

from blockformer.data.loader import EvaluationLoader, TrainingLoader
from blockformer.data.randomness import Permutation
from blockformer.data.samples import UNSCORED, Batch, TokenizedText
from blockformer.data.tokenizers.bytes import ByteTokenizer
from blockformer.errors import DataError
from blockformer.training.objectives.causal_lm import PackedRows
from blockformer.training.objectives.masked_lm import MaskedRows
from blockformer.training.objectives.seq2seq import PaddedPairs
from tests.data.encoded import encoded

TOKENIZER = ByteTokenizer()
TEXTS = [f"document {n} says {'ha' * (n * 7 % 23)}" for n in range(61)]


def _samples(kind: str = "packed"):
    documents = encoded(TEXTS, TOKENIZER, before=TOKENIZER.bos)
    if kind == "packed":
        return PackedRows(documents, TOKENIZER, 16)
    if kind == "masked":
        return MaskedRows(TokenizedText((documents,), TOKENIZER, 16, seed=3))
    return PaddedPairs(encoded(TEXTS, TOKENIZER, after=TOKENIZER.eos), documents, TOKENIZER)


def _indices(batches) -> list[int]:
    return [i for batch in batches for i in batch["index"].tolist()]


each = pytest.mark.parametrize("kind", ["packed", "masked", "pairs"])


@each
def test_an_epoch_gives_each_sample_at_most_once_and_drops_less_than_a_batch(kind: str) -> None:
    loader = TrainingLoader(_samples(kind), 8)
    seen = _indices(loader)
    assert len(seen) == len(set(seen)) == 8 * len(loader)
    assert 0 <= len(_samples(kind)) - len(seen) < 8


@each
def test_epochs_and_seeds_differ_in_order_and_equal_ones_do_not(kind: str) -> None:
    loader = TrainingLoader(_samples(kind), 8)
    first, second = _indices(loader), _indices(loader)
    assert first != second
    assert sorted(first) != first
    assert _indices(TrainingLoader(_samples(kind), 8)) == first
    assert _indices(TrainingLoader(_samples(kind), 8, seed=1)) != first


@each
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_batch_of_one_process(kind: str, world: int) -> None:
    whole = TrainingLoader(_samples(kind), 8)
    ranks = [TrainingLoader(_samples(kind), 8, rank=rank, world=world) for rank in range(world)]
    for step in (0, 3, len(whole) + 1):
        batch = whole.batch(step)
        for rank, loader in enumerate(ranks):
            _assert_same_rows(loader.batch(step), {name: value[rank::world] for name, value in batch.items()})


def _assert_same_rows(some: Batch, expected: Batch) -> None:
    """Equal but for padding, of which a smaller batch may need less."""
    assert some.keys() == expected.keys()
    for name, value in some.items():
        wide = expected[name]
        if value.ndim == 2:
            assert (wide[:, value.shape[1] :] == (UNSCORED if name == "targets" else 0)).all()
            wide = wide[:, : value.shape[1]]
        assert torch.equal(value, wide), name


@each
@pytest.mark.parametrize("stop", [1, 5, 7, 12, 20])
def test_continues_exactly_after_any_step(kind: str, stop: int) -> None:
    loader, reference = TrainingLoader(_samples(kind), 8), TrainingLoader(_samples(kind), 8)
    for _ in range(stop):
        loader.step += 1
    again = TrainingLoader(_samples(kind), 8)
    again.load_state_dict(loader.state_dict())
    for step, batch in enumerate(again, start=stop):
        for name, value in reference.batch(step).items():
            assert torch.equal(batch[name], value)


def test_state_counts_the_batches_that_were_given_and_no_more() -> None:
    loader = TrainingLoader(_samples(), 8)
    iterator = iter(loader)
    iter(loader)
    assert loader.state_dict() == {"step": 0}, "making an iterator takes nothing"
    next(iterator), next(iterator)
    assert loader.state_dict() == {"step": 2}


def test_another_number_of_ranks_continues_the_same_order() -> None:
    whole, half = TrainingLoader(_samples(), 8), TrainingLoader(_samples(), 8, rank=1, world=2)
    half.load_state_dict({"step": 3})
    assert next(iter(half))["index"].tolist() == whole.batch(3)["index"].tolist()[1::2]


def test_pairs_of_like_length_come_together() -> None:
    samples = _samples("pairs")

    def padding(batches: list[Batch]) -> float:
        return 1 - float(np.mean([batch["source_mask"].float().mean() for batch in batches]))

    order = np.random.default_rng(0).permutation(len(samples))[:56].reshape(-1, 8)
    assert padding(list(TrainingLoader(samples, 8))) < 0.5 * padding([samples.batch(row, 0) for row in order])


@each
@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [4, 12])
def test_evaluation_scores_every_sample_once_on_any_number_of_ranks(kind: str, world: int, batch_size: int) -> None:
    samples = _samples(kind)
    whole = samples.batch(np.arange(len(samples)), epoch=0)
    loaders = [EvaluationLoader(samples, batch_size, rank=rank, world=world) for rank in range(world)]
    assert len({len(loader) for loader in loaders}) == 1
    batches = [list(loader) for loader in loaders]
    for step in zip(*batches, strict=True):
        assert len({len(batch["targets"]) for batch in step}) == 1, "ranks run equally many rows"
    flat = [batch for own in batches for batch in own]
    assert sorted(i for i in _indices(flat) if i >= 0) == list(range(len(samples)))
    assert sum(int((batch["targets"] != UNSCORED).sum()) for batch in flat) == int((whole["targets"] != UNSCORED).sum())
    if "bytes" in whole:
        assert sum(int(batch["bytes"].sum()) for batch in flat) == int(whole["bytes"].sum())


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 65, 1000, 4097])
def test_a_permutation_has_each_item_once_in_an_order_of_its_own(count: int) -> None:
    places = np.arange(count)
    found = [Permutation(seed, "x", epoch, count=count)[places] for seed in (0, 1) for epoch in (0, 1)]
    for one in found:
        assert sorted(one.tolist()) == places.tolist()
        assert Permutation(0, "x", 0, count=count)[places[::3]].tolist() == found[0][::3].tolist()
    assert count < 7 or len({tuple(one.tolist()) for one in found}) == 4


@pytest.mark.slow
def test_places_of_a_permutation_are_as_random_as_shuffled_ones() -> None:
    """How often each of 12 items is at each of 12 places, over 6,000 permutations; chi-square with 121 degrees."""
    counts = np.zeros((12, 12))
    for seed in range(6000):
        counts[np.arange(12), Permutation(seed, "x", count=12)[np.arange(12)]] += 1
    assert 60 < ((counts - 500) ** 2 / 500).sum() < 190  # 99.99 % of random ones


def test_one_process_evaluates_without_fillers() -> None:
    assert min(_indices(EvaluationLoader(_samples(), 8))) == 0


def test_a_batch_that_ranks_cannot_share_is_refused_with_both_numbers() -> None:
    for loader in (TrainingLoader, EvaluationLoader):
        with pytest.raises(DataError, match=r"batch_size 8 .* by 3"):
            loader(_samples(), 8, world=3)


def test_too_little_text_for_a_batch_is_refused_with_both_numbers() -> None:
    with pytest.raises(DataError, match=r"61 rows, fewer than batch_size 62"):
        TrainingLoader(_samples("pairs"), 62)
