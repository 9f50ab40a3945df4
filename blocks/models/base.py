"""Base class of models."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from blocks.attention.key_selector import KeySelector
from blocks.base import AdapterFactory, Component, Embedding, Feature, Head, Init, Linear, Mixer, Router, Stack
from blocks.init.keyed import initialise
from registry import Slot
from registry.errors import ParameterError, nearest


class Model(Component, ABC):
    """Maps token ids to logits. With `hidden=True` its forward returns the vectors before the head's projection.

    With a head that pools, these and the logits have one row for each text, (B, D) and (B, outputs), and not one for
    each token.

    Attributes:
        head: makes logits of the final vectors, each row by itself.
        kind: decoder_only, encoder_only or encoder_decoder.
        target_max_length: longest sequence of the tokens that it predicts; ``max_length``, unless a source has its own.
        width_multiplier: dim / the init's base width, for the site of all blocks; 1 if it has none.
    """

    head: Head
    kind: ClassVar[str]
    slot = Slot("model", "Maps token ids to logits.", parent_arguments=())

    def __init__(self, *, dim: int, vocab_size: int, max_length: int, init: Init) -> None:
        super().__init__()
        self.dim, self.vocab_size, self.max_length, self.init = dim, vocab_size, max_length, init
        self.target_max_length = max_length
        self.width_multiplier = 1.0 if init.base_width is None else dim / init.base_width

    @property
    def length_limit(self) -> tuple[str, int]:
        """The recipe's key that limits a source and a target of equal length, and that length in tokens."""
        return self.target_limit if self.target_max_length < self.max_length else ("max_length", self.max_length)

    @property
    def target_limit(self) -> tuple[str, int]:
        """The recipe's key that limits the tokens that are predicted, and their largest number in a sequence."""
        name = "max_length" if self.target_max_length == self.max_length else "target_max_length"
        return name, self.target_max_length

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

    @property
    def features(self) -> dict[str, Feature]:
        """The ids besides those of the tokens that its blocks read."""
        return {name: one for _, part in self.components() for name, one in part.read_features().items()}

    @property
    def pooled(self) -> bool:
        """Whether it gives one row of outputs for each text, and not one for each token."""
        return self.head.pooled

    @property
    def per_token(self) -> bool:
        """Whether it gives some values for each token, and not a logit of each id."""
        return self.head.per_token

    def adapt(self, adapters: Mapping[str, AdapterFactory] | None) -> None:
        """Add adapters to projections; subclasses call it at the end of their constructor.

        Args:
            adapters: by pattern of projections' names, with ``*`` for any text; None: none.

        Raises:
            ParameterError: a pattern matches no projection, or two match the same one.
        """
        if any(not hasattr(part, "site") for _, part in self.components()):
            return  # a placeholder of a block that could not be built, whose own error counts
        projections = self.projections
        matched: dict[str, str] = {}
        for pattern, make in (adapters or {}).items():
            names = [name for name in projections if fnmatchcase(name, pattern)]
            if not names:
                raise ParameterError(("adapters", pattern), self._without_match(pattern))
            for name in names:
                if name in matched:
                    also = f"{name} also matches {matched[name]!r}; let one pattern match it"
                    raise ParameterError(("adapters", pattern), also)
                matched[name], one = pattern, projections[name]
                made = make(one.in_features, one.out_features, one.experts)
                one.adapter = one.adapter or made  # children that a trial build reuses stay as they are

    @property
    def projections(self) -> dict[str, Linear]:
        """All projections that can have an adapter, by name: those that are not block-diagonal."""
        modules = cast("Iterator[tuple[str, nn.Module]]", self.named_modules())
        return {name: module for name, module in modules if isinstance(module, Linear) and module.groups == 1}

    def _without_match(self, pattern: str) -> str:
        """Why no projection matches a pattern of :meth:`adapt`, and what to do."""
        known = _patterns(self.projections)
        modules = cast("Iterator[tuple[str, nn.Module]]", self.named_modules())
        name, module = next(((name, one) for name, one in modules if name and fnmatchcase(name, pattern)), ("", self))
        if not name:
            return f"no projection is called {pattern!r}; {nearest(pattern, known) or 'known: ' + ', '.join(known)}"
        within = any(other.startswith(f"{name}.") for other in self.projections)
        advice = f"for those inside it: '{pattern}.*'" if within else "train it as a whole instead"
        return f"{pattern!r} matches {name} ({type(module).__name__}), which is not a projection; {advice}"

    def initialise(self, seed: int = 0) -> None:
        """Draw all initial values; each depends on ``seed`` and its parameter's name only."""
        initialise(self, self.init, seed)

    def auxiliary_loss(self, reduce: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Tensor:
        """Sum of the auxiliary losses of routers and key selectors, a scalar to add to the loss; 0 in evaluation mode.

        Call it once after each forward in training mode, before the backward pass.

        Args:
            reduce: sums a tensor over all processes of the training.
        """
        found = [part.auxiliary_loss(reduce) for part in self.modules() if isinstance(part, Router | KeySelector)]
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
    def size(self) -> int:
        """Number of parameters, shared ones counted once."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def trained_size(self) -> int:
        """Number of parameters that have gradients."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)


def _patterns(names: Iterable[str]) -> list[str]:
    """The names with * for the number of a layer, each once."""
    return list(dict.fromkeys(".".join("*" if part.isdigit() else part for part in name.split(".")) for name in names))


def width_of(embedding: Embedding) -> int:
    """Width of the token table."""
    return embedding.table.shape[1]


def cached_per_token(stack: Stack) -> int:
    """Cached elements per token, over all self-attention mixers of the stack."""
    mixers = [module for module in stack.modules() if isinstance(module, Mixer)]
    own = [mixer for mixer in mixers if mixer.site is not None and mixer.site.memory_dim is None]
    return sum(mixer.cached_per_token for mixer in own) * stack.repeats
