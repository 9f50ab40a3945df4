import pytest
import torch

from blockformer.generation import greedy, sampler


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
