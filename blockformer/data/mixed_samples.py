"""Samples of several sources, their order in training, and a loader that scores each source by itself."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blockformer.data.datasets.base import UNSCORED
from blockformer.data.loader import POOL, EvaluationLoader
from blockformer.data.randomness import Permutation
from blockformer.data.row_schedule import RowSchedule
from blockformer.data.samples import Batch, Samples

ORIGIN = "origin"
"""The key of a batch that has the number of the source which all of its rows are from."""
MEMBERSHIP = "sources"
"""The key of a batch that says for each row and each source whether the row is from it: (B, S)."""


class MixedSamples:
    """The samples of several sources.

    A sample's number encodes its source and how often the source has been repeated: sample n of source s in epoch e of
    the source, which has N samples, is number (e N + n) S + s. So each source has epochs of its own.

    Args:
        parts: The samples of each of the S sources.
        pad: The padding token.
    """

    def __init__(self, parts: Sequence[Samples], pad: int) -> None:
        self.parts, self._pad = tuple(parts), pad
        self.vary = any(part.vary for part in parts)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def numbered(self, source: int, epochs: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers of samples of a source in epochs of it."""
        return (epochs * len(self.parts[source]) + chosen) * len(self.parts) + source

    def lengths(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) tokens of each of the chosen samples."""
        found = np.empty(len(chosen), np.int64)
        for source, _, places, samples in self._groups(chosen):
            found[places] = self.parts[source].lengths(samples)
        return found

    def batch(self, chosen: NDArray[np.int64], epoch: int) -> Batch:
        """A batch of the chosen samples, in their order; each has the epoch of its number."""
        groups = [(places, self.parts[of].batch(samples, e)) for of, e, places, samples in self._groups(chosen)]
        keys = dict.fromkeys(key for _, batch in groups for key in batch)
        merged = {key: self._merged(key, [(at, batch.get(key)) for at, batch in groups], len(chosen)) for key in keys}
        members = chosen[:, None] % len(self.parts) == np.arange(len(self.parts))
        return {**merged, "index": torch.from_numpy(chosen), MEMBERSHIP: torch.from_numpy(members)}

    def _groups(self, chosen: NDArray[np.int64]) -> Iterator[tuple[int, int, NDArray[np.int64], NDArray[np.int64]]]:
        """Source and epoch of the chosen samples that have both in common, their places, and their numbers in it."""
        source, seen = chosen % len(self.parts), chosen // len(self.parts)
        for of in np.unique(source):
            epochs, samples = np.divmod(seen, max(1, len(self.parts[of])))
            for epoch in np.unique(epochs[source == of]):
                places = np.flatnonzero((source == of) & (epochs == epoch))
                yield int(of), int(epoch), places, samples[places]

    def _merged(self, key: str, groups: Sequence[tuple[NDArray[np.int64], Tensor | None]], rows: int) -> Tensor:
        """One tensor of the rows of several, padded on the right to the longest."""
        known = [value for _, value in groups if value is not None]
        width = max(value.shape[1:] for value in known)
        fill = {"targets": UNSCORED, "documents": 1}.get(key, self._pad)  # without documents a row has one
        result = torch.full((rows, *width), fill if known[0].dtype != torch.bool else False, dtype=known[0].dtype)
        for places, value in groups:
            if value is not None:
                rows_here = torch.from_numpy(places)
                result[(rows_here,) if value.ndim == 1 else (rows_here, slice(value.shape[1]))] = value
        return result


class MixtureOrder:
    """The training samples of each step, so that each source has its share in every prefix of the rows.

    A pure function of seed and step. A source that ends before the run is repeated in a new order.

    Where lengths matter, the samples of a source in a pool of steps are handed to its places in these steps by length;
    which step of the pool has the short ones is random.

    Args:
        samples: The training samples of each source, none of which is empty.
        names: Of the sources; a source's own order depends on its name and not on the other sources.
        schedule: Which source each row is from.
        batch_size: Rows of a step.
        seed: The run's seed.
    """

    def __init__(
        self, samples: MixedSamples, names: Sequence[str], schedule: RowSchedule, batch_size: int, seed: int
    ) -> None:
        self._samples, self._names, self._schedule = samples, tuple(names), schedule
        self._batch_size, self._seed = batch_size, seed

    def chosen(self, step: int) -> NDArray[np.int64]:
        """(B,) the samples of a step, over all processes."""
        size = self._batch_size
        if not self._samples.vary:
            return self._drawn(np.arange(step * size, (step + 1) * size))
        pool, within = divmod(step, POOL)
        rows = np.arange(pool * POOL * size, (pool + 1) * POOL * size)
        steps = Permutation(self._seed, "batches", pool, count=POOL)[np.arange(POOL)].repeat(size)
        drawn, source = self._drawn(rows), self._schedule.source(rows)
        ranked = np.empty_like(drawn)
        for of in np.unique(source):
            places = np.flatnonzero(source == of)
            own = drawn[places]
            by_length = own[np.argsort(self._samples.lengths(own), kind="stable")]
            ranked[places[np.argsort(steps[places], kind="stable")]] = by_length
        return ranked[within * size : (within + 1) * size]

    def _drawn(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The samples of rows, counted from the beginning of the run."""
        source, number = self._schedule.source(rows), self._schedule.number(rows)
        drawn = np.empty_like(rows)
        for of in np.unique(source):
            count = len(self._samples.parts[of])
            epochs, places = np.divmod(number, count)
            for epoch in np.unique(epochs[source == of]):
                here = (source == of) & (epochs == epoch)
                order = Permutation(self._seed, f"order of {self._names[of]}", int(epoch), count=count)
                drawn[here] = self._samples.numbered(int(of), epochs[here], order[places[here]])
        return drawn


class MixedEvaluationLoader:
    """Every sample once, in batches of one source each, on any number of ranks.

    The batches of the sources are spread evenly, so that the first ones are of all sources. `origin` of a batch is the
    number of its source.

    Args:
        samples: The samples of each source.
        batch_size: Samples in a global batch.
        rank: Index of this process.
        world: Number of processes.
    """

    def __init__(self, samples: MixedSamples, batch_size: int, *, rank: int = 0, world: int = 1) -> None:
        self._loaders = [EvaluationLoader(part, batch_size, rank=rank, world=world) for part in samples.parts]
        counts = [len(loader) for loader in self._loaders]
        self._source = np.repeat(np.arange(len(counts)), counts)
        self._step = np.concatenate([np.arange(count) for count in counts])
        middle = (self._step + 0.5) / np.repeat(counts, counts)
        self._order = np.argsort(middle, kind="stable")

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Batch]:
        return map(self.batch, range(len(self)))

    def batch(self, step: int) -> Batch:
        """This rank's share of the batch with this number."""
        place = self._order[step]
        source = int(self._source[place])
        return {**self._loaders[source].batch(int(self._step[place])), ORIGIN: torch.tensor(source)}
