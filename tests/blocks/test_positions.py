"""Positions against their formulas and their promises."""

from typing import Any

import pytest
import torch
from torch import Tensor

from blockformer.conformance import BlockCase
from blocks.base import AttentionPositions, Context, InputPositions, Site
from blocks.positions.learned import LearnedPositions
from blocks.positions.relative import RelativeBias
from blocks.positions.rotary import RotaryPositions
from blocks.positions.sinusoidal import SinusoidalPositions

K = 8


def at(positions: list[int]) -> Context:
    return Context(torch.tensor([positions]))


def test_sinusoidal_is_the_formula_of_the_paper() -> None:
    table = SinusoidalPositions(Site(dim=6)).encode(torch.arange(5))
    for position in range(5):
        for pair in range(3):
            angle = torch.tensor(position / 10000 ** (2 * pair / 6))
            torch.testing.assert_close(table[position, 2 * pair], angle.sin())
            torch.testing.assert_close(table[position, 2 * pair + 1], angle.cos())


def test_the_layout_in_halves_is_the_same_channels_in_another_order() -> None:
    site, time = Site(dim=6), torch.arange(5)
    in_turn = SinusoidalPositions(site).encode(time)
    halves = SinusoidalPositions(site, layout="halves").encode(time)
    assert torch.equal(halves, torch.cat([in_turn[:, ::2], in_turn[:, 1::2]], dim=-1))


def rotated(block: RotaryPositions, x: Tensor, position: int) -> Tensor:
    return block.rotate(x.view(1, 1, 1, -1), at([position])).flatten()


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_turns_each_pair_by_its_angle(interleaved: bool) -> None:
    block = RotaryPositions(Site(dim=K), interleaved=interleaved)
    x = torch.randn(K, generator=torch.Generator().manual_seed(0))
    pairs = x.view(-1, 2).T if interleaved else x.view(2, -1)
    turned = torch.complex(*pairs) * torch.polar(torch.ones(4), 3.0 * 10000.0 ** -(torch.arange(4) / 4))
    expected = torch.stack([turned.real, turned.imag], dim=-1 if interleaved else 0).flatten()
    torch.testing.assert_close(rotated(block, x, 3), expected)


def test_rotary_keeps_lengths_and_makes_products_depend_on_the_distance_alone() -> None:
    block, generator = RotaryPositions(Site(dim=K)), torch.Generator().manual_seed(0)
    q, k = torch.randn(K, generator=generator), torch.randn(K, generator=generator)
    torch.testing.assert_close(rotated(block, q, 11).norm(), q.norm())
    near, far = (rotated(block, q, p + 2) @ rotated(block, k, p) for p in (0, 40))
    torch.testing.assert_close(near, far, rtol=1e-4, atol=1e-5)


def test_rotary_leaves_the_rest_of_the_channels_alone() -> None:
    x = torch.randn(K)
    half = rotated(RotaryPositions(Site(dim=K), fraction=0.5), x, 3)
    assert torch.equal(half[4:], x[4:])
    torch.testing.assert_close(half[:4], rotated(RotaryPositions(Site(dim=4)), x[:4], 3))
    assert torch.equal(rotated(RotaryPositions(Site(dim=K), fraction=1.0), x, 0), x), "position 0 does not turn"


def test_rotary_turns_the_fastest_pairs_of_the_whole_head() -> None:
    x = torch.randn(K)
    half = rotated(RotaryPositions(Site(dim=K), fraction=0.5, fraction_of="pairs"), x, 3)
    whole, turning = rotated(RotaryPositions(Site(dim=K)), x, 3), torch.tensor([0, 1, 4, 5])
    torch.testing.assert_close(half[turning], whole[turning])
    assert torch.equal(half[turning + 2], x[turning + 2])


@pytest.mark.parametrize(("dim", "fraction"), [(5, 1.0), (8, 0.1), (6, 0.5)])
def test_rotary_refuses_what_makes_no_pairs(dim: int, fraction: float) -> None:
    with pytest.raises(ValueError, match=f"fraction={fraction} of head_dim={dim}"):
        RotaryPositions(Site(dim=dim), fraction=fraction)


def test_learned_positions_end_where_the_model_ends() -> None:
    block = LearnedPositions(Site(dim=4, max_length=3))
    assert block(torch.zeros(1, 3, 4), at([0, 1, 2])).shape == (1, 3, 4)
    with pytest.raises(ValueError, match=r"4 tokens.*max_length=3"):
        block(torch.zeros(1, 4, 4), at([0, 1, 2, 3]))


@pytest.mark.parametrize("block", [SinusoidalPositions(Site(dim=4)), LearnedPositions(Site(dim=4))])
def test_input_positions_add_what_belongs_to_the_position(block: InputPositions) -> None:
    x = torch.randn(1, 3, 4)
    added = block(x, at([2, 0, 2])) - x
    torch.testing.assert_close(added[0, 0], added[0, 2])
    assert not torch.allclose(added[0, 0], added[0, 1])


def bucket_of(block: RelativeBias, distance: int) -> int:
    return int(block.bucket(torch.tensor([[-distance]])))


def test_relative_buckets_are_exact_near_by_and_logarithmic_far_away() -> None:
    block = RelativeBias(Site(dim=4, heads=2), buckets=8, max_distance=16)
    assert [bucket_of(block, distance) for distance in range(5)] == [0, 1, 2, 3, 4]
    assert [bucket_of(block, distance) for distance in (5, 6, 8, 11, 12, 16, 999)] == [4, 5, 6, 6, 7, 7, 7]
    assert bucket_of(block, -3) == 0, "what lies ahead is hidden anyway"


def test_relative_buckets_tell_before_from_after_without_causality() -> None:
    block = RelativeBias(Site(dim=4, heads=2, causal=False), buckets=8, max_distance=16)
    before, after = ({bucket_of(block, sign * d) for d in range(1, 40)} for sign in (1, -1))
    assert not before & after
    assert before | after | {bucket_of(block, 0)} == set(range(8)) - {4}, "4 would be 'ahead by 0'"


@pytest.mark.parametrize(("buckets", "max_distance"), [(1, 128), (32, 16), (32, 3)])
def test_relative_buckets_that_cannot_be_are_refused(buckets: int, max_distance: int) -> None:
    with pytest.raises(ValueError, match=f"{buckets if buckets == 1 else max_distance}"):
        RelativeBias(Site(dim=4, heads=2), buckets=buckets, max_distance=max_distance)


def test_relative_biases_are_t5_s() -> None:
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    distances = torch.arange(-300, 300)[None]
    for causal in (True, False):
        block: AttentionPositions = RelativeBias(Site(dim=4, heads=2, causal=causal))
        theirs = t5.T5Attention._relative_position_bucket(distances, not causal, 32, 128)
        assert torch.equal(block.bucket(distances), theirs)


@pytest.mark.parametrize(
    ("positions", "words"),
    [
        ({"fraction": 0.25, "scaling": "dynamic"}, "at least 4 rotated channels"),
        ({"theta": 1.0, "scaling": "yarn"}, "needs theta > 1, but theta=1.0"),
        ({"scaling": {"type": "longrope", "factor": 2.0, "trained_length": 1}}, "trained_length=1"),
    ],
)
def test_a_scaling_that_would_divide_by_zero_is_refused(positions: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        BlockCase("mixer", "attention", {"heads": 4, "positions": {"type": "rotary", **positions}}).construct()
