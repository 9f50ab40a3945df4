import pytest
import torch

from blockformer.generation.sampling import greedy, keep_top_k, keep_top_p, sampler, scale_temperature


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_greedy_takes_the_most_probable_of_each_row() -> None:
    assert greedy(torch.tensor([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]])).tolist() == [1, 0]


def test_draws_follow_the_distribution_that_the_filters_leave() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    choose = sampler(temperature=0.5, top_k=3, top_p=0.9, generator=seeded(0))
    drawn = choose(probabilities.log().expand(20_000, 4)).bincount(minlength=4) / 20_000
    squared = torch.tensor([0.25, 0.09, 0.0, 0.0])  # temperature 1/2 squares; of three, two hold 0.9
    torch.testing.assert_close(drawn, squared / squared.sum(), atol=0.015, rtol=0)


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    logits = torch.zeros(64, 50)
    first, again, other = (sampler(generator=seeded(seed))(logits).tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_drawing_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    sampler(generator=seeded(0))(torch.zeros(3, 5))
    assert torch.equal(before, torch.get_rng_state())


def test_draws_from_half_precision_logits() -> None:
    logits = torch.tensor([[0.0, 60.0, 0.0]], dtype=torch.bfloat16)
    assert sampler(top_p=0.99, generator=seeded(0))(logits).tolist() == [1]


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"top_k": 0}, {"top_p": 0.0}])
def test_wrong_settings_are_refused_before_anything_is_drawn(wrong) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        sampler(**wrong)


def kept(logits: torch.Tensor) -> list[int]:
    return logits.isfinite().nonzero()[:, 0].tolist()


def logits_of(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def test_top_k_keeps_the_most_probable_and_leaves_their_logits_alone() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0], [5.0, 4.0, 3.0, 2.0]])
    never = float("-inf")
    assert keep_top_k(logits, 2).tolist() == [[never, 3.0, never, 2.0], [5.0, 4.0, never, never]]


def test_top_k_keeps_exactly_k_of_equals_and_everything_if_there_is_less() -> None:
    assert len(kept(keep_top_k(torch.zeros(7), 3))) == 3
    assert keep_top_k(torch.arange(3.0), 100).tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("p", "nucleus"),
    [(0.05, [2]), (0.5, [2]), (0.51, [1, 2]), (0.75, [1, 2]), (0.76, [1, 2, 3]), (0.9, [1, 2, 3]), (1.0, [0, 1, 2, 3])],
)
def test_top_p_keeps_the_smallest_set_with_enough_probability(p: float, nucleus: list[int]) -> None:
    assert kept(keep_top_p(logits_of(0.0625, 0.25, 0.5, 0.1875), p)) == nucleus


def test_top_p_finds_the_smallest_set_among_all_subsets() -> None:
    generator = torch.Generator().manual_seed(0)
    subsets = torch.cartesian_prod(*[torch.tensor([False, True])] * 6)
    for _ in range(20):
        logits = torch.randn(6, generator=generator, dtype=torch.float64) * 2
        p = float(torch.rand((), generator=generator))
        probabilities = logits.softmax(-1)
        enough = subsets[(subsets * probabilities).sum(-1) >= p]
        smallest = int(enough.sum(-1).min())
        left = keep_top_p(logits, p).isfinite()
        assert left.sum() == smallest
        assert (left * probabilities).sum() >= p
        assert probabilities[left].min() >= probabilities[~left].max()


def test_top_p_always_keeps_one() -> None:
    assert kept(keep_top_p(torch.tensor([0.0, 200.0, 0.0]), 1e-9)) == [1]


def test_temperature_sharpens_below_one_and_flattens_above() -> None:
    logits = logits_of(0.2, 0.8)
    torch.testing.assert_close(scale_temperature(logits, 0.5).softmax(-1), torch.tensor([1.0, 16.0]).double() / 17)
    torch.testing.assert_close(scale_temperature(logits, 2.0).softmax(-1), torch.tensor([1.0, 2.0]).double() / 3)


@pytest.mark.parametrize(
    ("function", "value", "name"),
    [
        (scale_temperature, 0.0, "temperature"),
        (scale_temperature, float("nan"), "temperature"),
        (keep_top_k, 0, "top_k"),
        (keep_top_p, 0.0, "top_p"),
        (keep_top_p, 1.5, "top_p"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(function, value, name) -> None:
    with pytest.raises(ValueError, match=name):
        function(torch.zeros(3), value)
