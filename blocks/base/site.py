"""The position of a block in the model."""

from dataclasses import dataclass, replace

from registry import Place


@dataclass(frozen=True, kw_only=True)
class Site:
    """The surroundings of a block, passed to its constructor.

    Attributes:
        dim: width of the input and output vectors.
        max_length: longest supported sequence, in tokens.
        depth: number of layers of the stack.
        layer: index of the layer, from 0.
        causal: outputs depend on the same and earlier tokens only.
        memory_dim: width of the encoder's output, for cross mixers and blocks that contain one; None: no encoder.
        heads: number of heads, for blocks applied to each head of a mixer, where ``dim`` is the width of a head.
        experts: number of experts, for a feed-forward that computes all of them or a router; None: no experts.
        output_dim: width of the output vectors of a mixer that reads another width than it writes; None: ``dim``.
        width_multiplier: width of the model divided by the base width of its init; 1: the init has none.
    """

    dim: int
    max_length: int = 2048
    depth: int = 1
    layer: int = 0
    causal: bool = True
    memory_dim: int | None = None
    heads: int | None = None
    experts: int | None = None
    output_dim: int | None = None
    width_multiplier: float = 1.0

    @property
    def place(self) -> Place:
        """causal, bidirectional or cross."""
        return "cross" if self.memory_dim is not None else "causal" if self.causal else "bidirectional"

    @property
    def written_dim(self) -> int:
        """Width of the output vectors."""
        return self.output_dim or self.dim

    def head_dim(self, heads: int) -> int:
        """Width of each of ``heads`` heads that divide ``dim`` among them.

        Raises:
            ValueError: ``dim`` is not a multiple of ``heads``.
        """
        if self.dim % heads:
            raise ValueError(f"dim={self.dim} is not a multiple of heads={heads}; change one of them or give head_dim")
        return self.dim // heads

    def resized(self, dim: int, heads: int | None = None) -> "Site":
        """This site with another width and number of heads."""
        return replace(self, dim=dim, heads=heads, output_dim=None)
