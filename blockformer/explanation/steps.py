"""The steps of a forward pass, in its order."""

from dataclasses import dataclass, field

from blockformer.explanation.sampling import Value


@dataclass(eq=False)
class Step:
    """A value of the forward pass, and what it means.

    Attributes:
        path: of the block in the model, such as ``decoder.layers.0.mixer``.
        block: slot and name, such as ``mixer/attention``.
        name: of the value: one of the block's intermediates, ``input`` or ``output``.
        value: the numbers that are kept.
        caption: one sentence.
        formula: with the numbers of the model; empty: none.
        paper: of the block.
        sequence: index of the text that the axis ``token`` belongs to, in an encoder-decoder 0 for the source.
        keys: index of the text that the axis ``key`` belongs to.
        stack: path of the stack; empty outside.
        layer: index of the run of a layer in its stack; None outside.
        of: the steps that it is computed from.
        rows: for the axis ``row``, the token and the expert of each row that is kept.
        declared: whether the block declares it; else it is a block's own output or input.
    """

    path: str
    block: str
    name: str
    value: Value
    caption: str
    formula: str = ""
    paper: str = ""
    sequence: int = 0
    keys: int = 0
    stack: str = ""
    layer: int | None = None
    of: "list[Step]" = field(default_factory=list, repr=False)
    rows: tuple[tuple[int, int], ...] = ()
    declared: bool = True

    @property
    def key(self) -> tuple[str, str, int | None]:
        """Equal for the same step of another model."""
        return self.path, self.name, self.layer

    @property
    def label(self) -> str:
        """A name for errors and files: ``decoder.layers.0.mixer.weights``."""
        return f"{self.path}.{self.name}" if self.path else self.name
