"""A learned path beside the sublayer."""

from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor

from blocks.base import Axis, Factory, Fixed, Intermediate, Linear, Norm, Residual, Site, check_one_stream, described
from blocks.residual.pre import PreNorm
from registry import Positive, PositiveFloat, register


@register("laurel")
class LearnedAugmentedResidual(Residual):
    """The output of an inner residual, plus a product of two narrow projections beside the sublayer.

    Args:
        rank: width R of the product of two projections.
        reads: what the projections read: the stream, or what the sublayer reads, which the inner residual has
            normalised (sublayer).
        norm: norm of the projections' output; null: disabled.
        skip: add what the projections read to their output.
        sum_scale: constant factor on the sum.
        inner: residual that wires the sublayer.
    """

    paper = "Menghani et al., 2024, arXiv:2411.07501; norm, skip and sum scale: Google, 2025 (Gemma 3n)"
    formula = "y = sum_scale * (inner(x, f) + norm(up(down(x))))"
    outputs = ("up",)
    intermediates = described(
        path=Intermediate(
            "What the path beside the sublayer adds, computed from the stream x or from what the sublayer reads, n.",
            ("token", "width"),
            "p = norm(W_up W_down {source}){skip:+ {source}}",
            ("input",),
        ),
        output=Intermediate(
            "The stream after the sublayer and the path beside it.",
            ("token", "width"),
            "y = {sum_scale:*}(inner(x, f) + p)",
            ("input", "path"),
        ),
    )

    def __init__(
        self,
        site: Site,
        *,
        rank: Positive = 16,
        reads: Literal["stream", "sublayer"] = "stream",
        norm: Factory[Norm] | None = None,
        skip: bool = False,
        sum_scale: PositiveFloat = 1.0,
        inner: Factory[Residual] = PreNorm,
    ) -> None:
        super().__init__(site)
        self.rank, self.reads, self.skip, self.sum_scale = rank, reads, skip or None, sum_scale
        self.source = "x" if reads == "stream" else "n"
        self.inner = inner(site)
        check_one_stream(self.inner.streams, "residual laurel")
        self.down = Linear(site, site.dim, rank, bias=False)
        self.up = Linear(site, rank, site.dim, bias=False)
        self.norm = norm(site) if norm else None

    @property
    def identity_at_zero(self) -> bool:
        return self.inner.identity_at_zero and self.norm is None and not self.skip and self.sum_scale == 1

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        return {"down.weight": (Fixed(self.rank), None), "up.weight": (None, Fixed(self.rank))}

    def fallback_names(self) -> Mapping[str, str]:
        """The parameters of the inner residual start from those of a residual without the path."""
        return {f"inner.{name}": name for name, _ in self.inner.named_parameters()}

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        read = [x]

        def noted(y: Tensor) -> Tensor:
            read.append(y)
            return sublayer(y)

        wired = self.inner(x, noted)
        z = x if self.reads == "stream" else read[-1]
        path = self.up(self.down(z))
        path = path if self.norm is None else self.norm(path)
        path = path + z if self.skip else path
        self.record(path=path)
        return (wired + path) * self.sum_scale
