"""Where a block sits, known when it is built."""

from dataclasses import dataclass, replace

from registry import Place


@dataclass(frozen=True, kw_only=True)
class Site:
    """Everything that a block may know of its surroundings.

    Attributes:
        dim: width of the vectors that come in and go out.
        max_length: longest sequence, in tokens, that the model promises to take.
        depth: number of layers in the stack around the block.
        layer: index of the layer around the block, from 0.
        causal: a token may see itself and earlier ones only.
        memory_dim: width of the encoder's output if the block looks at one (a cross mixer, or what holds one).
        heads: number of heads that a block inside a mixer serves, one by one; ``dim`` is then the width of one.
        experts: number of experts that a feed-forward stands for, or that a router chooses from.
    """

    dim: int
    max_length: int = 2048
    depth: int = 1
    layer: int = 0
    causal: bool = True
    memory_dim: int | None = None
    heads: int | None = None
    experts: int | None = None

    @property
    def place(self) -> Place:
        """Which of the three places of a model this is."""
        return "cross" if self.memory_dim is not None else "causal" if self.causal else "bidirectional"

    def head_dim(self, heads: int) -> int:
        """Width of each of ``heads`` heads that divide ``dim`` among them.

        Raises:
            ValueError: ``dim`` is not a multiple of ``heads``.
        """
        if self.dim % heads:
            raise ValueError(f"dim={self.dim} is not a multiple of heads={heads}; change one of them or give head_dim")
        return self.dim // heads

    def resized(self, dim: int, heads: int | None = None) -> "Site":
        """The same place with vectors of another width, of each of ``heads`` heads."""
        return replace(self, dim=dim, heads=heads)
