"""Size of activations, attention scores and gradients at step 0, layer by layer."""

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from blockformer.assembly import build
from blockformer.assembly.descriptions import name_of
from blockformer.inspection.batch import logits_of, mean_loss, random_batch
from blockformer.training.watch.attention import Observe, attending, observed
from blocks.attention.eager import attention_scores, attention_weights
from blocks.attention.scoring import Scoring
from blocks.attention.visibility import Visibility
from blocks.base import FeedForward, Layer, Mixer, Stack
from blocks.models.base import Model
from registry import Recipe


@dataclass
class LayerStatistics:
    """One layer; if a layer runs several times, its last run.

    Attributes:
        stack: name of the layer's stack.
        layer: its index.
        name: its name in the recipe, if it has one.
        input_rms: root mean square of the layer's input.
        output_rms: root mean square of its output.
        change: root mean square of output minus input, over ``input_rms``.
        largest: largest magnitude in the output.
        sublayers: root mean square of the output of each mixer and feed-forward, over ``input_rms``.
        score: largest magnitude of an attention score before position bias, over all runs; None without attention.
        entropy: mean entropy of the attention weights over its largest value, least of all runs; None likewise.
        gradient: norm of the gradient of all the layer's parameters.
        finite: whether the whole output is finite.
    """

    stack: str
    layer: int
    name: str = ""
    input_rms: float = math.nan
    output_rms: float = math.nan
    change: float = math.nan
    largest: float = math.nan
    sublayers: dict[str, float] = field(default_factory=dict)
    score: float | None = None
    entropy: float | None = None
    gradient: float = math.nan
    finite: bool = True


@dataclass(frozen=True)
class ActivationStatistics:
    """A model at step 0.

    Attributes:
        layers: in the order in which they run, those of an encoder first.
        logits: standard deviation of the logits.
        loss: mean cross-entropy with random targets, in nats.
        uniform: the loss of a uniform prediction, the log of the number of logits.
        gradients: norm of the gradient of the parameters outside layers, by the first part of their names.
    """

    layers: list[LayerStatistics]
    logits: float
    loss: float
    uniform: float
    gradients: dict[str, float]


def activation_statistics(recipe: Recipe, *, seed: int, batch: int, length: int) -> ActivationStatistics:
    """Build a model and run it forward and backward once on random tokens, without dropout.

    Args:
        recipe: what to build.
        seed: of the initial values and the tokens.
        batch: number of sequences.
        length: tokens in each.
    """
    model = build(recipe, seed=seed).eval()
    layers = list(_layers(model))
    tokens = random_batch(model, batch, length, torch.Generator().manual_seed(seed))
    with _recorded(layers):
        logits = logits_of(model, tokens)
    loss = mean_loss(logits, tokens)
    loss.backward()
    inside: set[int] = set()
    for statistics, layer in layers:
        statistics.gradient = _gradient_norm(list(layer.parameters()))
        inside |= {id(parameter) for parameter in layer.parameters()}
    outside: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) not in inside:
            outside.setdefault(name.partition(".")[0], []).append(parameter)
    gradients = {name: _gradient_norm(parameters) for name, parameters in outside.items()}
    uniform = math.log(logits.shape[-1])
    return ActivationStatistics([one for one, _ in layers], logits.std().item(), loss.item(), uniform, gradients)


def _layers(model: Model) -> Generator[tuple[LayerStatistics, Layer]]:
    """Every layer, in the order in which the stacks were made, with statistics to fill in."""
    for path, stack in model.components():
        if isinstance(stack, Stack):
            layers = [layer for _, layer in stack.components() if isinstance(layer, Layer)]
            for index, layer in enumerate(layers):
                yield LayerStatistics(path, index, name_of(stack, layer)), layer


@contextmanager
def _recorded(layers: list[tuple[LayerStatistics, Layer]]) -> Generator[None]:
    """Fill in the statistics of each layer while the model runs."""
    hooks: list[Any] = []
    attentions: list[tuple[nn.Module, Observe]] = []
    for statistics, layer in layers:
        hooks.append(layer.register_forward_pre_hook(_record_input(statistics)))
        hooks.append(layer.register_forward_hook(_record_output(statistics)))
        for path, module in layer.named_modules():
            if isinstance(module, Mixer | FeedForward) and "." not in path:
                hooks.append(module.register_forward_hook(_record_sublayer(statistics, path)))
        attentions += [(module, _record_attention(statistics)) for module in attending(layer).values()]
    try:
        with observed(attentions):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def _record_input(statistics: LayerStatistics) -> Callable[..., None]:
    def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        statistics.input_rms = _rms(inputs[0])

    return hook


def _record_output(statistics: LayerStatistics) -> Callable[..., None]:
    def hook(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        with torch.no_grad():
            statistics.output_rms = _rms(output)
            statistics.change = _ratio(_rms(output - inputs[0]), statistics.input_rms)
            statistics.largest = output.abs().max().item()
            statistics.finite = bool(torch.isfinite(output).all())

    return hook


def _record_sublayer(statistics: LayerStatistics, name: str) -> Callable[..., None]:
    def hook(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        with torch.no_grad():
            statistics.sublayers[name] = _ratio(_rms(output), statistics.input_rms)

    return hook


def _record_attention(statistics: LayerStatistics) -> Observe:
    def observe(q: Tensor, k: Tensor, visible: Visibility, scoring: Scoring) -> None:
        score, entropy = score_and_entropy(q.float(), k.float(), visible, scoring)
        statistics.score = max(score, statistics.score or 0.0)
        statistics.entropy = entropy if statistics.entropy is None else min(entropy, statistics.entropy)

    return observe


def score_and_entropy(q: Tensor, k: Tensor, visible: Visibility, scoring: Scoring) -> tuple[float, float]:
    """The largest score of a visible key, without bias, and the mean entropy of the weights over its largest value.

    Every option of the scores is in the weights. A sink counts as one more key.
    """
    scores = attention_scores(q, k, scoring._replace(bias=None)).abs()
    mask = visible.mask()
    weights = attention_weights(q, k, mask, scoring)  # (B, H, T, S)
    mask = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.expand_as(scores)
    choices = mask.sum(-1)
    if scoring.sinks is not None:
        weights = torch.cat([weights, 1 - weights.sum(-1, keepdim=True)], dim=-1)
        choices = choices + 1
    entropy = torch.special.entr(weights.clamp(min=0)).sum(-1)
    largest_entropy = choices.clamp(min=1).log()
    return scores[mask].max().item(), (entropy.sum() / largest_entropy.sum().clamp(min=1e-30)).item()


def _rms(x: Tensor) -> float:
    return x.detach().float().square().mean().sqrt().item()


def _ratio(value: float, by: float) -> float:
    return value / by if by else math.inf if value else 0.0


def _gradient_norm(parameters: list[nn.Parameter]) -> float:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients).item() if gradients else 0.0
