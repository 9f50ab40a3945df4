"""A dataset gives the same rows for the same seed and step, and none of validation to train on."""

import json
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import torch

from blockformer.conformance.block_case import BlockCase, NotApplicable
from blockformer.conformance.components.examples import assert_same_batch, made, own_cache
from blockformer.data.corpora.corpus import SPLITS
from blockformer.data.datasets.base import Dataset, Form, Task, TextDataset
from blockformer.data.datasets.mixture import Mixture
from blockformer.data.module import TextData
from blockformer.training.objectives import CausalLM, Classification, Objective, Regression, SequenceToSequence

OBJECTIVES: dict[Form, Callable[[], Objective]] = {
    "pairs": SequenceToSequence,
    "classes": Classification,
    "scores": Regression,
}
"""For each form of data one that learns from it; the others are for causal language models."""
LENGTH, BATCH, STEPS = 48, 4, 5


def _with_own_cache(check: Callable[[BlockCase], None]) -> Callable[[BlockCase], None]:
    """The check, with a cache of its own."""

    @wraps(check)
    def checked(case: BlockCase) -> None:
        with own_cache():
            check(case)

    return checked


@_with_own_cache
def check_order_is_a_function_of_seed_and_step(case: BlockCase) -> None:
    """Batches are the same from the beginning on and from any step on, and others with another seed."""
    data, again, other = _data(case), _data(case), _data(case, seed=1)
    batches = [data.loader("train").batch(step) for step in range(STEPS)]
    for step in reversed(range(STEPS)):
        assert_same_batch(again.loader("train").batch(step), batches[step], f"the batch of step {step}")
    differs = any(not _alike(other.loader("train").batch(step), batches[step]) for step in range(STEPS))
    assert differs or len(data.samples("train")) < 2 * BATCH, "the rows are the same with another seed"


@_with_own_cache
def check_processes_share_a_batch(case: BlockCase) -> None:
    """The rows of two processes are, together, those of one."""
    data = _data(case)
    for step in range(2):
        whole = data.loader("train").batch(step)
        for rank in range(2):
            part = data.loader("train", rank=rank, world=2).batch(step)
            assert part["index"].tolist() == whole["index"][rank::2].tolist(), "the processes have other rows"


@_with_own_cache
def check_validation_is_the_same_for_all_seeds(case: BlockCase) -> None:
    """What is validated on does not depend on the seed, and is the same each time."""
    loaders = [_data(case, seed=seed).loader("validation") for seed in (0, 0, 1)]
    if not len(loaders[0]):
        raise NotApplicable("there is nothing to validate on")
    first = loaders[0].batch(0)
    for other in loaders[1:]:
        assert_same_batch(other.batch(0), first, "the rows to validate on")


@_with_own_cache
def check_no_row_of_validation_is_trained_on(case: BlockCase) -> None:
    """No document, pair, conversation or row of validation and test is trained on."""
    dataset, data = made(case, Dataset), _data(case)
    if isinstance(dataset, TextDataset):
        corpus = dataset.source({"validation": 0.2, "test": 0.1}).read()
        seen: dict[str, set[str]] = {split: set() for split in SPLITS}
        for split, document in corpus.stream():
            seen[split].add(repr(document))
    else:
        seen = {split: _rows(data, split) for split in SPLITS}
    for split in ("validation", "test"):
        shared = seen["train"] & seen[split]
        assert not shared, f"{len(shared)} of {len(seen[split])} rows of {split} are trained on: {min(shared)[:80]}"
    assert seen["train"], "there is nothing to train on"


@_with_own_cache
def check_rows_fit_their_vocabulary(case: BlockCase) -> None:
    """Rows are at most as long as asked for, their ids are below `vocab_size`, and some are to be predicted."""
    data = _data(case)
    for split in SPLITS:
        if not len(data.samples(split)):
            continue
        batch = data.loader(split).batch(0)
        for key in ("tokens", "source", "target"):
            if (ids := batch.get(key)) is not None:
                least, most = int(ids.min()), int(ids.max())
                ids_of = f"{split}: {key} has ids from {least} to {most}, and vocab_size is {data.vocab_size}"
                assert 0 <= least <= most < data.vocab_size, ids_of
                assert ids.shape[1] <= data.longest, f"{split}: {key} has {ids.shape[1]} tokens, longest {data.longest}"
        targets = batch["targets"]
        known = ~targets.isnan() if targets.is_floating_point() else targets >= 0
        assert known.any(), f"{split}: nothing is to be predicted"
        if not targets.is_floating_point():
            assert int(targets.max()) < data.vocab_size, f"{split}: the target {int(targets.max())} is no id"


@_with_own_cache
def check_text_is_decided_by_its_key(case: BlockCase) -> None:
    """The key of a source is JSON, the same each time, and its text is, too; another share is another key."""
    dataset, again = made(case, Dataset), made(case, Dataset)
    if not isinstance(dataset, TextDataset) or not isinstance(again, TextDataset):
        raise NotApplicable("the dataset is no text")
    shares = {"validation": 0.2, "test": 0.1}
    source = dataset.source(shares)
    assert json.loads(json.dumps(source.key)) == json.loads(json.dumps(again.source(shares).key)), "the key changes"
    first, second = source.read(), again.source(shares).read()
    assert first.sha256() == second.sha256(), "a text that is read again is another one"
    held = dict(zip(SPLITS, _counts(first), strict=True))
    given = [one for one in ("validation", "test") if one in dataset.idle(case.params)]
    if not isinstance(dataset, Mixture) and not given and held["train"]:
        assert held["validation"], "the share to validate on holds nothing out"
        assert source.key != dataset.source({"validation": 0.4, "test": 0.1}).key, "the shares are not in the key"


@_with_own_cache
def check_rows_of_a_task_depend_on_nothing_else(case: BlockCase) -> None:
    """Of a task, a row is drawn from its own random numbers alone; `chance` and `ceiling` are accuracies."""
    task, again = made(case, Dataset), made(case, Dataset)
    if not isinstance(task, Task) or not isinstance(again, Task):
        raise NotApplicable("the dataset is no task")
    assert 0 <= task.chance <= task.ceiling <= 1, f"chance {task.chance} and ceiling {task.ceiling} are no accuracies"
    assert min(task.least_length, task.vocab_size) >= 1, "least_length and vocab_size are at least 1"
    data, other = (_data(case).samples("train") for _ in range(2))
    chosen = np.arange(8)
    whole, parts = data.batch(chosen, 3), [other.batch(chosen[n : n + 1], 3) for n in reversed(range(8))][::-1]
    for key in ("tokens", "targets"):
        assert torch.equal(whole[key], torch.cat([one[key] for one in parts])), f"the {key} of a row depend on others"


def _data(case: BlockCase, **settings: Any) -> TextData:
    """The data of a run with this dataset; rows of a task are long enough for it."""
    dataset = made(case, Dataset)
    objective = OBJECTIVES.get(dataset.form, CausalLM)()
    length = max(LENGTH, dataset.least_length, dataset.evaluation_length or 0) if isinstance(dataset, Task) else LENGTH
    given: dict[str, Any] = {"length": length, "batch_size": BATCH, "objective": objective}
    if not dataset.own_ids:
        given["tokenizer"] = "bytes"
    held = {"validation": 0.2, "test": 0.1}
    idle = {*dataset.unused, *dataset.idle(case.params)}
    given |= {one: share for one, share in held.items() if one not in idle}
    return TextData(case.name, **given, **settings, **case.params)


def _rows(data: TextData, split: Any) -> set[str]:
    samples = data.samples(split)
    batch = samples.batch(np.arange(min(len(samples), 256)), 0)
    return {repr(row) for row in batch["tokens"].tolist()}


def _counts(corpus: Any) -> list[int]:
    counts = dict.fromkeys(SPLITS, 0)
    for split, _ in corpus.stream():
        counts[split] += 1
    return [*counts.values()]


def _alike(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    keys = [key for key in ("tokens", "source", "target") if key in ours]
    return all(ours[key].shape == theirs[key].shape and torch.equal(ours[key], theirs[key]) for key in keys)
