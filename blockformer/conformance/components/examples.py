"""What components are tried on: texts, batches, small models, and a cache of their own."""

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blockformer.assembly.builder import build
from blockformer.conformance.block_case import NEEDS, BlockCase, NotApplicable
from blockformer.data.datasets.base import Form
from blockformer.data.samples import Batch, Samples, TokenizedText
from blockformer.data.sequences import Sequences, Shards
from blockformer.data.tokenizers.bytes import ByteTokenizer
from blockformer.errors import UserError
from blockformer.training.objectives import Objective
from blockformer.training.objectives.settings import check_model
from blocks.models.base import Model
from registry import Block, entries

T = TypeVar("T", bound=Block)
LENGTH, ROWS, CLASSES = 24, 6, ("first", "second", "third")
FORMS: tuple[Form, ...] = ("documents", "pairs", "classes", "scores", "chats")
"""The forms of data that there are examples of, the most usual first."""
HEADS: tuple[Any, ...] = (
    None,
    {"type": "pooled", "outputs": len(CLASSES)},
    {"type": "pooled", "outputs": 1},
    {"type": "per_token", "outputs": 1},
)
TEXTS = tuple(
    f"{'the red cat sat on a mat '[: 6 + 7 * n % 13]}{n % 7}{'né🙂'[: n % 4]}" for n in range(48)
)  # of 7 to 22 bytes


def made(case: BlockCase, kind: type[T]) -> T:
    """The component of a case.

    Raises:
        NotApplicable: it cannot be made without parameters.
    """
    with without_parameters(case):
        component = cast("Any", case.construct())
    assert isinstance(component, kind), f"{type(component).__qualname__} is no {kind.__name__}"
    return component


@contextmanager
def without_parameters(case: BlockCase) -> Generator[None]:
    """Make an error of a user, where a case has no parameters of its own, the reason why a check does not apply.

    Raises:
        NotApplicable: there is one.
    """
    try:
        yield
    except UserError as error:
        if case.params.keys() - {case.varied}:
            raise
        raise NotApplicable(f"{NEEDS}: {error}") from None


@contextmanager
def own_cache() -> Generator[str]:
    """Prepared data are kept in a folder of its own, which is removed afterwards; yields it."""
    before = os.environ.get("BLOCKFORMER_CACHE")
    with TemporaryDirectory(prefix="blockformer-") as folder:
        os.environ["BLOCKFORMER_CACHE"] = folder
        try:
            yield folder
        finally:
            if before is None:
                del os.environ["BLOCKFORMER_CACHE"]
            else:
                os.environ["BLOCKFORMER_CACHE"] = before


def form_for(objective: Objective) -> Form:
    """The form of data that an objective is tried on.

    Raises:
        NotApplicable: there is no example of any that it learns from.
    """
    fitting: list[Form] = [form for form in FORMS if form in objective.forms]
    if not fitting:
        raise NotApplicable(f"there is no example of {' or '.join(objective.forms)}")
    return fitting[0]


def example_text(objective: Objective, *, evaluates: bool = False) -> TokenizedText:
    """A text of a form that an objective learns from, with the ids of its own tokens."""
    form, tokenizer = form_for(objective), ByteTokenizer()
    ids = tokenizer.encode_many(TEXTS)
    bos, eos = np.array([tokenizer.bos]), np.array([tokenizer.eos])
    labels: NDArray[np.float64] | None = None
    answers: Shards | None = None
    if form == "pairs":
        halves = [one[: min(len(one), LENGTH // 2 - 3)] for one in ids]
        sources, targets = halves, halves[::-1]
        parts = (
            sequences([np.concatenate((one, eos)) for one in sources]),
            sequences([np.concatenate((bos, one)) for one in targets]),
        )
    elif form in ("classes", "scores"):
        parts = (sequences([one[: LENGTH - 2] for one in ids]),)
        numbers = np.arange(len(ids))
        labels = (numbers % len(CLASSES)).astype(np.float64) if form == "classes" else numbers / len(ids)
    else:
        parts = (sequences([np.concatenate((bos, one)) for one in ids]),)
        if form == "chats":
            answers = Shards([np.concatenate([np.arange(len(one) + 1) > 2 for one in ids])])
    names = objective.extra_tokens(LENGTH)
    extra = {name: tokenizer.vocab_size + number for number, name in enumerate(names)}
    return TokenizedText(parts, tokenizer, LENGTH, 0, evaluates, extra, labels, None, answers)


def sequences(rows: Sequence[NDArray[Any]]) -> Sequences:
    """Token sequences in memory."""
    ends = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return Sequences(Shards([np.concatenate(rows).astype(np.int64)]), ends)


def example_samples(objective: Objective, *, evaluates: bool = False) -> Samples:
    """The samples that an objective makes of an example."""
    return objective.samples(example_text(objective, evaluates=evaluates))


def example_model(objective: Objective) -> Model:
    """A small model that an objective trains, without dropout.

    Raises:
        NotApplicable: it trains none of the examples.
    """
    vocab_size = ByteTokenizer().vocab_size + len(objective.extra_tokens(LENGTH))
    classes, problems = (CLASSES if form_for(objective) == "classes" else ()), list[str]()
    for kind in objective.kinds:
        for head in HEADS:
            recipe: dict[str, Any] = {"type": kind, "dim": 32, "vocab_size": vocab_size, "max_length": 4 * LENGTH}
            recipe |= {one: {"depth": 1} for one in ("encoder", "decoder") if one in entries("model")[kind].parameters}
            recipe |= {} if head is None else {"head": head}
            recipe |= {"extra_predictions": [next(iter(entries("extra_prediction")))]} if objective.trains_extra else {}
            recipe |= {"generator": next(iter(entries("generator")))} if objective.trains_generator else {}
            try:
                model = build(recipe, seed=0)
                check_model(objective, model)
                refusal = objective.refusal(model, classes)
            except (UserError, ValueError) as error:
                refusal = str(error)
            else:
                if refusal is None:
                    return model
            problems.append(refusal)
    raise NotApplicable(f"it trains none of the example models: {problems[0]}")


def scored(objective: Objective, model: Model, batch: Batch, *, training: bool) -> tuple[Tensor, Tensor]:
    """The summed loss of a batch and its sums, with the same random numbers each time."""
    torch.manual_seed(0)
    return objective(model.train(training), batch)


def small_module(seed: int = 0) -> Model:
    """A small decoder, whose parameters an optimizer changes."""
    recipe = {"type": "decoder_only", "dim": 16, "vocab_size": 20, "max_length": 8, "decoder": {"depth": 1}}
    return build(recipe, seed=seed)


def give_gradients(model: nn.Module, seed: int) -> None:
    """Random gradients for all parameters."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def assert_same_batch(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], what: str) -> None:
    """Check that two batches are bit-identical."""
    assert ours.keys() == theirs.keys(), f"{what}: {sorted(ours)} and {sorted(theirs)}"
    for key, value in ours.items():
        same = value.shape == theirs[key].shape and torch.equal(value.nan_to_num(-7), theirs[key].nan_to_num(-7))
        assert same, f"{what}: {key!r} differs"
