"""Random numbers as a pure function of seed and purpose, independent of ranks and of earlier draws.

Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") turns a key and a counter into random bits.
NumPy guarantees that the raw output of a bit generator never changes, but not that of `Generator.permutation`; so only
raw output is used here, and a resumed run keeps its order under another version of NumPy.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray


def bits(seed: int, purpose: str, *where: int, count: int) -> NDArray[np.uint64]:
    """Draw `count` random 64-bit words for this seed, purpose and index.

    Args:
        seed: The run's seed.
        purpose: Name of the use; other purposes get independent words.
        where: Index of the draw, for example the epoch and the sample.
        count: Number of words.
    """
    return np.random.Philox(key=_key(seed, purpose, *where)).random_raw(count)


def _key(seed: int, purpose: str, *where: int) -> NDArray[np.uint64]:
    name = repr((int(seed), purpose, *map(int, where))).encode()
    return np.frombuffer(hashlib.blake2b(name, digest_size=16).digest(), dtype="<u8")


def uniform(seed: int, purpose: str, *where: int, count: int) -> NDArray[np.float64]:
    """Draw `count` numbers in [0, 1), each a multiple of 2^-53."""
    return (bits(seed, purpose, *where, count=count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


class Permutation:
    """A random permutation, computed item by item, so that no list of all items is kept.

    A Feistel network permutes the numbers below a power of 4, which are at most four times as many (Luby and Rackoff
    1988, "How to construct pseudorandom permutations from pseudorandom functions"); what leads out of the items is
    permuted again until it leads back (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").

    Args:
        seed: The run's seed.
        purpose: Name of the use; other purposes get independent permutations.
        where: Index of the permutation, for example the epoch.
        count: Number of items.
    """

    def __init__(self, seed: int, purpose: str, *where: int, count: int) -> None:
        self._half = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))
        self._low = (np.uint64(1) << self._half) - np.uint64(1)
        self._keys = bits(seed, purpose, *where, count=_ROUNDS)
        self._count = np.uint64(count)

    def __getitem__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The items at these places, which are less than the number of items."""
        found = self._permuted(places.astype(np.uint64))
        while (outside := found >= self._count).any():
            found[outside] = self._permuted(found[outside])
        return found.astype(np.int64)

    def _permuted(self, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = numbers >> self._half, numbers & self._low
        for key in self._keys:
            left, right = right, left ^ (mixed(right + key) & self._low)
        return left << self._half | right


class Draws:
    """Random numbers for several rows at once; a row's numbers depend on the seed, the purpose and its own index alone.

    SplitMix64 (Steele et al. 2014, "Fast splittable pseudorandom number generators") with a key for each row. Each call
    goes on where the last one ended, so draw in a fixed order.

    Args:
        seed: The run's seed.
        purpose: Name of the use; other purposes get independent numbers.
        rows: (B,) index of each row.
        where: Further index of all rows, for example the epoch.
    """

    def __init__(self, seed: int, purpose: str, rows: NDArray[np.int64], *where: int) -> None:
        self._keys = mixed(_key(seed, purpose, *where)[0] + rows.astype(np.uint64) * _STEP)
        self._drawn = 0

    def bits(self, count: int) -> NDArray[np.uint64]:
        """(B, count) random 64-bit words."""
        counter = np.arange(self._drawn + 1, self._drawn + count + 1, dtype=np.uint64)
        self._drawn += count
        return mixed(self._keys[:, None] + counter * _STEP)

    def uniform(self, count: int) -> NDArray[np.float64]:
        """(B, count) numbers in [0, 1), each a multiple of 2^-53."""
        return (self.bits(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def integers(self, high: int, count: int) -> NDArray[np.int64]:
        """(B, count) whole numbers from 0 to high - 1."""
        return (self.uniform(count) * high).astype(np.int64)

    def permutations(self, count: int) -> NDArray[np.int64]:
        """(B, count): in each row the numbers from 0 to count - 1 in random order."""
        return np.argsort(self.bits(count), axis=1, kind="stable")


_STEP = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = 6  # of the network; four are enough where the function is random


def mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Words whose bits all depend on all bits of the given ones (the finaliser of SplitMix64); a bijection."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
