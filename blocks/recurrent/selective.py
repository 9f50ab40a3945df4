"""The selective recurrence: each channel has several states, with decays that depend on the token."""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils import flop_counter

from blocks.base.operators import LIBRARY
from blocks.recurrent.scan import scanned

BLOCK = {"cuda": 64}  # tokens whose states are in memory at once, by the kind of device
ELSEWHERE = 16


class _Inputs(NamedTuple):
    """The inputs of :func:`selective_recurrence`, without the memory."""

    x: Tensor
    steps: Tensor
    rates: Tensor
    k: Tensor
    q: Tensor
    begins: Tensor | None

    def part(self, start: int, block: int) -> "_Inputs":
        """Those of the tokens from ``start`` on, at most ``block`` of them."""
        at = slice(start, start + block)
        begins = None if self.begins is None else self.begins[:, at]
        return _Inputs(self.x[:, at], self.steps[:, at], self.rates, self.k[:, at], self.q[:, at], begins)

    def decays(self) -> Tensor:
        """(B, T, D, K), what each token leaves of the states before it."""
        left = (self.steps[..., None] * -self.rates).exp()
        return left if self.begins is None else left.masked_fill(self.begins[:, :, None, None], 0.0)

    def states(self, decays: Tensor, memory: Tensor) -> Tensor:
        """(B, T, D, K), the states after each token."""
        return scanned(decays, (self.steps * self.x)[..., None] * self.k[:, :, None], memory)


def selective_recurrence(
    x: Tensor, steps: Tensor, rates: Tensor, k: Tensor, q: Tensor, begins: Tensor | None, memory: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute h_t = exp(-steps_t rates) * h_(t-1) + steps_t x_t k_t and y_t = h_t q_t for each of D channels.

    States are computed for a block of tokens at a time, and again in the backward pass, so that memory holds those of
    one block and of the beginning of each.

    Args:
        x: (B, T, D) inputs.
        steps: (B, T, D), 0 or more.
        rates: (D, K), 0 or more.
        k: (B, T, K), how the input is written to the K states of every channel.
        q: (B, T, K), how they are read.
        begins: (B, T) bool, where the states are reset before the token; None: nowhere.
        memory: (B, D, K), the states before the first token.

    Returns:
        y (B, T, D), and the states after the last token.
    """
    y, after, _ = _selective(x, steps, rates, k, q, begins, memory, BLOCK.get(x.device.type, ELSEWHERE))
    return y, after


@torch.library.custom_op(f"{LIBRARY}::selective", mutates_args=())
def _selective(
    x: Tensor,
    steps: Tensor,
    rates: Tensor,
    k: Tensor,
    q: Tensor,
    begins: Tensor | None,
    memory: Tensor,
    block: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the states after the last token, and those before each block (B, N, D, K)."""
    inputs, held = _Inputs(x, steps, rates, k, q, begins), memory.clone()
    y, before = torch.empty_like(x, memory_format=torch.contiguous_format), list[Tensor]()
    for start in range(0, x.shape[1], block):
        before.append(held)
        part = inputs.part(start, block)
        h = part.states(part.decays(), held)
        y[:, start : start + block] = (h @ part.q[..., None])[..., 0]
        held = h[:, -1].clone()
    return y, held, torch.stack(before, dim=1) if before else memory.new_empty(_blocks(memory, 0))


def _blocks(memory: Tensor, count: int) -> tuple[int, ...]:
    return memory.shape[0], count, *memory.shape[1:]


@cast("Any", _selective).register_fake
def _(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    memory, block = rest[-2:]
    count = (x.shape[1] + block - 1) // block
    dense = torch.contiguous_format
    return (
        torch.empty_like(x, memory_format=dense),
        torch.empty_like(memory, memory_format=dense),
        memory.new_empty(_blocks(memory, count)),
    )


@torch.library.custom_op(f"{LIBRARY}::selective_backward", mutates_args=())
def _selective_backward(
    slope: Tensor,
    slope_after: Tensor,
    x: Tensor,
    steps: Tensor,
    rates: Tensor,
    k: Tensor,
    q: Tensor,
    begins: Tensor | None,
    before: Tensor,
    block: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, steps, rates, k, q and the memory; the recurrence of g, that of h, runs backwards."""
    inputs, g_after = _Inputs(x, steps, rates, k, q, begins), slope_after
    dense = torch.contiguous_format
    dx, dsteps, dk, dq = (torch.empty_like(one, memory_format=dense) for one in (x, steps, k, q))
    drates = torch.zeros_like(rates, memory_format=dense)
    for n in range(before.shape[1] - 1, -1, -1):
        at = slice(n * block, (n + 1) * block)
        part = inputs.part(n * block, block)
        decays, held = part.decays(), before[:, n]
        h = part.states(decays, held)
        dq[:, at] = (slope[:, at, None] @ h)[:, :, 0]
        later = torch.cat([torch.ones_like(decays[:, :1]), decays[:, 1:].flip(1)], dim=1)
        g = scanned(later, (slope[:, at, :, None] * part.q[:, :, None]).flip(1), g_after).flip(1)
        g_after = g[:, 0] * decays[:, 0]
        dk[:, at] = ((part.steps * part.x)[:, :, None] @ g)[:, :, 0]
        written = (g @ part.k[..., None])[..., 0]
        earlier = torch.cat([held[:, None], h[:, :-1]], dim=1)
        exponents = g.mul_(decays).mul_(earlier)  # the gradient of -steps * rates
        dx[:, at] = written * part.steps
        dsteps[:, at] = written * part.x - (exponents * rates).sum(dim=-1)
        drates -= (exponents * part.steps[..., None]).sum(dim=(0, 1))
    return dx, dsteps, drates, dk, dq, g_after.clone()


@cast("Any", _selective_backward).register_fake
def _(slope: Tensor, slope_after: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    dense = torch.contiguous_format
    return tuple(torch.empty_like(one, memory_format=dense) for one in (*rest[:5], slope_after))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, _, ctx.block = inputs
    ctx.save_for_backward(*tensors, output[2])


def _gradients(ctx: Any, slope: Tensor, slope_after: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    dx, dsteps, drates, dk, dq, dmemory = _selective_backward(slope, slope_after, *ctx.saved_tensors, ctx.block)
    return dx, dsteps, drates, dk, dq, None, dmemory, None


cast("Any", _selective).register_autograd(_gradients, setup_context=_keep)


def selective_flops(channels: int, states: int) -> float:
    """FLOPs per token of writing to the states and reading them."""
    return 4 * channels * states


def _flops(x: Any, steps: Any, rates: Any, *_: Any, **__: Any) -> int:
    return int(x[0] * x[1] * selective_flops(*rates))


def _backward_flops(slope: Any, slope_after: Any, x: Any, steps: Any, rates: Any, *_: Any, **__: Any) -> int:
    return 2 * _flops(x, steps, rates)


_counter, _operators = cast("Any", flop_counter), getattr(torch.ops, LIBRARY)  # whose formulas are untyped
_counter.register_flop_formula(_operators.selective)(_flops)
_counter.register_flop_formula(_operators.selective_backward)(_backward_flops)
