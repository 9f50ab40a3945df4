"""Sums over targets, from which every reported figure follows; sums of several batches or ranks simply add."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

IGNORED = -100
"""The target that says: do not score this place."""
TARGETS, TOKENS = 3, 5
"""Places in the tensor of sums, which has the order of the fields of :class:`Score`."""


@dataclass
class Score:
    """What one or several batches came to. All are sums, never means, so that adding them weights every target alike.

    Args:
        loss: what was minimised, in nats (with label smoothing, if any).
        nll: negative log-likelihood of the targets, in nats.
        correct: targets that were the most probable token.
        targets: how many targets were scored.
        bytes: UTF-8 bytes of text that the targets stand for; 0 where the batch does not say.
        tokens: tokens that the model read, padding not counted.
    """

    loss: float = 0.0
    nll: float = 0.0
    correct: float = 0.0
    targets: float = 0.0
    bytes: float = 0.0
    tokens: float = 0.0

    @classmethod
    def of(cls, sums: Tensor) -> "Score":
        """Read the (6,) tensor of sums, in the order of the fields; this waits for the device."""
        return cls(*sums.tolist())

    def metrics(self) -> dict[str, float]:
        """Loss, perplexity and accuracy by target, and bits per byte where the bytes are known."""
        targets = max(1.0, self.targets)
        nll = self.nll / targets
        result = {
            "loss": self.loss / targets,
            "perplexity": math.exp(nll) if nll < 700 else math.inf,  # exp(710) overflows a double
            "accuracy": self.correct / targets,
        }
        return result | ({"bits_per_byte": self.nll / math.log(2) / self.bytes} if self.bytes else {})


def sums_of(
    logits: Tensor, targets: Tensor, label_smoothing: float, bytes_: Tensor | None, tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """Score logits against targets.

    Args:
        logits: (B, T, V).
        targets: (B, T) ids; -100 where nothing is scored.
        label_smoothing: share of the target's probability spread over the vocabulary (Szegedy et al. 2016,
            arXiv:1512.00567).
        bytes_: (B,) bytes that each row's targets stand for, if known.
        tokens: how many tokens the model read, padding not counted.

    Returns:
        The summed loss with its gradient, and the (6,) sums of :class:`Score` without.
    """
    flat, wanted = logits.flatten(0, -2).float(), targets.flatten()
    entropy = torch.nn.functional.cross_entropy
    loss = entropy(flat, wanted, ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing)
    with torch.no_grad():
        nll = entropy(flat, wanted, ignore_index=IGNORED, reduction="sum") if label_smoothing else loss
        correct = (flat.argmax(-1) == wanted).sum()  # never true where ignored: no token has the id -100
        count = (wanted != IGNORED).sum()
        size = bytes_.sum() if bytes_ is not None else count.new_zeros(())
        exact = no_sums(loss.device).dtype
        return loss, torch.stack([item.to(exact) for item in (loss.detach(), nll, correct, count, size, tokens)])


def no_sums(device: torch.device) -> Tensor:
    """The sums of nothing, to add others to. Doubles hold every count up to 2^53; Apple's GPUs have none."""
    return torch.zeros(6, device=device, dtype=torch.float32 if device.type == "mps" else torch.float64)
