"""Every way to compute a block gives the same."""

from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal, get_args, get_origin

import torch
from torch import Tensor

from blockformer.conformance.comparing import assert_same
from blockformer.conformance.example import Example, example
from blockformer.conformance.gradients import gradients_of
from blockformer.conformance.running import run
from blockformer.conformance.subject import Path, Subject
from blocks.base import Component
from registry import Spec

FORWARD_ONLY = frozenset({"flex"})  # on the CPU, where the checks run, PyTorch has no backward pass for it


def check_backends_agree(subject: Subject) -> None:
    """Values and gradients are the same by every backend that takes the block: plain, padded, with documents.

    A backend may refuse the block when it is built; gradients of those in ``FORWARD_ONLY`` are not compared. The
    block declares those that a recipe can choose from.
    """
    for path in subject.keys("backend"):
        owner, names = _owner(subject, path), _choices(subject, path)
        declared = set(owner.entry.block.capabilities.backends)
        assert set(names) - {"auto"} == declared, f"{owner.entry.name} declares backends {declared}, and takes {names}"
        builds = _builds(subject, path)
        assert builds, f"no backend takes {subject.id}"
        for what, given in _situations(subject).items():
            found = {name: _all_of(block, given, name not in FORWARD_ONLY) for name, block in builds.items()}
            reference = next(iter(found))
            for name, tensors in found.items():
                for key, tensor in tensors.items():
                    message = f"{'.'.join(map(str, path))}: {name} against {reference}, {what}, {key}"
                    assert_same(tensor, found[reference][key], message, 1e-7)


def _builds(subject: Subject, path: Path) -> dict[str, Component]:
    found: dict[str, Component] = {}
    for name in _choices(subject, path):
        with suppress(ValueError):
            found[name] = subject.put(path, name).build()
    return found


def _choices(subject: Subject, path: Path) -> tuple[str, ...]:
    """What may be said at ``path``: ``eager`` first, if it is among it."""
    names = _literals(_owner(subject, path).entry.parameters[str(path[-1])].annotation)
    return tuple(sorted(names, key=lambda name: name != "eager"))


def _owner(subject: Subject, path: Path) -> Spec[Any]:
    """The block whose parameter stands at ``path``."""
    return next(spec for place, spec in subject.spec.walk() if place == path[:-1])


def _literals(annotation: Any) -> tuple[str, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(name for argument in get_args(annotation) for name in _literals(argument))


def _situations(subject: Subject) -> dict[str, Example]:
    plain = example(subject)
    rows = torch.ones(plain.x.shape[:2], dtype=torch.bool)
    rows[1] = False
    found = {
        "plain": plain,
        "one token": plain.span(0, 1),
        "padded": plain.padded(2, 1, example(subject, seed=1)),
        "a row of padding": replace(plain, mask=rows),
    }
    if plain.memory is not None:
        found["a memory of padding"] = replace(plain, memory_mask=rows[:, :1].expand(plain.memory.shape[:2]))
    else:
        found["documents"] = replace(plain, documents=torch.tensor([[0, 0, 1, 1, 1]] * 2))
    return found


def _all_of(block: Component, given: Example, differentiable: bool) -> dict[str, Tensor]:
    with torch.no_grad():
        found = {"output": run(block, given)}
    return found | gradients_of(block, given) if differentiable else found
