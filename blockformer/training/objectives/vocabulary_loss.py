"""The loss over the vocabulary without all logits at once: a part of the rows at a time, with its gradients."""

from dataclasses import dataclass
from typing import Any, Protocol, cast
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from blockformer.training.score import IGNORED, exact_type

LOGITS_AT_ONCE = 1 << 24
"""Logits of a part where its size is not given: 64 MiB in float32."""


@dataclass(frozen=True)
class LossTerms:
    """What the loss of a place is made of.

    Args:
        label_smoothing: share of each target's probability that is spread over the vocabulary (Szegedy et al. 2016,
            arXiv:1512.00567).
        z_loss: factor of log(Z)^2, where Z is the sum of exp(logits), which keeps logits near 0 (Chowdhery et al. 2022,
            arXiv:2204.02311, section 5).
        groups: (N, S) bool, which of S groups each of all rows belongs to; None: the groups are not counted.
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0
    groups: Tensor | None = None

    def __call__(self, logits: Tensor, wanted: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        return loss_of_logits(logits, wanted, self, None if self.groups is None else self.groups[rows])


class RowLoss(Protocol):
    """The loss of some of the rows, such as :class:`LossTerms`."""

    def __call__(self, logits: Tensor, wanted: Tensor, rows: slice, /) -> tuple[Tensor, Tensor]:
        """The summed loss of (N, V) logits against (N,) targets, and its sums; `rows` says which of all rows they are.

        It has no parameters that are trained: gradients reach those of the model's head and the vectors before it.
        """
        ...


class MakesLogits(Protocol):
    """What makes logits of vectors: a model, or the generator of one."""

    @property
    def head(self) -> nn.Module:
        """Makes them, each row by itself."""
        ...

    @property
    def table(self) -> Tensor:
        """(V, width) the token table, which the head may share."""
        ...

    @property
    def vocab_size(self) -> int:
        """V."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, V) logits of (N, D) vectors."""
        ...


def loss_of_hidden(
    model: MakesLogits, hidden: Tensor, targets: Tensor, loss: RowLoss, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """The loss of final vectors against targets, through the model's head, and what is counted.

    Where there are more rows than in one part, the gradients are computed part by part in the forward pass, and no more
    logits than those of a part exist at any time. They are those of the plain way, up to the order of sums.

    Args:
        model: its head, of any kind, makes the logits of each row by itself.
        hidden: (B, T, D) vectors before the head.
        targets: (B, T) ids; -100: not scored.
        loss: of a part of the rows.
        chunk: rows in a part; None: by the vocabulary; 0: all.

    Returns:
        The summed loss with its gradient; and, without, the sums of the loss, of the targets' negative log-likelihoods,
        and of those targets that were the most probable token, and then what this loss counts besides: with `groups`
        the loss and the number of targets of each.
    """
    rows, wanted = hidden.flatten(0, -2), targets.flatten()
    group = _GROUPS.get(cast("nn.Module", model))
    own = slice(0, len(rows)) if group is None else part_of(len(rows), group)
    size = max(1, rows_at_once(model.vocab_size, own.stop - own.start, chunk))
    if group is None and len(rows) == size:
        return loss(model.logits(rows), wanted, slice(0, size))
    trained = _trained(model)
    if not torch.is_grad_enabled() or not (trained or rows.requires_grad):
        sums = sum(loss(model.logits(rows[part]), wanted[part], part)[1] for part in _parts(own, size))
        if group is not None:
            dist.all_reduce(sums, group=group)
        return cast("Tensor", sums)[0].to(torch.float32), cast("Tensor", sums)
    return cast("tuple[Tensor, Tensor]", _Chunked.apply(model, loss, size, wanted, own, group, rows, *trained))


_GROUPS: "WeakKeyDictionary[nn.Module, dist.ProcessGroup]" = WeakKeyDictionary()


def divide_rows(model: nn.Module, group: dist.ProcessGroup) -> None:
    """Let each process of a group that has the same vectors compute the loss of its part of the rows only.

    :func:`loss_of_hidden` of this model then is a collective. Its results and gradients are those of all rows.
    """
    _GROUPS[model] = group


def part_of(rows: int, group: dist.ProcessGroup) -> slice:
    """The rows of this process; the parts differ by one row at most."""
    index, count = dist.get_rank(group), dist.get_world_size(group)
    return slice(rows * index // count, rows * (index + 1) // count)


def _parts(rows: slice, size: int) -> list[slice]:
    """Parts of at most ``size`` rows; an empty one where there are no rows."""
    starts = range(rows.start, rows.stop, size) or [rows.start]
    return [slice(begin, min(begin + size, rows.stop)) for begin in starts]


def rows_at_once(vocab_size: int, rows: int, chunk: int | None = None) -> int:
    """How many of some rows have logits at the same time; ``chunk`` as in :func:`loss_of_hidden`."""
    return min(rows, max(16, LOGITS_AT_ONCE // vocab_size) if chunk is None else chunk or rows)


def _trained(model: MakesLogits) -> list[Tensor]:
    """The trained parameters that the logits depend on beside the vectors: the head's, and the token table."""
    found = {id(one): one for one in (*model.head.parameters(), model.table)}
    return [one for one in found.values() if one.requires_grad]


def loss_of_logits(
    logits: Tensor, wanted: Tensor, terms: LossTerms, groups: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The summed loss of (N, V) logits against (N,) targets, which belong to (N, S) groups, and what is counted."""
    logits = logits.float()
    scored = wanted != IGNORED
    reduction = "sum" if groups is None else "none"
    smoothing, given = terms.label_smoothing, {"ignore_index": IGNORED, "reduction": reduction}
    loss = F.cross_entropy(logits, wanted, label_smoothing=smoothing, **given)
    nll = loss.detach()
    if smoothing:
        with torch.no_grad():
            nll = F.cross_entropy(logits, wanted, **given)
    if terms.z_loss:
        extra = logits.logsumexp(-1).square() * scored.to(logits.dtype)
        loss = loss + terms.z_loss * (extra.sum() if groups is None else extra)
    with torch.no_grad():
        correct = (logits.argmax(-1) == wanted).sum()  # False where not scored: no token has the id -100
        exact = exact_type(loss.device)
        found = torch.stack([item.sum().to(exact) for item in (loss.detach(), nll, correct)])
        if groups is None:
            return loss, found
        own = torch.stack([loss.detach().to(exact), scored.to(exact)], dim=-1)
        found = torch.cat([found, (groups[..., None] * own[:, None]).sum(0).flatten()])
    return loss.sum(), found


class _Chunked(torch.autograd.Function):
    """The summed loss; its forward pass computes the gradients, its backward pass scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        model: MakesLogits,
        loss: RowLoss,
        size: int,
        wanted: Tensor,
        own: slice,
        group: dist.ProcessGroup | None,
        *inputs: Tensor,
    ) -> Any:
        rows, parameters = inputs[0], inputs[1:]
        of_rows = torch.zeros_like(rows) if ctx.needs_input_grad[6] else None
        sums, totals = cast("Any", 0.0), dict[int, Tensor]()
        for place in _parts(own, size):
            part = rows[place].detach().requires_grad_(of_rows is not None)
            with torch.enable_grad(), _AddingInPlace(parameters, totals):
                summed, found = loss(model.logits(part), wanted[place], place)
                asked = [*([part] if of_rows is not None else []), *parameters]
                gradients = list(torch.autograd.grad(summed, asked, allow_unused=True))
            if of_rows is not None:
                of_rows[place] = gradients.pop(0)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    _total(totals, parameter).add_(gradient)
            sums = sums + found
        if group is not None:
            for one in (sums, *([] if of_rows is None else [of_rows]), *totals.values()):
                dist.all_reduce(one, group=group)
        kept = [totals.get(id(parameter)) for parameter in parameters]
        types = [parameter.dtype for parameter in parameters]
        ctx.gradients = [of_rows, *(one if one is None else one.to(of) for one, of in zip(kept, types, strict=True))]
        ctx.mark_non_differentiable(sums)
        return sums[0].to(torch.float32), sums

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("the gradients of this loss were computed in its forward pass and can be taken once")
        return (*(None,) * 6, *(one if one is None else one.mul_(outer[0]) for one in gradients))


def _total(totals: dict[int, Tensor], parameter: Tensor) -> Tensor:
    """The sum of a parameter's gradients so far, in at least float32."""
    if id(parameter) not in totals:
        totals[id(parameter)] = torch.zeros_like(parameter, dtype=torch.promote_types(parameter.dtype, torch.float32))
    return totals[id(parameter)]


class _AddingInPlace(TorchFunctionMode):
    """Lets linear layers add the gradients of their weights to the sums, which then exist once and not once a part."""

    def __init__(self, parameters: tuple[Tensor, ...], totals: dict[int, Tensor]) -> None:
        super().__init__()
        self._own, self._totals = {id(one) for one in parameters}, totals

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear and id(args[1]) in self._own and not kwargs:
            total, device = _total(self._totals, args[1]), args[0].device.type
            given = [one for one in args if one is not None]
            if torch.is_autocast_enabled(device):  # which applies to torch's own operators only
                given = [one.to(torch.get_autocast_dtype(device)) for one in given]
            x, weight, *bias = given
            y = _Linear.apply(x, weight, total)
            return y + bias[0] if bias else y
        return func(*args, **(kwargs or {}))


class _Linear(torch.autograd.Function):
    """x W^T, whose backward pass adds the gradient of W to a sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, total: Tensor) -> Any:
        ctx.save_for_backward(x, weight)
        ctx.total = total
        return F.linear(x, weight)

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        x, weight = ctx.saved_tensors
        slope, rows = outer[0].flatten(0, -2), x.flatten(0, -2)
        if slope.dtype == rows.dtype == ctx.total.dtype:
            ctx.total.addmm_(slope.T, rows)
        else:
            ctx.total.add_(slope.T @ rows)
        return outer[0] @ weight if ctx.needs_input_grad[0] else None, None, None
