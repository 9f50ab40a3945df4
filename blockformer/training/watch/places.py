"""The places of a model by which figures are reported: its layers, and what lies outside them."""

from collections.abc import Iterator

from torch import nn

from blocks.base import Stack
from blocks.models.base import Model

Members = dict[str, list[tuple[str, nn.Parameter]]]


def places(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Each layer, and outside the layers each part of a stack or of the model, by its path.

    Of a decoder: `embedding`, `decoder.layers.0`, `decoder.layers.1`, `decoder.norm`, `head`.
    """
    for name, part in model.named_children():
        if isinstance(part, Stack | nn.ModuleList | nn.ModuleDict):
            yield from places(part, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", part


def parameters_by_place(model: Model) -> Members:
    """The trained parameters of each place, with their names in the model; a shared one belongs to its first place.

    A parameter of a stack or of the model itself is a place of its own.
    """
    paths, found = [path for path, _ in places(model)], Members()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            place = next((path for path in paths if name.startswith(f"{path}.")), name)
            found.setdefault(place, []).append((name, parameter))
    return found
