"""How a layer connects its blocks, found by tracing its forward pass."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import fx, nn
from torch.fx.proxy import TraceError

from blocks.base import Component, Layer, Residual
from blocks.residual.streams import StreamsResidual
from registry import entry_of

OPERATIONS = {"add": "+", "iadd": "+", "mul": "×", "sub": "-"}


@dataclass(frozen=True)
class Step:
    """One block: its name in the layer, and the block itself."""

    name: str
    block: Component


@dataclass(frozen=True)
class Merge:
    """Branches that start at one value and are merged; an empty branch is a skip connection.

    Attributes:
        operation: such as ``+``.
        branches: from the common value, in the order in which the forward pass names them.
        residuals: names of the residual blocks that merge them, the outermost first.
    """

    operation: str
    branches: "tuple[Wiring, ...]"
    residuals: str = ""


Wiring = tuple[Step | Merge, ...]


def wiring_of(layer: Layer) -> Wiring | None:
    """The steps from a layer's input to its output; None if its forward pass cannot be traced."""
    tracer = _Tracer()
    try:
        graph = tracer.trace(layer.eval())
    except (TraceError, NotImplementedError, RuntimeError, TypeError, AttributeError):
        return None  # control flow that depends on values, or an operation that torch.fx cannot trace
    stream, *_ = (node for node in graph.nodes if node.op == "placeholder")
    (result,) = (node.args[0] for node in graph.nodes if node.op == "output")
    return _Graph(layer, stream).path(result, stream)


class _Tracer(fx.Tracer):
    """Trace into residuals and layers; every other block is one node."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not isinstance(m, Residual | Layer)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if isinstance(m, StreamsResidual):
            forward = partial(_sum_of_streams, m)
        return super().call_module(m, forward, args, kwargs)


def _sum_of_streams(residual: StreamsResidual, x: Any, sublayer: Callable[[Any], Any]) -> Any:
    """How several streams are drawn: as one, without the weights that they are read and written with."""
    return x + residual.inner.update(x, sublayer)


class _Graph:
    """The traced graph of a layer, reduced to series of blocks and merges of branches.

    ``points`` lists for each value the values that every path from the input to it goes through.
    """

    def __init__(self, layer: Layer, stream: fx.Node) -> None:
        self.layer, self.stream = layer, stream
        self.points: dict[fx.Node, list[fx.Node]] = {stream: [stream]}
        for node in stream.graph.nodes:
            if node not in self.points and (sources := self._sources(node)):
                common = set(self.points[sources[0]]).intersection(*(self.points[source] for source in sources))
                self.points[node] = [*(point for point in self.points[sources[0]] if point in common), node]

    def _sources(self, node: fx.Node) -> list[fx.Node]:
        """The inputs of a node that depend on the layer's input."""
        return [source for source in node.all_input_nodes if source in self.points]

    def path(self, node: fx.Node, begin: fx.Node) -> Wiring:
        """The steps from the value ``begin`` to the value ``node``."""
        if node is begin:
            return ()
        sources = self._sources(node)
        if len(sources) == 1:
            block = self.layer.get_submodule(str(node.target)) if node.op == "call_module" else None
            own = (Step(str(node.target), block),) if isinstance(block, Component) else ()
            return (*self.path(sources[0], begin), *own)
        shared = set(self.points[sources[0]]).intersection(*(self.points[source] for source in sources))
        point = [one for one in self.points[sources[0]] if one in shared][-1]
        name = getattr(node.target, "__name__", str(node.target))
        operation = OPERATIONS.get(name, name)
        branches = [branch for source in sources for branch in self._flat(self.path(source, point), operation)]
        return (*self.path(point, begin), Merge(operation, tuple(branches), self._residuals(node)))

    def _flat(self, branch: Wiring, operation: str) -> Iterator[Wiring]:
        """The branches of a nested merge by the same operation: (a + b) + c is one sum of three."""
        if len(branch) == 1 and isinstance(branch[0], Merge) and branch[0].operation == operation:
            yield from branch[0].branches
        else:
            yield branch

    def _residuals(self, node: fx.Node) -> str:
        stack: dict[str, Any] = node.meta.get("nn_module_stack", {})
        modules = [self.layer.get_submodule(path) for path, _ in stack.values()]
        return " ".join(entry_of(type(module)).name for module in modules if isinstance(module, Residual))
