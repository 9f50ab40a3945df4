"""Sums over targets, from which all metrics are computed; sums of several batches or ranks are added."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BETTER = {
    "loss": min,
    "perplexity": min,
    "accuracy": max,
    "bits_per_byte": min,
    "f1": max,
    "rmse": min,
    "pearson": max,
    "spearman": max,
}
"""The figures of a score, each with the function that picks the better of two values."""
OF_SOURCES = ("loss", "bits_per_byte")
"""The figures of each source of a mixture, such as `val/loss/NAME`."""
IGNORED = -100
"""Target value of places that are not scored."""
TARGETS, TOKENS = 3, 5
"""Indices in the tensor of sums, which has the order of the fields of :class:`Score`."""
SIZE = 6
"""How many sums these are. A total and a count of each of the objective's own figures follow, and of each source."""


@dataclass
class Score:
    """Totals of one or several batches. All are sums, not means, so that adding them weighs every target the same.

    Args:
        loss: the minimised loss, in nats, with label smoothing.
        nll: negative log-likelihood of the targets, in nats.
        correct: number of targets that were the most probable token.
        targets: number of scored targets.
        bytes: UTF-8 bytes of the text that the targets encode; 0 if the batch does not contain them.
        tokens: number of tokens that the model read, without padding.
    """

    loss: float = 0.0
    nll: float = 0.0
    correct: float = 0.0
    targets: float = 0.0
    bytes: float = 0.0
    tokens: float = 0.0

    @classmethod
    def of(cls, sums: Tensor) -> "Score":
        """Read the first six sums, in the order of the fields; this synchronises with the device."""
        return cls(*sums[:SIZE].tolist())

    def metrics(self) -> dict[str, float]:
        """Loss, perplexity and accuracy per target, and bits per byte if the bytes are known."""
        targets = max(1.0, self.targets)
        nll = self.nll / targets
        result = {
            "loss": self.loss / targets,
            "perplexity": math.exp(nll) if nll < 700 else math.inf,  # exp(710) overflows a double
            "accuracy": self.correct / targets,
        }
        return result | ({"bits_per_byte": self.nll / math.log(2) / self.bytes} if self.bytes else {})


def sums_of(found: Tensor, targets: Tensor, bytes_: Tensor | None, tokens: Tensor) -> Tensor:
    """The (6 + 2 S,) sums of a :class:`Score`, and of the loss and the targets of each of S sources of a mixture.

    Args:
        found: (3 + 2 S,) loss, negative log-likelihood and number of correct targets; and for each source loss and
            number of targets.
        targets: (B, T) ids; -100: not scored.
        bytes_: (B,) bytes that each row's targets encode, if known.
        tokens: number of tokens that the model read, without padding.
    """
    count = (targets != IGNORED).sum()
    size = bytes_.sum() if bytes_ is not None else count.new_zeros(())
    counts = torch.stack([item.to(found.dtype) for item in (count, size, tokens)])
    return torch.cat([found[:TARGETS], counts, found[TARGETS:]])


def metrics_of(sums: Tensor, figures: Sequence[str]) -> dict[str, float]:
    """The metrics of a :class:`Score`, and the means of an objective's own figures, of which each total has a count."""
    own = sums[SIZE : SIZE + 2 * len(figures)].view(-1, 2).tolist()
    means = {name: total / count for name, (total, count) in zip(figures, own, strict=True) if count}
    return Score.of(sums).metrics() | means


def no_sums(device: torch.device, figures: int = 0) -> Tensor:
    """Zeros to add sums to, with those of so many figures of an objective."""
    return torch.zeros(SIZE + 2 * figures, device=device, dtype=exact_type(device))


def exact_type(device: torch.device) -> torch.dtype:
    """The data type of sums: float64, which is exact up to 2^53; Apple's GPUs have only float32."""
    return torch.float32 if device.type == "mps" else torch.float64
