"""Sizes here are tiny: one thread is faster than several."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from registry import core, register

torch.set_num_threads(1)


@pytest.fixture
def registry_of_a_test(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """What is registered with this ``register`` is gone after the test, and in no recipe that another one draws."""
    monkeypatch.setattr(core, "_ENTRIES", {slot: dict(named) for slot, named in core._ENTRIES.items()})
    monkeypatch.setattr(core, "_NAMES", dict(core._NAMES))
    return register


@pytest.fixture(autouse=True)
def blocks_of_a_module(request: pytest.FixtureRequest) -> None:
    """Registers a test module's own ``BLOCKS``, classes by name, while one of its tests runs."""
    named = getattr(request.module, "BLOCKS", {})
    registering = request.getfixturevalue("registry_of_a_test") if named else None
    for name, block in named.items():
        assert registering is not None
        registering(name)(block)
