"""How much is dropped, and whether it is something else each time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from blockformer.conformance.example import example, restart_chance
from blockformer.conformance.running import run
from blockformer.conformance.subject import Subject, chances

RATE, SIGMAS = 0.3, 6.0


def check_drops_out_at_its_rate(subject: Subject) -> None:
    """Each ``dropout`` of its recipe drops that share, counted, and other values in each layer and each step.

    What torch's own dropout drops is counted; of fused attention only the rate that it is told can be seen.
    """
    for path in (path for path in chances(subject) if path[-1] == "dropout"):
        changed, key = _with_only(subject, path), ".".join(map(str, path))
        block = changed.build(torch.float32).train()
        restart_chance()
        with _Watching() as watching:
            for _ in range(2):
                run(block, example(changed, batch=24, length=12, dtype=torch.float32))
        for drop in watching.drops:
            assert drop.told in (0.0, RATE), f"{key}={RATE}, but {drop.told} is dropped"
        _assert_counted([drop for drop in watching.drops if drop.told and drop.kept is not None], key)


@dataclass
class _Drop:
    """One call of a dropout: the rate, and which of the values that were not zero are kept (None: cannot be seen)."""

    told: float
    kept: Tensor | None = None


def _with_only(subject: Subject, wanted: tuple[str | int, ...]) -> Subject:
    for path in chances(subject):
        subject = subject.put(path, RATE if path == wanted else 0.0)
    return subject


def _assert_counted(drops: Sequence[_Drop], key: str) -> None:
    masks = [drop.kept for drop in drops if drop.kept is not None]
    for mask in masks:
        share, sigma = 1 - float(mask.double().mean()), (RATE * (1 - RATE) / max(mask.numel(), 1)) ** 0.5
        assert abs(share - RATE) < SIGMAS * sigma, f"{key}={RATE}, but {share:.3f} of {mask.numel()} are dropped"
    for index, mask in enumerate(masks):
        for other in masks[:index]:
            same = mask.shape == other.shape and torch.equal(mask, other)
            assert not same, f"{key}: the same values are dropped twice"


class _Watching(TorchFunctionMode):
    """Notes every dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.drops: list[_Drop] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        options: dict[str, Any] = kwargs or {}
        y = func(*args, **options)
        if func is F.dropout and _said(args, options, 2, "training", True):
            x, rate = args[0], float(_said(args, options, 1, "p", 0.5))
            self.drops.append(_Drop(rate, y[x != 0] != 0))
        elif func is F.scaled_dot_product_attention:
            self.drops.append(_Drop(float(_said(args, options, 4, "dropout_p", 0.0))))
        return y


def _said(args: Sequence[Any], options: dict[str, Any], place: int, name: str, default: Any) -> Any:
    return args[place] if len(args) > place else options.get(name, default)
