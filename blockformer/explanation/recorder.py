"""Turns what blocks record, and what they return, into steps."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast
from weakref import ReferenceType, ref

from docstring_parser import parse as parse_docstring
from torch import Tensor, nn

from blockformer.explanation.formulas import definition_of, formula_of, name_of
from blockformer.explanation.sampling import Limits, chosen, sampled
from blockformer.explanation.steps import Step
from blockformer.explanation.value_axes import named_axes, output_axes
from blocks.base import Component, Embedding, Intermediate, Layer, Stack, listening
from blocks.base.intermediates import INPUT, OUTPUT
from blocks.models.base import Model
from registry import entry_of

Known = tuple[ReferenceType[Tensor], Step]


class _Run:
    """A block that is running."""

    def __init__(self, block: Component, path: str, given: Tensor | None) -> None:
        self.block, self.path, self.given = block, path, given
        self.values: dict[str, Step] = {}


class Recorder:
    """Collects the steps of the forward passes within :meth:`recording`, for a batch of one text.

    A value that another block has recorded already, such as a layer's output that is its last residual's, is not
    recorded again. The output of an activation that its parent records under a name of its own moves to that name.

    Args:
        model: the model.
        limits: what is kept of large values.
        ids: size of a vocabulary, and of its logits the ids that are kept; None: the most probable.

    Attributes:
        steps: in the order of the forward pass.
        sequence: index of the text that is read.
        left_out: stacks of which layers are left out, with the layers that are kept.
    """

    def __init__(self, model: Model, limits: Limits, ids: tuple[int, Sequence[int]] | None = None) -> None:
        self.model, self.limits, self.ids = model, limits, ids
        self.steps: list[Step] = []
        self.sequence = 0
        self.left_out: dict[str, tuple[int, ...]] = {}
        self._paths = {part: path for path, part in model.named_modules()}
        self._running: list[_Run] = []
        self._known: dict[int, Known] = {}
        self._stack, self._layer, self._layers = "", -1, list[int]()
        self._rows: Tensor | None = None
        self._length = 0

    @contextmanager
    def recording(self) -> Generator[None]:
        """Record while the block runs."""
        handles: list[Any] = []
        for block in self._paths:
            if isinstance(block, Component) and not isinstance(block, Model):
                handles.append(block.register_forward_pre_hook(self._begin))
                handles.append(block.register_forward_hook(self._end))
        try:
            with listening(self.model, self._listen):
                yield
        finally:
            for handle in handles:
                handle.remove()
            self._running, self._known = [], {}

    def _begin(self, block: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(block, Component)
        if isinstance(block, Stack):
            self._stack, self._layer = self._paths[block], -1
            self._layers = chosen(block.depth, "layer", Limits(channels=self.limits.layers))
            if len(self._layers) < block.depth:
                self.left_out[self._stack] = tuple(self._layers)
        if isinstance(block, Layer):
            self._layer += 1
        given = next((one for one in args if isinstance(one, Tensor)), None)
        if isinstance(block, Embedding) and given is not None:
            self._length = given.shape[1]
        self._running.append(_Run(block, self._paths[block], given))

    def _end(self, block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point():
            self._add(self._running[-1], OUTPUT, output)
        self._running.pop()
        if isinstance(block, Stack):
            self._stack, self._layer = "", -1

    def _listen(self, block: Component, name: str, value: Tensor) -> None:
        run = next((run for run in reversed(self._running) if run.block is block), None)
        if run is None:  # recorded by a method that is no forward pass
            run = _Run(block, self._paths[block], None)
        if name == "rows":
            self._rows = value
        self._add(run, name, value)

    def _add(self, run: _Run, name: str, value: Tensor) -> Step | None:
        """Add a step, unless its layer is left out, or the value is known."""
        if self._layer >= 0 and self._layer not in self._layers:
            return None
        known = self._find(value, exact=True)
        activation = known is not None and known.block.startswith("activation/")
        if known is not None and (known.declared or name in (INPUT, OUTPUT) or not activation):
            run.values[name] = known
            return known
        step = self._step(run, name, value)
        if known is not None:  # of an activation, which this block describes
            self.steps.remove(known)
            function = cast("Component", self.model.get_submodule(known.path))
            if (called := name_of(function)) and f"{called}(" in step.formula:
                step.formula += f"; {definition_of(function)}"
            known.__dict__.update(step.__dict__)
            step = known
        self.steps.append(step)
        run.values[name] = step
        self._known[id(value)] = ref(value), step
        return step

    def _step(self, run: _Run, name: str, value: Tensor) -> Step:
        block, declared = run.block, run.block.intermediates.get(name)
        if declared is None:
            axes, of = output_axes(block, value, self.model, self._length), list[Step]()
            caption, formula = "What the block reads.", ""
            if name == OUTPUT:
                caption, formula = summary_of(block), formula_of(block)
                known = None if run.given is None else self._find(run.given)
                of = [] if known is None else [known]
        else:
            axes, caption = named_axes(declared.axes, block, value, self.model, self._length), declared.caption
            formula, of = _formula(run, declared), self._sources(run, declared.of)
        whole = value[0] if value.ndim == len(axes) + 1 else value
        cross = block.site is not None and block.site.memory_dim is not None
        step = Step(
            run.path,
            f"{block.slot.name}/{entry_of(type(block)).name}",
            name,
            sampled(whole, axes, self.limits, self._given(whole, axes)),
            caption,
            formula,
            block.paper,
            self.sequence,
            0 if cross else self.sequence,
            self._stack,
            self._layer if self._layer >= 0 else None,
            of,
            declared=name not in (INPUT, OUTPUT) or declared is not None,
        )
        if "row" in axes and self._rows is not None:
            rows: list[list[int]] = self._rows.tolist()
            step.rows = tuple((rows[at][0], rows[at][1]) for at in step.value.index[axes.index("row")])
        return step

    def _given(self, value: Tensor, axes: tuple[str, ...]) -> dict[str, Sequence[int]]:
        """Of logits, the ids that are asked for, or the most probable ones: after the last token, and elsewhere."""
        if axes != ("token", "vocabulary"):
            return {}
        if self.ids is not None and self.ids[0] == value.shape[-1]:
            return {"vocabulary": self.ids[1]}
        most = min(self.limits.vocabulary, value.shape[-1])
        ids = value[-1].topk(-(-most // 2)).indices.tolist() + value.amax(dim=0).topk(most).indices.tolist()
        return {"vocabulary": list(dict.fromkeys(ids))[:most]}

    def _sources(self, run: _Run, names: tuple[str, ...]) -> list[Step]:
        """The steps of some values of a block; of one that it has not recorded, those from which it is computed."""
        found: list[Step] = []
        for name in names:
            if name in run.values:
                found.append(run.values[name])
            elif name == INPUT:
                found += self._input(run)
            elif name in run.block.intermediates:
                found += self._sources(run, run.block.intermediates[name].of)
        return list(dict.fromkeys(found))

    def _input(self, run: _Run) -> list[Step]:
        if run.given is None or not run.given.is_floating_point():
            return []
        known = self._find(run.given) or self._add(run, INPUT, run.given)
        return [] if known is None else [known]

    def _find(self, value: Tensor, *, exact: bool = False) -> Step | None:
        """The step of a tensor, or unless ``exact`` of one with the same memory; None: there is none."""
        found = self._known.get(id(value))
        if found is not None and found[0]() is value:
            return found[1]
        if exact or not value.is_contiguous():
            return None
        for tensor, step in reversed(self._known.values()):
            one = tensor()
            if one is not None and one.data_ptr() == value.data_ptr() and one.numel() == value.numel():
                return step if one.is_contiguous() else None
        return None


def _formula(run: _Run, declared: Intermediate) -> str:
    """A formula with the numbers of the block, in the symbols of the values that it has recorded."""
    text, values = formula_of(run.block, declared), run.block.intermediates
    for name in declared.of:
        given, known = values.get(name), run.values.get(name)
        source = "" if given is None else next(iter(given.of), "")
        if given is not None and (known is None or known is run.values.get(source)):
            own, other = _symbol(given), "X" if source == INPUT else _symbol(values.get(source))
            text = text.replace(own, other) if own and other else text
    return text


def _symbol(value: Intermediate | None) -> str:
    """The left side of a value's formula; empty: it has none."""
    left, equals, _ = (value.formula if value else "").partition(" = ")
    return left if equals else ""


def summary_of(block: Component) -> str:
    """The first sentence of a block's docstring."""
    text = parse_docstring(type(block).__doc__ or "").short_description or ""
    return " ".join(text.split())
