"""Base class of models."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from blocks.base import Component, Embedding, Head, Init, Mixer, Router, Stack
from blocks.init.keyed import initialise
from registry import Slot


class Model(Component, ABC):
    """Maps token ids to logits. With `hidden=True` its forward returns the vectors before the head.

    Attributes:
        head: makes logits of the final vectors, each row by itself.
    """

    head: Head
    slot = Slot("model", "Maps token ids to logits.", parent_arguments=())

    def __init__(self, *, dim: int, vocab_size: int, max_length: int, init: Init) -> None:
        super().__init__()
        self.dim, self.vocab_size, self.max_length, self.init = dim, vocab_size, max_length, init

    def fallback_names(self) -> Mapping[str, str]:
        """A separate target embedding or head starts from the embedding's token table."""
        shared = "embedding.tokens.weight"
        return {"head.project.weight": shared, "target_embedding.tokens.weight": shared}

    @property
    @abstractmethod
    def table(self) -> Tensor:
        """(V, width) table of the tokens that are predicted, which the head may share."""

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., V) logits of the vectors (..., D) that a forward with `hidden=True` returns."""
        return self.head(hidden, self.table)

    def initialise(self, seed: int = 0) -> None:
        """Draw all initial values; each depends on ``seed`` and its parameter's name only."""
        initialise(self, self.init, seed)

    def auxiliary_loss(self, reduce: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Tensor:
        """Sum of the routers' auxiliary losses, a scalar to add to the loss; 0 without routers or in evaluation mode.

        Call it once after each forward in training mode, before the backward pass.

        Args:
            reduce: sums a tensor over all processes of the training.
        """
        found = [router.auxiliary_loss(reduce) for router in self.routers]
        losses = [loss for loss in found if loss is not None]
        return torch.stack(losses).sum() if losses else torch.zeros((), device=next(self.parameters()).device)

    def update(self) -> None:
        """Update the biases of loss-free balancing, which have no gradients, after an optimizer step."""
        for router in self.routers:
            router.update()

    @property
    def routers(self) -> list[Router]:
        """All routers of the model."""
        return [module for module in self.modules() if isinstance(module, Router)]

    def mask(self, mask: Tensor | None) -> Tensor | None:
        """Convert a mask (B, T) to bool; None if all are tokens and the model does not support padding."""
        if mask is None or (not self.allows("padding") and bool(mask.all())):
            return None
        return mask.bool()

    def parameters_by_slot(self) -> dict[str, int]:
        """Number of parameters that the blocks of each slot own; the sum is ``size``."""
        owners = {name: component.slot.name for name, component in self.components()}
        sizes: dict[str, int] = {}
        for name, parameter in self.named_parameters():
            path = name
            while path not in owners:
                path = path.rpartition(".")[0]
            sizes[owners[path]] = sizes.get(owners[path], 0) + parameter.numel()
        return sizes

    @property
    @abstractmethod
    def kind(self) -> str:
        """decoder_only, encoder_only or encoder_decoder."""

    @property
    def size(self) -> int:
        """Number of parameters, shared ones counted once."""
        return sum(parameter.numel() for parameter in self.parameters())


def width_of(embedding: Embedding) -> int:
    """Width of the token table."""
    return embedding.table.shape[1]


def cached_per_token(stack: Stack) -> int:
    """Cached elements per token, over all self-attention mixers of the stack."""
    mixers = [module for module in stack.modules() if isinstance(module, Mixer)]
    own = [mixer for mixer in mixers if mixer.site is not None and mixer.site.memory_dim is None]
    return sum(mixer.cached_per_token for mixer in own) * stack.repeats
