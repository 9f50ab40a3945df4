"""Alternating updates of several residual streams."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from blocks.base import (
    AdditiveResidual,
    Axis,
    Context,
    Factory,
    Fixed,
    Intermediate,
    Layer,
    Mixer,
    Norm,
    Residual,
    Site,
    Streams,
    check_one_stream,
    described,
)
from blocks.base.precision import without_autocast
from blocks.layers.sequential import SequentialLayer
from blocks.norms.rms import RMSNorm
from blocks.residual.output import OutputNorm
from blocks.residual.streams import FIRST_SCALE, projected
from registry import register


@register("altup")
class AltUpLayer(Layer):
    """Predict all residual streams, run a layer on one of them, and correct all by what it has changed there.

    A wide stream at the cost of a narrow layer: the inner layer reads and writes one stream, the active one. At the
    start, with small weights, streams are predicted to stay as they are, and the change is added to each.

    Args:
        streams: number N of residual streams.
        alternate: the active stream is that of index l mod N in layer l; false: the first in all layers.
        dynamic: weights depend on the token: a projection of tanh(W norm(z) / D), for prediction with z the active
            stream, for correction with z the inner layer's output. False: weights are learned constants.
        norm: norm before that projection.
        inner: the layer that reads and writes the active stream.
        others: mixer that reads the corrected active stream and whose output is added to the other streams; null: none.
        others_residual: residual that places the norms around ``others``.
        others_scale: learned factor on each channel of what ``others`` reads.
    """

    paper = "Baykal et al., 2023, arXiv:2301.13310; dynamic weights and others: Google, 2025 (Gemma 3n)"
    formula = (
        "p_i = x_i + sum_j A_(i j) x_j; z = inner(p_a); y_i = p_i + (1 + b_i) (z - p_a); "
        "A = W_A tanh(W norm(x_a) / D); b = W_b tanh(W norm(z) / D)"
    )
    intermediates = described(
        predict=Intermediate(
            "How much of each stream is added to each stream in the prediction.",
            ("token", "into", "stream"),
            "A = {rules[0]}",
            ("input",),
        ),
        predicted=Intermediate(
            "The streams as they are predicted before the inner layer.",
            ("token", "stream", "width"),
            "p_i = x_i + sum_j A_(i j) x_j",
            ("input", "predict"),
        ),
        innovation=Intermediate(
            "What the inner layer changes in the active stream a.",
            ("token", "width"),
            "Delta = inner(p_a) - p_a",
            ("predicted",),
        ),
        correct=Intermediate(
            "How much of the change is added to each stream, less 1.",
            ("token", "stream"),
            "b = {rules[1]}",
            ("predicted", "innovation"),
        ),
        output=Intermediate(
            "The streams after the layer.",
            ("token", "stream", "width"),
            "y_i = p_i + (1 + b_i) Delta{others:+ f(y_a)[i other than a]}",
            ("predicted", "innovation", "correct"),
        ),
    )

    def __init__(
        self,
        site: Site,
        *,
        streams: Streams = 4,
        alternate: bool = False,
        dynamic: bool = True,
        norm: Factory[Norm] = RMSNorm,
        inner: Factory[Layer] = SequentialLayer,
        others: Factory[Mixer] | None = None,
        others_residual: Factory[Residual] = OutputNorm,
        others_scale: bool = False,
    ) -> None:
        super().__init__(site)
        own = replace(site, memory_dim=None)
        self.streams, self.count, self.dim = streams, streams, site.dim
        self.active = site.layer % streams if alternate else 0
        self.norm = norm(own) if dynamic else None
        self.router = nn.Parameter(torch.empty(streams, site.dim)) if dynamic else None
        self.predict = nn.Parameter(torch.empty(streams * streams, *([streams] if dynamic else [])))
        self.correct = nn.Parameter(torch.empty(streams, *([streams] if dynamic else [])))
        self.inner = inner(site)
        check_one_stream(self.inner.streams, "the inner layer of altup")
        built = None if others is None else others(own)
        self.others, self.others_residual = (
            (None, None) if built is None or built.is_noop else (built, _additive(others_residual(own)))
        )
        scaled = others_scale and self.others is not None
        self.others_scale = nn.Parameter(torch.ones(site.dim)) if scaled else None

    @property
    def rules(self) -> tuple[str, str]:
        """The formulas of the weights of prediction and correction."""
        if self.router is None:
            return "C_A", "c_b"
        return f"W_A tanh(W norm(x_a) / {self.dim})", f"W_b tanh(W norm(p_a + Delta) / {self.dim})"

    def constants(self) -> Mapping[str, float]:
        return {"others_scale": 1.0}

    def deviations(self) -> Mapping[str, float]:
        """Learned constants begin with small values: streams that begin equal would stay equal without."""
        return {} if self.router is not None else dict.fromkeys(("predict", "correct"), FIRST_SCALE)

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        return {
            "router": (Fixed(self.count), None),
            **{name: tuple(map(Fixed, getattr(self, name).shape)) for name in ("predict", "correct")},
            "others_scale": (None,),
        }

    def fallback_names(self) -> Mapping[str, str]:
        """The inner layer starts from a layer with one stream."""
        return {f"inner.{name}": name for name, _ in self.inner.named_parameters()}

    def prepare(self, context: Context) -> None:
        self.inner.prepare(context)
        if self.others is not None:
            self.others.prepare(context)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        predict = self._weights(x[..., self.active, :], self.predict)
        predict = predict.reshape(*predict.shape[:-1], self.count, self.count)
        with without_autocast(x):
            predicted = x + predict.to(x.dtype) @ x  # (B, T, N, D)
        active = predicted[..., self.active, :]
        after = self.inner(active, context)
        innovation, correct = after - active, self._weights(after, self.correct)
        y = (predicted + (1 + correct)[..., None] * innovation[..., None, :]).to(x.dtype)
        self.record(predict=predict, predicted=predicted, innovation=innovation, correct=correct)
        if (others := self.others) is None or self.others_residual is None:
            return y
        read = y[..., self.active, :]
        read = read if self.others_scale is None else read * self.others_scale.to(x.dtype)
        own = replace(context, scope=f"{context.scope}others.")  # cached apart from the inner layer
        update = self.others_residual.update(read, lambda z: others(z, own))
        is_other = torch.arange(self.count, device=x.device) != self.active
        return (y + update[..., None, :] * is_other[:, None]).to(x.dtype)

    def _weights(self, x: Tensor, weight: Tensor) -> Tensor:
        """(B, T, D) -> the weights of each token in float32 or wider, (B, T, outputs)"""
        if self.norm is None or self.router is None:
            return weight.to(torch.promote_types(x.dtype, torch.float32)).expand(*x.shape[:-1], -1)
        return projected(torch.tanh(projected(self.norm(x), self.router) / self.dim), weight)

    def flops_per_token(self, length: int) -> float:
        routed = (
            0 if self.router is None else 4 * self.router.numel() + 2 * (self.predict.numel() + self.correct.numel())
        )
        return super().flops_per_token(length) + routed + 2 * self.count**2 * self.dim


def _additive(residual: Residual) -> AdditiveResidual:
    if not isinstance(residual, AdditiveResidual):
        raise ValueError("others_residual does not add an update to the stream; choose pre, output or sandwich")
    return residual
