"""One training run of a study."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

Purpose = Literal["tune", "answer", "budget"]


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        variant: its name.
        seed: decides initial values, dropout and the order of the data, as far as the study varies them.
        learning_rate: None: that of the study's `fit`.
        purpose: whether the run chooses a learning rate, answers the question, or shows what more steps would do.
        settings: what `blockformer fit` gets as its configuration.
        budget: share of the study's steps.
    """

    variant: str
    seed: int
    learning_rate: float | None
    purpose: Purpose
    settings: dict[str, Any]
    budget: float = 1.0

    @property
    def id(self) -> str:
        """Name of the run's folder; it contains a hash, so that a run whose settings changed is another run."""
        parts = [self.variant, f"seed{self.seed}"]
        if self.learning_rate is not None:
            parts.append(f"lr{self.learning_rate:g}")
        if self.budget != 1:
            parts.append(f"budget{self.budget:g}")
        return "-".join([*parts, digest(self.settings)[:8]])


def digest(data: Any) -> str:
    """SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, allow_nan=False).encode()).hexdigest()
