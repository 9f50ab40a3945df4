"""Loaders whose batches are a pure function of seed, step, rank and number of ranks.

`batch_size` is global: rank r of w gets samples r, r + w, r + 2w, ... of each batch, so several processes together see
the batches that one would see. There is no prefetching and no worker process: a batch from a memory-mapped array takes
0.1 ms, with masking about 2 ms.
"""

from collections.abc import Callable, Iterator
from math import nan

import numpy as np
from numpy.typing import NDArray

from blockformer.data.datasets.base import UNSCORED
from blockformer.data.randomness import Permutation
from blockformer.data.samples import Batch, Samples
from blockformer.errors import DataError

POOL = 32
"""Batches whose samples are sorted by length together."""


class TrainingLoader:
    """Batches in a new order each epoch; an incomplete last batch of an epoch is dropped.

    Its whole state is `step`, how many batches it has given since the beginning, so it continues exactly where it was,
    also on another number of ranks. Each iteration gives `len(loader)` batches and goes on from the last one; a loop
    that counts steps by itself can ask for `loader.batch(step)` instead. With `repeated` set, the batches of that many
    first steps come again and again.

    Args:
        samples: The training samples.
        batch_size: Samples in a global batch.
        seed: Decides the order.
        rank: Index of this process.
        world: Number of processes.
        order: The (B,) samples of a step, over all processes; None: all samples in a new order each epoch.

    Raises:
        DataError: There are too few samples, or `world` does not divide `batch_size`.
    """

    def __init__(
        self,
        samples: Samples,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        order: Callable[[int], NDArray[np.int64]] | None = None,
    ) -> None:
        _check_share(batch_size, world)
        self._batches = batches_per_epoch(samples, batch_size)
        self._samples, self._batch_size, self._seed, self._order = samples, batch_size, seed, order
        self._rank, self._world = rank, world
        self.step = 0
        self.repeated: int | None = None

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(len(self)):
            self.step += 1
            yield self.batch(self.step - 1)

    def batch(self, step: int) -> Batch:
        """This rank's share of the batch of a step, counted from 0 and on through the epochs."""
        step = step if self.repeated is None else step % self.repeated
        epoch, place = divmod(step, len(self))
        chosen = self._chosen(epoch, place) if self._order is None else self._order(step)
        return self._samples.batch(chosen[self._rank :: self._world], epoch)

    def state_dict(self) -> dict[str, int]:
        """The step, which is the whole state."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue with the next batch after `state` was saved."""
        self.step = int(state["step"])

    def _chosen(self, epoch: int, place: int) -> NDArray[np.int64]:
        """The samples of a batch of an epoch, over all processes.

        Where their lengths matter, samples of similar length are together, which needs less padding: batches are drawn
        in a random order, and each is cut from a pool of samples in the epoch's order that is sorted by length.
        """
        order = Permutation(self._seed, "order", epoch, count=len(self._samples))
        size = self._batch_size
        if not self._samples.vary:
            return order[np.arange(place * size, (place + 1) * size)]
        batches = Permutation(self._seed, "batches", epoch, count=self._batches)
        pool, within = divmod(int(batches[np.array([place])][0]), POOL)
        end = min((pool + 1) * POOL, self._batches)
        pooled = order[np.arange(pool * POOL * size, end * size)]
        ranked = pooled[np.argsort(self._samples.lengths(pooled), kind="stable")]
        return ranked[within * size : (within + 1) * size]


class EvaluationLoader:
    """Every sample once and in order, on any number of ranks.

    All ranks get the same number of batches of the same size. If the last global batch is too small, a rank's share is
    filled with samples without targets: `targets` -100 (NaN if they are no ids), `bytes` 0, `index` -1. A batch may
    consist of these alone, so sum losses and counts over all batches and divide once at the end.

    Args:
        samples: The samples to evaluate on.
        batch_size: Samples in a global batch.
        rank: Index of this process.
        world: Number of processes.
    """

    def __init__(self, samples: Samples, batch_size: int, *, rank: int = 0, world: int = 1) -> None:
        _check_share(batch_size, world)
        self._samples, self._batch_size, self._rank, self._world = samples, batch_size, rank, world

    def __len__(self) -> int:
        return -(-len(self._samples) // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return map(self.batch, range(len(self)))

    def batch(self, step: int) -> Batch:
        """This rank's share of the batch with this number."""
        chosen = np.arange(step * self._batch_size, min((step + 1) * self._batch_size, len(self._samples)))
        share = -(-len(chosen) // self._world)
        own = chosen[self._rank :: self._world]
        batch = self._samples.batch(np.concatenate((own, chosen[:1].repeat(share - len(own)))), epoch=0)
        for name, unscored in (("targets", UNSCORED), ("bytes", 0), ("index", -1)):
            if name in batch:
                batch[name][len(own) :] = nan if batch[name].is_floating_point() else unscored
        return batch


def batches_per_epoch(samples: Samples, batch_size: int) -> int:
    """Full batches that training samples make.

    Raises:
        DataError: They make none.
    """
    if len(samples) < batch_size:
        problem = f"the training text makes {len(samples)} rows, fewer than batch_size {batch_size}"
        raise DataError(f"{problem}: lower batch_size{'' if samples.vary else ' or length'}")
    return len(samples) // batch_size


def _check_share(batch_size: int, world: int) -> None:
    if batch_size % world:
        raise DataError(
            f"batch_size {batch_size} is the total over all processes and cannot be divided by {world} of them"
        )
