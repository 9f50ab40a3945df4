"""Section 3.5: positional encoding."""

import torch

from blocks.base import Site
from blocks.positions.learned import LearnedPositions
from blocks.positions.sinusoidal import SinusoidalPositions

DIM, TRAINED = 16, 64


def encoding(positions: torch.Tensor) -> torch.Tensor:
    return SinusoidalPositions(Site(dim=DIM, max_length=TRAINED)).encode(positions).double()


def test_an_offset_is_one_linear_map_for_all_positions() -> None:
    for offset in (1, 5, 17):
        known = torch.arange(40)
        matrix = torch.linalg.lstsq(encoding(known), encoding(known + offset)).solution
        unseen = torch.arange(40, 60)
        torch.testing.assert_close(encoding(unseen) @ matrix, encoding(unseen + offset), rtol=0.0, atol=1e-3)


def test_that_map_is_a_rotation_of_each_pair_of_channels() -> None:
    offset, rates = 7, 10000.0 ** -(torch.arange(0, DIM, 2, dtype=torch.float64) / DIM)
    matrix = torch.zeros(DIM, DIM, dtype=torch.float64)
    for pair, angle in enumerate(offset * rates):
        block = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
        matrix[2 * pair : 2 * pair + 2, 2 * pair : 2 * pair + 2] = block
    positions = torch.arange(30)
    torch.testing.assert_close(encoding(positions) @ matrix, encoding(positions + offset), rtol=0.0, atol=1e-5)


def test_wavelengths_grow_geometrically_from_two_pi() -> None:
    long = torch.arange(200_000)
    table = encoding(long)
    crossings = (table[1:, ::2].sign() != table[:-1, ::2].sign()).sum(0)
    wavelengths = 2 * len(long) / crossings.double()
    expected = 2 * torch.pi * 10000.0 ** (torch.arange(0, DIM, 2) / DIM)
    torch.testing.assert_close(wavelengths, expected.double(), rtol=0.2, atol=0.0)


def test_it_goes_on_past_the_trained_length_where_a_table_ends() -> None:
    far = torch.arange(10 * TRAINED)
    assert bool(encoding(far).abs().le(1.0).all())
    assert len(torch.unique(encoding(far), dim=0)) == 10 * TRAINED, "every position has an encoding of its own"
    assert LearnedPositions(Site(dim=DIM, max_length=TRAINED)).table.num_embeddings == TRAINED


def test_near_positions_are_alike_and_the_likeness_depends_on_the_distance_alone() -> None:
    table = encoding(torch.arange(50))
    products = table @ table.T
    for distance in range(4):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0.0, atol=1e-5)
    assert bool((products[0, :4].diff() < 0).all()), "the next token is more alike than the one after it"
