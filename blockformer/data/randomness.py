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
    name = repr((int(seed), purpose, *map(int, where))).encode()
    key = np.frombuffer(hashlib.blake2b(name, digest_size=16).digest(), dtype="<u8")
    return np.random.Philox(key=key).random_raw(count)


def uniform(seed: int, purpose: str, *where: int, count: int) -> NDArray[np.float64]:
    """Draw `count` numbers in [0, 1), each a multiple of 2^-53."""
    return (bits(seed, purpose, *where, count=count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(seed: int, purpose: str, *where: int, count: int) -> NDArray[np.int64]:
    """Draw a permutation of `count` items."""
    return np.argsort(bits(seed, purpose, *where, count=count), kind="stable")
