"""Token vectors that each layer has of its own."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from blocks.activations.pointwise import GELUTanh
from blocks.base import (
    Activation,
    Axis,
    Context,
    Factory,
    Fixed,
    Intermediate,
    Linear,
    Mixer,
    Norm,
    Site,
    SitelessFactory,
    described,
)
from blocks.norms.rms import RMSNorm
from registry import Capabilities, Positive, register


@register("per_layer_embedding")
class PerLayerEmbedding(Mixer):
    """out(activation(gate(x_t)) * p_t), where p_t is a vector of the token for this layer alone.

    p_t = (norm(project(e_t)) + sqrt(width) * table[token_t]) / sqrt(2), where e_t is the vector of the token with which
    the stack begins. Each token by itself: a stack of many layers has a large table for little computation.

    Args:
        width: width P of the layer's token vectors.
        vocab_size: number of token ids that have a vector in the table; the others have that of id 0.
        activation: non-linearity of the gate.
        norm: norm of the projection of e_t.
    """

    paper = "Google, 2025 (Gemma 3n)"
    formula = (
        "y = out(activation(gate(x_t)) ⊙ p_t); p_t = (norm(project(e_t)) + sqrt(width) * table[token_t]) / sqrt(2)"
    )
    outputs = ("out",)
    intermediates = described(
        token_vectors=Intermediate(
            "The vector of each token for this layer alone: from a table, and from what the first layer began with.",
            ("token", "channel"),
            "P = (norm(E W_project) + sqrt({width}) T_(id)) / sqrt(2)",
        ),
        gated=Intermediate(
            "What of it passes the gate, which depends on the layer's input.",
            ("token", "channel"),
            "Y = activation(X W_gate) * P",
            ("input", "token_vectors"),
        ),
        output=Intermediate(
            "What passes the gate, as a vector that can be added to the stream.",
            ("token", "width"),
            "Y W_out",
            ("gated",),
        ),
    )
    reads_inputs = True
    capabilities = Capabilities(places=frozenset({"causal", "bidirectional"}))
    window = 1

    def __init__(
        self,
        site: Site,
        *,
        width: Positive = 64,
        vocab_size: Positive = 32000,
        activation: SitelessFactory[Activation] = GELUTanh,
        norm: Factory[Norm] = RMSNorm,
    ) -> None:
        super().__init__(site)
        self.width, self.vocab_size = width, vocab_size
        self.table = nn.Embedding(vocab_size, width)
        self.project = Linear(site, site.dim, width, bias=False)
        self.norm = norm(site.resized(width))
        self.gate = Linear(site, site.dim, width, bias=False)
        self.activation = activation()
        self.out = Linear(site, width, site.dim, bias=False)

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        own = Fixed(self.width)
        into: dict[str, tuple[Axis | None, ...]] = {f"{name}.weight": (own, None) for name in ("project", "gate")}
        norm: dict[str, tuple[Axis | None, ...]] = {
            f"norm.{name}": (own,) for name, one in self.norm.named_parameters() if one.shape == (self.width,)
        }
        return {"table.weight": (Fixed(self.vocab_size), own), "out.weight": (None, own), **into, **norm}

    def forward(self, x: Tensor, context: Context) -> Tensor:
        ids = context.token_ids("mixer per_layer_embedding")
        if context.inputs is None:
            raise ValueError(
                "mixer per_layer_embedding reads the vectors that its stack begins with: put it in a stack"
            )
        ids = torch.where(ids < self.vocab_size, ids, 0)
        own = self.norm(self.project(context.inputs)) + self.table(ids) * self.width**0.5
        own = own * 0.5**0.5  # (B, T, P)
        self.record(token_vectors=own)
        y = self.activation(self.gate(x)) * own
        self.record(gated=y)
        return self.out(y)
