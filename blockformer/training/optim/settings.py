"""What a user may say about the optimizer; these fields are the flags `--optimizer.*`."""

from dataclasses import dataclass
from typing import Literal


@dataclass
class OptimizerSettings:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) and the schedule of its learning rate.

    Args:
        lr: the highest learning rate, reached at the end of the warm-up.
        weight_decay: decoupled decay of matrices, embeddings among them, as GPT and BERT were trained. Vectors,
            biases and the parameters of norms never decay, also where those of many experts lie in one tensor.
        beta1: decay rate of the gradient's running mean.
        beta2: decay rate of the squared gradient's running mean.
        eps: added to the root of the second moment.
        schedule: after the warm-up, `cosine` falls to `lr * min_ratio` at the end of the run, `inverse_sqrt` falls with
            1/sqrt(step) (Vaswani et al. 2017), `constant` stays.
        warmup_steps: optimizer steps over which the learning rate rises linearly from 0.
        min_ratio: where `cosine` ends, as a share of `lr`.
        decay_steps: optimizer steps after which `cosine` reaches its end; the whole run when not given.
    """

    lr: float = 1e-3
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    schedule: Literal["cosine", "inverse_sqrt", "constant"] = "cosine"
    warmup_steps: int = 100
    min_ratio: float = 0.1
    decay_steps: int | None = None

    def __post_init__(self) -> None:
        allowed = {
            "lr": self.lr > 0,
            "weight_decay": self.weight_decay >= 0,
            "beta1": 0 <= self.beta1 < 1,
            "beta2": 0 <= self.beta2 < 1,
            "eps": self.eps > 0,
            "warmup_steps": self.warmup_steps >= 0,
            "min_ratio": 0 <= self.min_ratio <= 1,
            "decay_steps": self.decay_steps is None or self.decay_steps > self.warmup_steps,
        }
        wrong = [f"{name} cannot be {getattr(self, name)}" for name, fits in allowed.items() if not fits]
        if wrong:
            raise ValueError(f"optimizer: {', '.join(wrong)}")
