"""Losses of finished models by document, and intervals of differences from resampled documents.

Seeds show how a result varies with chance in training; resampling shows how it varies with the text of the evaluation.
"""

import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from pydantic import TypeAdapter

from blockformer.assembly import load
from blockformer.data.mixed_samples import ORIGIN
from blockformer.data.module import TextData
from blockformer.data.options import files_read
from blockformer.errors import UserError
from blockformer.files import write_text
from blockformer.studies.stored_files import LARGEST, read_stored
from blockformer.training.objectives import ObjectiveSettings, paths_read
from blockformer.training.run_folder import signature_in
from blockformer.training.score import IGNORED
from blockformer.training.signature import is_signed
from registry.files import read_bytes
from registry.text import printable

FIELDS = ("nll", "correct", "targets", "bytes")
SAMPLES = 1000
SPAN = (2.5, 97.5)  # percentiles of the interval
_APART = 2**40  # between the numbers of the documents of two sources
Losses = dict[str, list[float]]  # by field, a number for each document
_LOSSES = TypeAdapter(Losses)
Split = Literal["validation", "test"]


def stored_losses(run: Path, store: Path, split: Split, limit: float | None = None) -> Losses | None:
    """The losses of a run's last checkpoint by document, computed once.

    Args:
        run: the run's folder.
        store: the file that keeps them.
        split: what is judged on.
        limit: the run's `trainer.limit_val_batches` or `limit_test_batches`.

    Returns:
        The losses; None: the checkpoint or the data cannot be read, and a note on stderr has said why.
    """
    if (before := _kept(store)) is not None:
        return before
    try:
        losses = document_losses(run / "checkpoints" / "last.ckpt", run / "config.yaml", split, limit)
        text = json.dumps(losses, allow_nan=False)
    except Exception as error:  # of any class: a damaged file of the run; the verdicts do not depend on it
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        print(f"note: {printable(run)} is left out of the resampled documents: {printable(reason)}", file=sys.stderr)
        return None
    write_text(store, text)
    return losses


def _kept(store: Path) -> Losses | None:
    """What the file keeps; None: there is none, or it is damaged and made anew."""
    try:
        found = read_stored(store.parent, store.name, _LOSSES, "")
    except (FileNotFoundError, UserError):
        return None
    whole = {*FIELDS} <= found.keys() and len({len(found[field]) for field in FIELDS}) == 1
    return found if whole and all(map(math.isfinite, chain.from_iterable(found.values()))) else None


def document_losses(checkpoint: Path, config: Path, split: Split, limit: float | None = None) -> Losses:
    """Negative log-likelihood in nats, correct targets, targets and bytes of each document.

    A document is what attention is limited to in packed rows, and a sample elsewhere.
    """
    settings = yaml.safe_load(read_bytes(config, LARGEST))
    _check_files(settings["data"], settings["objective"], config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load(checkpoint, device=device)
    data = TextData(**settings["data"])
    objective = ObjectiveSettings(**settings["objective"]).objective
    if objective.pooled or objective.per_token:
        raise UserError(f"objective {objective.name} does not score tokens, of which a document has several")
    data.configure(objective=objective)
    sizes = _token_sizes(data)
    totals: list[NDArray[np.float64]] = []
    units: list[NDArray[np.int64]] = []
    begun: Counter[int] = Counter()  # documents that began in earlier rows, of each source
    with torch.no_grad():
        for batch in _limited(data.loader(split), limit):
            logits = objective.logits(model, {key: value.to(device) for key, value in batch.items()}).float().cpu()
            targets = batch["targets"]
            nll = torch.nn.functional.cross_entropy(
                logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORED, reduction="none"
            ).view_as(targets)
            scored = targets != IGNORED
            bytes_ = sizes[targets.clamp(min=0)]
            fields = torch.stack([nll, (logits.argmax(-1) == targets).float(), scored.float(), bytes_.float()])
            units_here = _units(batch, begun)
            totals.append(fields[:, scored].double().numpy())
            units.append(units_here[scored].numpy())
    of, summed = np.concatenate(units), np.concatenate(totals, axis=1)
    _, position = np.unique(of, return_inverse=True)
    return {field: np.bincount(position, row).tolist() for field, row in zip(FIELDS, summed, strict=True)}


def _check_files(data: Mapping[str, Any], objective: Mapping[str, Any], config: Path) -> None:
    """Check that this user has named the files that the settings of a run name, which may come from a stranger.

    Raises:
        UserError: another one has.
    """
    named = [data.get(key) for key in files_read(data)] + [objective.get(key) for key in paths_read(objective)]
    if any(named) and not is_signed(data, objective, signature_in(config)):
        raise UserError("its data files were named by another user or on another machine, and such paths are not read")


def resampled(variant: Sequence[Losses], base: Sequence[Losses], figure: str) -> dict[str, float] | None:
    """The middle 95 % of the difference of two variants over resampled sets of documents (Efron 1979).

    Args:
        variant: losses by document, for each seed.
        base: of the base, with the same seeds.
        figure: `loss`, `accuracy` or `bits_per_byte`.

    Returns:
        `low`, `high` and the number of `documents`; None for figures that are no ratio of sums, or for one document.
    """
    ratio = {"loss": ("nll", "targets"), "accuracy": ("correct", "targets"), "bits_per_byte": ("nll", "bytes")}
    number = len(base[0]["targets"]) if base else 0
    if figure not in ratio or number < 2 or any(len(one["targets"]) != number for one in (*variant, *base)):
        return None
    draws = np.random.default_rng(0).multinomial(number, np.full(number, 1 / number), size=SAMPLES).astype(float)
    above, below = ratio[figure]

    def means(runs: Sequence[Losses]) -> NDArray[np.float64]:
        return np.mean([(draws @ np.array(run[above])) / (draws @ np.array(run[below])) for run in runs], axis=0)

    unit = math.log(2) if figure == "bits_per_byte" else 1.0
    with np.errstate(divide="ignore", invalid="ignore"):  # of texts whose sizes are not known
        low, high = np.percentile((means(variant) - means(base)) / unit, SPAN)
    return {"low": float(low), "high": float(high), "documents": number} if math.isfinite(low + high) else None


def _units(batch: dict[str, torch.Tensor], begun: Counter[int]) -> torch.Tensor:
    """(B, T) number of each place's document over all rows so far.

    Args:
        batch: of one source, where there are several.
        begun: how many documents of each source have begun in earlier rows; those of this batch are added.
    """
    source = int(batch.get(ORIGIN, torch.zeros(())))
    if "documents" not in batch:
        return batch["index"][:, None].expand_as(batch["targets"]) + source * _APART
    numbers = batch["documents"].clone()
    real = batch["targets"] != IGNORED
    for row in range(len(numbers)):
        within = int(numbers[row][real[row]].max()) if real[row].any() else 0
        numbers[row] += begun[source] + source * _APART
        begun[source] += within
    return numbers


def _token_sizes(data: TextData) -> torch.Tensor:
    """(V,) bytes of each token; 0 for tokens of the objective, and where token ids do not give the exact text."""
    sizes = torch.zeros(data.vocab_size)
    if data.tokenizer is not None and (lengths := data.tokenizer.byte_lengths) is not None:
        sizes[: len(lengths)] = torch.from_numpy(lengths)
    return sizes


def _limited(loader: Any, limit: float | None) -> Iterator[dict[str, torch.Tensor]]:
    number = None if limit is None else limit if isinstance(limit, int) else int(len(loader) * limit)
    return islice(iter(loader), number)
