"""Intermediate values are declared, have the declared axes, and cost nothing."""

from typing import Any

from torch import Tensor

from blockformer.conformance.block_case import BlockCase, NotApplicable
from blockformer.conformance.example import EXACT, assert_same, example, run
from blocks.base import Component, listening
from blocks.base.intermediates import INPUT, OUTPUT
from registry.formula import FormulaError, mathml


def check_records_what_it_declares(case: BlockCase) -> None:
    """Each recorded value is declared, with its axes, a caption, a formula and known sources."""
    block, given = case.build_perturbed(), example(case)
    _check_declarations(block)
    seen: set[str] = set()

    def listen(recorder: Any, name: str, value: Tensor) -> None:
        if recorder is block:
            seen.add(name)
        where = f"{type(recorder).__name__} records {name!r}"
        known = recorder.intermediates.get(name)
        assert known is not None, f"{where}, which its intermediates do not declare"
        assert name not in (INPUT, OUTPUT), f"{where}, a name that stands for the block's own {name}"
        axes = known.axes
        as_declared = value.ndim in (len(axes), len(axes) + 1)  # of rows of tokens, or of a batch
        fits = value.ndim >= len(axes) if "..." in axes else as_declared
        assert fits, f"{where} with shape {tuple(value.shape)}, but it declares {axes} after the axis of the batch"

    with listening(block, listen):
        run(block, given)
    if not block.intermediates:
        raise NotApplicable("it declares no intermediate values")
    recorded = {
        name
        for name, value in block.intermediates.items()
        if name != OUTPUT and (not value.needs or getattr(block, value.needs) is not None)
    }
    assert seen or not recorded, f"it declares {', '.join(sorted(recorded))}, but records none of them"


def _check_declarations(block: Component) -> None:
    for name, value in block.intermediates.items():
        where = f"intermediates[{name!r}]"
        assert value.caption.endswith("."), f"{where}: its caption is no sentence: {value.caption!r}"
        assert value.axes, f"{where}: it declares no axes"
        unknown = set(value.of) - {*block.intermediates, INPUT}
        assert not unknown, f"{where}: it is computed from {min(unknown, default='')!r}, which is not declared"
        formula = value.formula_of(block)
        try:
            _ = mathml(formula) if formula else ""
        except FormulaError as error:
            raise AssertionError(f"{where}: its formula cannot be read: {error}") from None


def check_recording_changes_nothing(case: BlockCase) -> None:
    """The output is the same, to the last bit, with and without a listener."""
    block, given = case.build_perturbed(), example(case)
    if not block.intermediates:
        raise NotApplicable("it declares no intermediate values")
    expected = run(block, given)
    with listening(block, lambda *_: None):
        assert_same(run(block, given), expected, "with a listener", EXACT)
    assert not block.recording, "it still records after the listener was removed"
