"""Several residual streams are all used."""

import torch
from torch import Tensor

from blockformer.conformance.block_case import STREAMS, BlockCase, NotApplicable
from blockformer.conformance.example import example, streams_of
from blocks.base import Readout, Residual


def check_uses_every_stream(case: BlockCase) -> None:
    """A sublayer reads every residual stream and its output changes every one; a readout depends on every one."""
    block = case.build_perturbed()
    count = block.streams if isinstance(block, Residual) else STREAMS
    if count == 1:
        raise NotApplicable("it has one residual stream")
    x = streams_of(example(case).x, count).requires_grad_()
    read: list[Tensor] = []
    update = torch.zeros_like(x[..., 0, :]).requires_grad_()

    def sublayer(y: Tensor) -> Tensor:
        read.append(y)
        return torch.tanh(y) + update

    if isinstance(block, Readout):
        read.append(block(x))
    elif isinstance(block, Residual):
        y = block(x, sublayer)
        for index in range(count):
            reached = _reached(y[..., index, :], update)
            assert reached, f"what the sublayer gives does not reach stream {index} of {count}"
    for index in range(count):
        assert _reached(read[0], x, index), f"stream {index} of {count} is not read"


def _reached(y: Tensor, x: Tensor, stream: int | None = None) -> bool:
    """Whether the squares of ``y`` have a gradient for ``x``, or for a stream of it."""
    (slope,) = torch.autograd.grad(y.square().sum(), x, retain_graph=True, allow_unused=True)
    return slope is not None and bool((slope if stream is None else slope[..., stream, :]).any())
