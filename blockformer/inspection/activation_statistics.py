"""How large activations and gradients are at step 0, layer by layer."""

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from blockformer.assembly import build
from blockformer.assembly.layer_names import name_of
from blockformer.inspection.batch import logits_of, mean_loss, random_batch
from blockformer.inspection.scores import watched
from blocks.base import FeedForward, Layer, Mixer, Stack
from blocks.models.base import Model
from registry import Recipe


@dataclass
class Scale:
    """One layer; of one that runs several times, the last time.

    Attributes:
        stack: whose layer it is.
        layer: its index.
        name: its name in the recipe, if it has one.
        stream: root mean square of what the layer is given.
        out: of what it gives.
        change: of the difference of the two, over ``stream``.
        largest: largest magnitude in what it gives.
        sublayers: root mean square of what each mixer and feed-forward gives, over ``stream``.
        score: largest magnitude of the attention scores; None without attention.
        entropy: mean entropy of the attention weights over that of looking everywhere alike, 0 to 1; None likewise.
        gradient: norm of the gradient of all its parameters.
        finite: whether all of it is a number.
    """

    stack: str
    layer: int
    name: str = ""
    stream: float = math.nan
    out: float = math.nan
    change: float = math.nan
    largest: float = math.nan
    sublayers: dict[str, float] = field(default_factory=dict)
    score: float | None = None
    entropy: float | None = None
    gradient: float = math.nan
    finite: bool = True


@dataclass(frozen=True)
class Scales:
    """A model at step 0.

    Attributes:
        layers: in the order in which they run, of an encoder first.
        logits: standard deviation of the logits.
        loss: mean cross-entropy of random targets, in nats.
        uniform: what a model has that knows nothing and says so, the logarithm of the size of the vocabulary.
        gradients: norm of the gradient of what is in no layer, such as the embedding, by its first name.
    """

    layers: list[Scale]
    logits: float
    loss: float
    uniform: float
    gradients: dict[str, float]


def scales(recipe: Recipe, *, seed: int, batch: int, length: int) -> Scales:
    """Build a model, run it forward and backward once on random tokens, without dropout, and look.

    Args:
        recipe: what to build.
        seed: of the initial values and the tokens.
        batch: sequences.
        length: tokens in each.
    """
    model = build(recipe, seed=seed).eval()
    found = {id(layer): Scale(stack, index, name) for stack, index, name, layer in _layers(model)}
    tokens = random_batch(model, batch, length, torch.Generator().manual_seed(seed))
    with _watched(model, found):
        logits = logits_of(model, tokens)
    loss = mean_loss(logits, tokens)
    loss.backward()
    inside: set[int] = set()
    for *_, layer in _layers(model):
        found[id(layer)].gradient = _norm(list(layer.parameters()))
        inside |= {id(parameter) for parameter in layer.parameters()}
    outside: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) not in inside:
            outside.setdefault(name.partition(".")[0], []).append(parameter)
    gradients = {name: _norm(parameters) for name, parameters in outside.items()}
    layers = list(found.values())
    return Scales(layers, logits.std().item(), loss.item(), math.log(model.vocab_size), gradients)


def _layers(model: Model) -> list[tuple[str, int, str, Layer]]:
    """Every layer with its stack's name, its index and its own name, in the order in which stacks were made."""
    result: list[tuple[str, int, str, Layer]] = []
    for path, stack in model.components():
        if isinstance(stack, Stack):
            layers = [layer for _, layer in stack.components() if isinstance(layer, Layer)]
            result += [(path, index, name_of(stack, layer), layer) for index, layer in enumerate(layers)]
    return result


@contextmanager
def _watched(model: Model, found: dict[int, Scale]) -> Generator[None]:
    hooks: list[Any] = []
    attends: list[tuple[Any, Any]] = []
    for *_, layer in _layers(model):
        scale = found[id(layer)]
        hooks.append(layer.register_forward_pre_hook(_see_input(scale)))
        hooks.append(layer.register_forward_hook(_see_layer(scale)))
        for path, module in layer.named_modules():
            if isinstance(module, Mixer | FeedForward) and "." not in path:
                hooks.append(module.register_forward_hook(_see_sublayer(scale, path)))
            if (attend := _attend_of(module)) is not None:
                attends.append((module, attend))
                setattr(module, "attend", watched(attend, scale))  # noqa: B010 (pyright: any mixer may have it)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, attend in attends:
            module.attend = attend


def _attend_of(module: Any) -> Callable[..., Tensor] | None:
    """How a mixer computes softmax attention, if it says so."""
    return getattr(module, "attend", None)


def _see_input(scale: Scale) -> Callable[..., None]:
    def hook(_: nn.Module, given: tuple[Any, ...]) -> None:
        scale.stream = _rms(given[0])

    return hook


def _see_layer(scale: Scale) -> Callable[..., None]:
    def hook(_: nn.Module, given: tuple[Any, ...], out: Tensor) -> None:
        with torch.no_grad():
            scale.out = _rms(out)
            scale.change = _ratio(_rms(out - given[0]), scale.stream)
            scale.largest = out.abs().max().item()
            scale.finite = bool(torch.isfinite(out).all())

    return hook


def _see_sublayer(scale: Scale, name: str) -> Callable[..., None]:
    def hook(_: nn.Module, given: tuple[Any, ...], out: Tensor) -> None:
        with torch.no_grad():
            scale.sublayers[name] = _ratio(_rms(out), scale.stream)

    return hook


def _rms(x: Tensor) -> float:
    return x.detach().float().square().mean().sqrt().item()


def _ratio(value: float, by: float) -> float:
    return value / by if by else math.inf if value else 0.0


def _norm(parameters: list[nn.Parameter]) -> float:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients).item() if gradients else 0.0
