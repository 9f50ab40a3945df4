"""Hashes of n-grams of token ids."""

import math

import torch
from torch import Tensor

MASK = 2**64 - 1
STEP = 0x9E3779B97F4A7C15
"""2^64 divided by the golden ratio, the step of SplitMix64 (Steele et al., 2014)."""


def factors(seed: int, count: int, ids: int) -> list[int]:
    """Odd factors for hashing, so small that a product with an id below ``ids`` fits into 63 bits."""
    half = max(1, (2**63 - 1) // max(ids, 1) // 2)
    return [2 * (_splitmix(seed + STEP * (index + 1)) % half) + 1 for index in range(count)]


def _splitmix(value: int) -> int:
    """A step of the generator SplitMix64."""
    value = (value + STEP) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def primes(least: int, skipped: int, count: int) -> list[int]:
    """The first ``count`` primes from ``least`` on, after the first ``skipped`` ones."""
    found: list[int] = []
    number = least
    while len(found) < skipped + count:
        if _is_prime(number):
            found.append(number)
        number += 1
    return found[skipped:]


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def hashed(ids: list[Tensor], multipliers: list[int], sizes: list[list[int]]) -> Tensor:
    """(B, T, tables) int: the row of each table, for the n-grams that end with each token, from 2 tokens on.

    The ids are multiplied by factors and joined by exclusive or; the row is the remainder of the division by the number
    of rows.

    Args:
        ids: of each token (B, T), of the one before it, and so on.
        multipliers: of each of these.
        sizes: number of rows of each table, for each length of n-grams.
    """
    mixed = ids[0] * multipliers[0]
    found: list[Tensor] = []  # list[Tensor]() would stop torch.compile
    for earlier, multiplier, rows in zip(ids[1:], multipliers[1:], sizes, strict=True):
        mixed = mixed ^ (earlier * multiplier)
        found.append(torch.remainder(mixed[..., None], torch.tensor(rows, device=mixed.device)))
    return torch.cat(found, dim=-1)
