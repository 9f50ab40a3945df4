"""What all models share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from blocks.base import Component, Embedding, Init, Mixer, Router, Stack
from blocks.init.keyed import initialise
from registry import Slot


class Model(Component, ABC):
    """Token ids to logits. A model has ``vocab_size``, ``max_length`` and ``dim``, and knows its ``init``."""

    slot = Slot("model", "Maps token ids to logits.", parent_arguments=())

    def __init__(self, *, dim: int, vocab_size: int, max_length: int, init: Init) -> None:
        super().__init__()
        self.dim, self.vocab_size, self.max_length, self.init = dim, vocab_size, max_length, init

    def fallback_names(self) -> Mapping[str, str]:
        """Tables that were one: what has its own token table, or its own head, had the embedding's before."""
        shared = "embedding.tokens.weight"
        return {"head.project.weight": shared, "target_embedding.tokens.weight": shared}

    def initialise(self, seed: int = 0) -> None:
        """Draw all initial values; each depends on ``seed`` and its parameter's name alone."""
        initialise(self, self.init, seed)

    def auxiliary_loss(self, reduce: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Tensor:
        """What training adds to the loss, a scalar: the sum over all routers; 0 if there are none, or in evaluation.

        To be asked for once after each forward in training mode, before the backward pass.

        Args:
            reduce: adds a tensor up over all processes that train together.
        """
        found = [router.auxiliary_loss(reduce) for router in self.routers]
        losses = [loss for loss in found if loss is not None]
        return torch.stack(losses).sum() if losses else torch.zeros((), device=next(self.parameters()).device)

    def update(self) -> None:
        """Change what gradients do not reach, such as the biases of loss-free balancing, after an optimizer step."""
        for router in self.routers:
            router.update()

    @property
    def routers(self) -> list[Router]:
        """All that choose experts for tokens."""
        return [module for module in self.modules() if isinstance(module, Router)]

    def mask(self, mask: Tensor | None) -> Tensor | None:
        """A mask (B, T) of numbers as one of True and False; None where a model that takes no padding is given none."""
        if mask is None or (not self.allows("padding") and bool(mask.all())):
            return None
        return mask.bool()

    def parameters_by_slot(self) -> dict[str, int]:
        """How many parameters each slot's blocks own; their sum is the model's size."""
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
        """decoder_only, encoder_only or encoder_decoder: how it is called and trained."""

    @property
    def size(self) -> int:
        """Number of parameters, shared ones counted once."""
        return sum(parameter.numel() for parameter in self.parameters())


def width_of(embedding: Embedding) -> int:
    """Width of the token table, which a head is told."""
    return embedding.table.shape[1]


def cached_per_token(stack: Stack) -> int:
    """Numbers that a cache keeps for each token, over all mixers that look at the text itself."""
    mixers = [module for module in stack.modules() if isinstance(module, Mixer)]
    own = [mixer for mixer in mixers if mixer.site is not None and mixer.site.memory_dim is None]
    return sum(mixer.cached_per_token for mixer in own) * stack.repeats
