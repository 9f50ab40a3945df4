"""Size of the layers' activations, and load of the experts, recorded while a model runs."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from blockformer.training.score import exact_type
from blockformer.training.watch.places import places
from blocks.base import Context, Layer, Router
from blocks.models.base import Model
from blocks.routing.balance import tokens_per_expert

Reduce = Callable[[Tensor], Tensor]


class Recorder:
    """Hooks on the layers and routers of a model, between :meth:`resume` and :meth:`pause`; sums over all passes.

    Padding is left out. A layer that runs several times in a forward pass counts each of its runs. Compiled code does
    not call hooks that are added later.

    Args:
        model: the model.
    """

    def __init__(self, model: Model) -> None:
        self._layers = {path: part for path, part in places(model) if isinstance(part, Layer)}
        self._handles: list[Any] = []
        self._squares: dict[str, Tensor] = {}  # (2,): the sum of squares, and of how many elements
        self._loads: dict[str, Tensor] = {}
        self._mask: Tensor | None = None  # of the layer that is running: (B, T), False for padding
        self._running = False  # whether one is; a layer that is computed again for the backward pass is not

    def resume(self) -> None:
        """Add the hooks, unless they are there."""
        if self._handles:
            return
        for path, layer in self._layers.items():
            self._handles.append(layer.register_forward_pre_hook(self._before, with_kwargs=True))
            self._handles.append(layer.register_forward_hook(self._after(path)))
            for inner, router in layer.named_modules():
                if isinstance(router, Router):
                    block = f"{path}.{inner}".rpartition(".")[0]
                    self._handles.append(router.register_forward_hook(self._routed(block)))

    def pause(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._mask, self._running = [], None, False

    @contextmanager
    def recording(self) -> Generator[None]:
        """Hooks while the block runs."""
        self.resume()
        try:
            yield
        finally:
            self.pause()

    def figures(self, reduce: Reduce) -> dict[str, float]:
        """The root mean square of each layer's output, and the largest and smallest load of an expert.

        A load is relative to an even distribution: 1 is even, 0 an expert that no token was routed to.

        Args:
            reduce: sums a tensor over all processes.
        """
        found: dict[str, float] = {}
        for path, sums in self._squares.items():
            total, count = reduce(sums).tolist()
            found[f"activation_rms/{path}"] = (total / max(count, 1.0)) ** 0.5
        for path, counts in self._loads.items():
            counts = reduce(counts)
            relative = counts / counts.mean().clamp(min=1e-30)
            found[f"expert_load_max/{path}"] = relative.max().item()
            found[f"expert_load_min/{path}"] = relative.min().item()
        return found

    def _before(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._running = True
        context = next((one for one in (*args, *kwargs.values()) if isinstance(one, Context)), None)
        mask = None if context is None else context.attention_mask
        self._mask = None if mask is None or context is None else mask[:, mask.shape[1] - context.length :]

    def _after(self, path: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            self._running = False
            with torch.no_grad():
                wide = torch.promote_types(output.dtype, torch.float32)
                squares = torch.linalg.vector_norm(output, dim=-1, dtype=wide).square()  # (B, T), or (B, T, N)
                squares = squares.flatten(2).mean(-1) if squares.ndim > 2 else squares  # of several streams
                kept = squares.new_ones(squares.shape) if self._mask is None else self._mask.to(squares.dtype)
                squares = torch.where(kept > 0, squares, 0.0)  # padding may be anything, NaN too
                sums = torch.stack([squares.sum(), kept.sum() * output.shape[-1]]).to(exact_type(output.device))
                self._squares[path] = self._squares[path] + sums if path in self._squares else sums

        return hook

    def _routed(self, path: str) -> Callable[..., None]:
        def hook(router: Router, args: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
            assert router.site is not None
            if not self._running:
                return
            mask = None if self._mask is None else self._mask.flatten()
            counts = tokens_per_expert(output[1], router.site.experts or 1, mask)
            self._loads[path] = self._loads[path] + counts if path in self._loads else counts

        return hook
