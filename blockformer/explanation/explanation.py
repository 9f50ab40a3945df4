"""An explanation: the steps of a model's forward pass for one text, as data."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from blockformer.explanation.sampling import Limits, Value
from blockformer.explanation.steps import Step


@dataclass(frozen=True)
class Token:
    """A token of a text: its id, and a readable form."""

    id: int
    text: str


@dataclass(frozen=True)
class Prediction:
    """What the model predicts at a token: the most probable ids with their probabilities, the best first."""

    at: int
    best: tuple[tuple[Token, float], ...]


@dataclass(frozen=True)
class CacheEntry:
    """What the cache keeps of a text in one state of a layer.

    Attributes:
        layer: index of the layer.
        state: its name in the layer: ``mixer``, or ``cross`` for the source.
        kind: of state, such as ``KeyValues``.
        before: number of elements after the text.
        after: number of elements after one more token.
        tokens: tokens whose keys are kept after one more; None: the state has a fixed size.
    """

    layer: int
    state: str
    kind: str
    before: int
    after: int
    tokens: int | None


@dataclass(frozen=True, repr=False)
class Explanation:
    """Each step of a forward pass, in its order.

    Attributes:
        name: of the model.
        text: what is explained, the source in an encoder-decoder that writes.
        kind: decoder_only, encoder_only or encoder_decoder.
        parameters: number of them.
        texts: the tokens of the source (of an encoder-decoder) and of the text.
        steps: the values.
        predictions: for each token that is kept.
        cache: what is kept of the text for the next token.
        vocabulary: readable forms of the ids that are kept of logits.
        written: the most probable next token; None: the model predicts none.
        trained: whether the weights are those of a file; else they are initial values.
        own_tokenizer: whether the model has this tokenizer; else each byte is a token.
        drawing: the model as SVG; empty: none.
        limits: what is kept of large values.
        left_out: stacks of which layers are left out, with the layers that are kept.
        as_html: draws it for Jupyter; None: it is shown as text.
    """

    name: str
    text: str
    kind: str
    parameters: int
    texts: tuple[tuple[Token, ...], ...]
    steps: tuple[Step, ...]
    predictions: tuple[Prediction, ...] = ()
    cache: tuple[CacheEntry, ...] = ()
    vocabulary: dict[int, str] = field(default_factory=dict)
    written: Token | None = None
    trained: bool = True
    own_tokenizer: bool = True
    drawing: str = ""
    limits: Limits = field(default_factory=Limits)
    left_out: dict[str, tuple[int, ...]] = field(default_factory=dict)
    as_html: "Callable[[Explanation], str] | None" = None

    def find(self, path: str, name: str = "output", layer: int | None = None) -> Step:
        """A step by the path of its block and the name of the value.

        Raises:
            KeyError: there is none.
        """
        for step in self.steps:
            if (step.path, step.name) == (path, name) and layer in (None, step.layer):
                return step
        raise KeyError(f"no step has the value {name!r} of {path!r}")

    def value(self, path: str, name: str = "output", layer: int | None = None) -> Tensor:
        """The numbers of a step that are kept, by :meth:`find`."""
        return self.find(path, name, layer).value.data

    @property
    def numbers(self) -> int:
        """How many numbers it holds."""
        return sum(step.value.data.numel() for step in self.steps)

    @property
    def sampled(self) -> bool:
        """Whether some numbers are left out."""
        return bool(self.left_out) or any(not step.value.whole for step in self.steps)

    def within(self, limits: Limits) -> "Explanation":
        """A copy within smaller limits."""
        kept: dict[int, Step] = {}
        left_out = dict(self.left_out)
        for stack in dict.fromkeys(step.stack for step in self.steps if step.stack):
            layers = sorted({one.layer for one in self.steps if one.stack == stack and one.layer is not None})
            if len(layers) > limits.layers:
                chosen = {round(n * (len(layers) - 1) / max(1, limits.layers - 1)) for n in range(limits.layers)}
                left_out[stack] = tuple(layers[place] for place in sorted(chosen))
        for step in self.steps:
            if step.layer is None or step.layer in left_out.get(step.stack, (step.layer,)):
                kept[id(step)] = _smaller(step, limits)
        for step in kept.values():
            step.of = [kept[id(one)] for one in step.of if id(one) in kept]
        return replace(self, steps=tuple(kept.values()), limits=limits, left_out=left_out)

    def __repr__(self) -> str:
        return f"<Explanation of {self.name} for {self.text!r}: {len(self.steps)} steps>"

    def _repr_html_(self) -> str | None:
        return None if self.as_html is None else self.as_html(self)


def _smaller(step: Step, limits: Limits) -> Step:
    value: Value = step.value.within(limits)
    rows = step.rows
    if rows and "row" in value.axes:
        axis = value.axes.index("row")
        kept = dict(zip(step.value.index[axis], rows, strict=True))
        rows = tuple(kept[at] for at in value.index[axis])
    given: dict[str, Any] = {**vars(step), "value": value, "rows": rows}
    return Step(**given)
