"""Several mixers side by side."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from blocks.attention.softmax import MultiHeadAttention
from blocks.base import Context, Factory, Mixer, Site
from blocks.recurrent.linear import LinearAttention
from registry import Capabilities, register


@register("parallel")
class ParallelMixers(Mixer):
    """The sum of several mixers of the same input; one of type ``scaled`` is multiplied by a constant.

    Args:
        mixers: the mixers, by names of your choice.
    """

    paper = "Dong et al., 2024, arXiv:2411.13676"
    formula = "y = sum_m mixer_m(x)"
    capabilities = Capabilities(places=frozenset({"causal", "bidirectional"}))

    def __init__(
        self,
        site: Site,
        *,
        mixers: Mapping[str, Factory[Mixer]] = {"attention": MultiHeadAttention, "linear": LinearAttention},
    ) -> None:
        super().__init__(site)
        if not mixers:
            raise ValueError("mixers is empty; give at least one")
        self.mixers = nn.ModuleDict()
        for name, make in mixers.items():
            if not name.isidentifier() or hasattr(self.mixers, name):
                raise ValueError(f"mixers cannot have the name {name!r}; choose another, of letters and digits")
            self.mixers[name] = make(site)
        windows = [mixer.window for mixer in self._named().values()]
        self.window = None if None in windows else max(window for window in windows if window is not None)

    def _named(self) -> dict[str, Mixer]:
        return dict(self.mixers.items())  # pyright: ignore[reportReturnType]

    @property
    def zero_at_zero(self) -> bool:
        return all(mixer.zero_at_zero for mixer in self._named().values())

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        for mixer in self._named().values():
            mixer.prepare(context)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        parts = [mixer(x, replace(context, scope=f"{context.scope}{name}.")) for name, mixer in self._named().items()]
        y = parts[0]
        for part in parts[1:]:
            y = y + part
        return y
