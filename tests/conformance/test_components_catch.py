"""The checks of components find what is wrong with them."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

from blockformer.conformance import run_checks
from blockformer.data.corpora.corpus import Corpus, Source
from blockformer.data.datasets.base import Rows, Task, TextDataset
from blockformer.data.tokenizer import Tokenizer
from blockformer.data.tokenizers.base import GivenTokenizer
from blockformer.data.tokenizers.bytes import ByteTokenizer
from blockformer.training.evaluations import Evaluation, Outcome
from blockformer.training.objectives import CausalLM, MaskedLM
from blockformer.training.optimizers import OptimizerComponent, Schedule
from registry import Block, register, registration

NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "_ENTRIES", {slot: dict(named) for slot, named in registration._ENTRIES.items()})
    monkeypatch.setattr(registration, "_NAMES", dict(registration._NAMES))


def found(block: type[Block]) -> set[str]:
    """The names of the checks that a component fails, beside those of its docstring."""
    outcomes = run_checks([register(f"broken_{next(NUMBERS)}")(block)]).outcomes
    return {one.check for one in outcomes if not one.good} - {"has_a_docstring", "documents_every_parameter"}


def schedule(factor: Callable[[int, int, int], float]) -> type[Block]:
    class Broken(Schedule):
        def __init__(self) -> None:
            pass

        def factor(self, step: int, warmup: int, total: int) -> float:
            return factor(step, warmup, total)

    return Broken


def test_schedules() -> None:
    calls = itertools.count()
    assert found(schedule(lambda step, warmup, total: 1.0)) == set()
    assert "factor_is_a_share_of_the_peak" in found(schedule(lambda step, warmup, total: 1 - step / 100))
    assert found(schedule(lambda step, warmup, total: 1 / (1 + next(calls)))) >= {"factor_is_a_pure_function"}
    assert found(schedule(lambda step, warmup, total: 0.5 if total else 1.0)) == {"reads_the_length_only_if_it_says_so"}


class Momentum(Optimizer):
    """Keeps its momentum elsewhere, steps where there is no gradient, and takes no closure."""

    def __init__(self, groups: Any) -> None:
        super().__init__(groups, {})
        self.kept: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for one in group["params"]:
                gradient = torch.ones_like(one) if one.grad is None else one.grad
                self.kept[one] = 0.9 * self.kept.get(one, torch.zeros_like(one)) + gradient
                one -= group["lr"] * self.kept[one]


def test_optimizers() -> None:
    class Broken(OptimizerComponent):
        def __init__(self) -> None:
            pass

        def make(self, groups: Any, *, fused: bool, sharding: Any) -> Optimizer:
            return Momentum(groups)

        def state_shapes(self, parameter: Tensor, *, matrix: bool) -> dict[str, tuple[int, ...]]:
            return {"momentum": tuple(parameter.shape)}

    assert found(Broken) == {
        "goes_on_from_its_state",
        "keeps_what_it_declares",
        "leaves_parameters_without_gradients",
        "takes_a_closure",
    }


def test_objectives_of_means() -> None:
    class Broken(CausalLM):
        def __call__(self, model: Any, batch: Any) -> tuple[Tensor, Tensor]:
            loss, sums = super().__call__(model, batch)
            return loss / sums[3], torch.cat((loss[None] / sums[3], sums[1:3], sums[3:4] + 1, sums[4:]))

    assert found(Broken) == {"counts_its_targets", "loss_is_the_sum_over_rows"}


def test_objectives_of_chance() -> None:
    class Chance(MaskedLM):
        def samples(self, text: Any) -> Any:
            made = super().samples(text)
            batch, draw = made.batch, np.random.default_rng(0)
            made.batch = lambda chosen, epoch: batch(chosen, int(draw.integers(9)) + epoch)  # type: ignore[method-assign]
            return made

    assert "batches_are_pure_functions" in found(Chance)


def test_tokenizers() -> None:
    class Lower(ByteTokenizer):
        def decode(self, ids: Any) -> str:
            return super().decode(ids).lower()

        def encode_many(self, texts: Any) -> Any:
            return [np.append(ids, self.eos) for ids in super().encode_many(texts)]

    class Broken(GivenTokenizer):
        def __init__(self) -> None:
            pass

        def read(self) -> Tokenizer:
            return Lower()

    assert found(Broken) >= {"gives_a_text_back", "no_text_gives_a_special_token", "is_the_same_after_it_was_stored"}


def test_texts() -> None:
    class Leaking(TextDataset):
        calls: ClassVar[Iterator[int]] = itertools.count()

        def __init__(self) -> None:
            pass

        def source(self, shares: Any) -> Source:
            texts = [f"text {n} {next(self.calls)}" for n in range(60)]
            splits = {"train": texts, "validation": texts[:20], "test": texts[20:30]}
            return Source({"dataset": "leaking"}, lambda: Corpus(splits, False, {}))

    assert found(Leaking) >= {"no_row_of_validation_is_trained_on", "text_is_decided_by_its_key"}


def test_tasks() -> None:
    class Drawing(Task):
        least_length, vocab_size, chance = 4, 5, 0.2

        def __init__(self) -> None:
            self.draw = np.random.default_rng()

        def rows(self, draws: Any, length: int, trained: int) -> Rows:
            tokens = self.draw.integers(7, size=(len(draws.bits(1)), length))
            return tokens, tokens

    assert found(Drawing) >= {"order_is_a_function_of_seed_and_step", "rows_fit_their_vocabulary"}


def test_evaluations() -> None:
    class Broken(Evaluation):
        calls: ClassVar[Iterator[int]] = itertools.count()

        def __init__(self) -> None:
            pass

        def better(self, figure: str) -> Any:
            return max

        def prepare(self, subject: Any) -> None:
            pass

        def __call__(self, subject: Any) -> Outcome:
            subject.model.train()
            return Outcome({"calls": float(next(self.calls)), "worst": float("nan")})

    assert found(Broken) == {"an_unknown_figure_is_refused", "figures_are_known_numbers", "measures_the_same_again"}
