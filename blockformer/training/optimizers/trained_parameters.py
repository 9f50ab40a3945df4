"""Which parameters are trained: all, those of adapters, or those that are named."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from blockformer.errors import UserError
from blocks.base import Adapter, Component


def choose_trained(model: Component, train: Sequence[str] | None, freeze: Sequence[str]) -> None:
    """Exclude parameters from training.

    Args:
        model: the model; parameters that have no gradients already keep none.
        train: names of the only parameters that are trained, beside those of adapters, with `*` for any text; None:
            all, but in a model with adapters only theirs.
        freeze: names of parameters that are not trained.

    Raises:
        UserError: a pattern matches no parameter, or nothing is left to train.
    """
    parameters = dict(model.named_parameters())
    trained = _in_adapters(model)
    if train is not None:
        trained |= _matching("train", train, parameters)
    elif not trained:
        trained = set(parameters)
    trained -= _matching("freeze", freeze, parameters)
    for name, parameter in parameters.items():
        if name not in trained:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise UserError(f"optimizer.{'freeze' if freeze else 'train'}: leaves nothing to train")


def similar(names: Mapping[str, Any]) -> str:
    """Advice where no parameter matches."""
    return f"; one is called {next(iter(names))!r}, and `blockformer show` lists all" if names else ""


def _in_adapters(model: Component) -> set[str]:
    """Names of the parameters of adapters."""
    adapters = [(path, block) for path, block in model.components() if isinstance(block, Adapter)]
    return {f"{path}.{name}" for path, adapter in adapters for name, _ in adapter.named_parameters()}


def _matching(option: str, patterns: Sequence[str], parameters: Mapping[str, Any]) -> set[str]:
    """Names of the parameters that an option's patterns match.

    Raises:
        UserError: a pattern matches none.
    """
    found: set[str] = set()
    for pattern in patterns:
        names = {name for name in parameters if fnmatchcase(name, pattern)}
        if not names:
            raise UserError(f"optimizer.{option}: no parameter has a name like {pattern!r}{similar(parameters)}")
        found |= names
    return found
