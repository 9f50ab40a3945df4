"""Random numbers as a pure function of what they are for, so that nothing depends on ranks, workers or the past.

Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") turns a key and a counter into random bits.
NumPy promises that a bit generator's raw output never changes, which it doesn't for `Generator.permutation`; so only
raw output is used here, and a run continues with the same order under another version.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray


def bits(seed: int, purpose: str, *where: int, count: int) -> NDArray[np.uint64]:
    """Draw `count` random 64-bit words that belong to this seed, purpose and place.

    Args:
        seed: The run's seed.
        purpose: What the words are for; other purposes get independent words.
        where: Numbers that say which draw it is, for example the epoch and the sample.
        count: How many words.
    """
    name = repr((int(seed), purpose, *map(int, where))).encode()
    key = np.frombuffer(hashlib.blake2b(name, digest_size=16).digest(), dtype="<u8")
    return np.random.Philox(key=key).random_raw(count)


def uniform(seed: int, purpose: str, *where: int, count: int) -> NDArray[np.float64]:
    """Draw `count` numbers in [0, 1), each a multiple of 2^-53."""
    return (bits(seed, purpose, *where, count=count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(seed: int, purpose: str, *where: int, count: int) -> NDArray[np.int64]:
    """Draw an order of `count` things."""
    return np.argsort(bits(seed, purpose, *where, count=count), kind="stable")
