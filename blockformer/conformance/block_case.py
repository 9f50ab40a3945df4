"""The input of a check: a block with parameters at a place."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast
from unittest import SkipTest

import torch

from blocks.base import Component, Residual, Site
from blocks.init.keyed import generator, initialise
from blocks.init.schemes import Xavier
from blocks.models.base import Model
from registry import Block, Place, Spec, entries, entry_of, option_slots, parse, slot_named, slots

Path = tuple[str | int, ...]

DIM, MEMORY_DIM, HEADS, EXPERTS, STREAMS, VOCABULARY, MAX_LENGTH = 32, 24, 4, 8, 3, 41, 16
SITES: Mapping[Place, Site] = {
    "causal": Site(dim=DIM, max_length=MAX_LENGTH, depth=2, layer=1),
    "bidirectional": Site(dim=DIM, max_length=MAX_LENGTH, depth=2, layer=1, causal=False),
    "cross": Site(dim=DIM, max_length=MAX_LENGTH, depth=2, layer=1, memory_dim=MEMORY_DIM),
}
MODEL_PLACES: Mapping[str, Place] = {
    "decoder_only": "causal",
    "encoder_only": "bidirectional",
    "encoder_decoder": "cross",
}
PLACES: Mapping[str, tuple[Place, ...]] = {
    "mixer": ("causal", "bidirectional", "cross"),
    "layer": ("causal", "bidirectional", "cross"),
    "stack": ("causal", "bidirectional", "cross"),
    "attention_positions": ("causal", "bidirectional"),
    "key_selector": ("causal", "bidirectional"),
    "pooling": ("causal", "bidirectional"),
    "generator": ("bidirectional",),
}
SMALL: Mapping[str, int] = {"dim": DIM, "vocab_size": VOCABULARY, "max_length": MAX_LENGTH, "depth": 2}


NEEDS = "set the parameters that it needs by --param"
"""Begins the reason why no check applies to a component that cannot do without parameters."""


class NotApplicable(SkipTest):
    """Raised by a check that finds nothing to test on this block; pytest reports a SkipTest as skipped."""


@dataclass(frozen=True)
class BlockCase:
    """A block with parameters at a place, which the checks build and run.

    Attributes:
        slot: the slot of the block.
        name: its registered name in that slot.
        params: recipe parameters that differ from their defaults.
        place: ``causal`` (decoder), ``bidirectional`` (encoder) or ``cross`` (decoder that attends to an encoder).
        label: id for reports; derived from the other attributes if empty.
        varied: the parameter that a variant of another case changes; empty if this is none.
    """

    slot: str
    name: str
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    place: Place = "causal"
    label: str = ""
    varied: str = field(default="", compare=False)

    @classmethod
    def of(cls, block: type[Block], params: Mapping[str, Any] | None = None, place: Place = "causal") -> "BlockCase":
        """The case of a registered class."""
        return cls(block.slot.name, entry_of(block).name, params or {}, place)

    @property
    def id(self) -> str:
        """``mixer/attention/cross[window=3]``, unless it has a label."""
        if self.label:
            return self.label
        place = f"/{self.place}" if self.slot in PLACES else ""
        said = ",".join(
            f"{key}={_brief(value)}" for key, value in self.params.items() if key not in SMALL or SMALL[key] != value
        )
        return f"{self.slot}/{self.name}{place}{f'[{said}]' if said else ''}"

    @property
    def is_component(self) -> bool:
        """Whether it is no module, but what an option of `blockformer fit` names, such as an objective."""
        return slot_named(self.slot).option is not None

    @property
    def site(self) -> Site:
        """The site that the block is built for."""
        site = SITES[self.place]
        if self.slot == "router":
            return replace(site, experts=EXPERTS)
        return site.resized(DIM // HEADS, HEADS) if self.slot == "attention_positions" else site

    @property
    def spec(self) -> Spec[Any]:
        """The validated recipe of the block."""
        return parse(self.slot, {"type": self.name, **self.params})

    @property
    def pools(self) -> bool:
        """Whether the output has a row for each text, and not one for each token."""
        heads = (spec for _, spec in self.spec.walk() if spec.entry.slot == "head")
        return self.slot == "pooling" or any(getattr(spec.entry.block, "pooled", False) for spec in heads)

    @property
    def per_token(self) -> bool:
        """Whether the output has some values for each token, and not a logit of each id."""
        heads = (spec for _, spec in self.spec.walk() if spec.entry.slot == "head")
        return any(getattr(spec.entry.block, "per_token", False) for spec in heads)

    @property
    def reads_ids(self) -> bool:
        """Whether the block takes token ids; other blocks take vectors."""
        return self.slot in ("embedding", "model")

    def construct(self) -> Component:
        """The block as its constructor returns it, on the default device, with the initial values of PyTorch.

        Raises:
            ValueError: the parameters do not fit each other or the site.
        """
        given = {"site": self.site, "vocab_size": VOCABULARY, "tokens": None, "width": DIM, "theta": 10000.0}
        given |= {"in_features": DIM, "out_features": DIM, "experts": None, "query_dim": DIM, "streams": STREAMS}
        block = entries(self.slot)[self.name].block
        return cast("Component", self.spec(*(given[name] for name in block.slot.parent_arguments)))

    def build_perturbed(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> Component:
        """The block with random values in every parameter, in eval mode.

        Noise is added to parameters that start as constants, so that an unused bias or scale is detected.
        """
        return perturbed(self.construct().to(dtype), seed)

    def keys(self, key: str) -> Iterator[Path]:
        """Paths of all keys called ``key`` in the canonical recipe of the block."""
        yield from _paths(self.canonical(), key)

    def canonical(self) -> dict[str, Any]:
        """The recipe of the block with all defaults filled in."""
        return {key: frozen(value) for key, value in self.spec.dump().items() if key != "type"}

    def at(self, path: Path) -> Any:
        """The value at a path of the canonical recipe."""
        tree: Any = self.canonical()
        for key in path:
            tree = tree[key]
        return tree

    def put(self, path: Path, value: Any) -> "BlockCase":
        """A copy with another value at one path of its canonical recipe."""
        return replace(self, params=_put(self.canonical(), path, value))


def perturbed(block: Component, seed: int = 0) -> Component:
    """The block with random values in every parameter, also in those that start as constants, in eval mode."""
    if isinstance(block, Model):
        block.initialise(seed)
    else:
        initialise(block, Xavier(), seed)
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator(seed + 1, name))
            parameter.add_(0.1 * noise.to(parameter.dtype))
    return block.eval()


def small(slot: str, name: str, place: Place = "causal") -> BlockCase:
    """A block with default parameters; models and stacks get small sizes."""
    params: dict[str, Any] = {}
    if slot in ("model", "stack", "generator"):
        known = entries(slot)[name].parameters
        params = {key: value for key, value in SMALL.items() if key in known}
        stacks = (key for key, parameter in known.items() if parameter.slot == "stack")
        params |= {key: {"depth": 2} for key in stacks}
    return BlockCase(slot, name, params, place)


def block_cases(slot: str, name: str) -> list[BlockCase]:
    """A registered block at every place that it supports."""
    block = entries(slot)[name].block
    if block.slot.option is not None:
        return [BlockCase(slot, name)]
    if slot == "model":
        with torch.device("meta"):
            kind = cast("Model", small(slot, name).construct()).kind
        return [small(slot, name, MODEL_PLACES[kind])]
    if slot in ("mixer", "pooling"):
        found = [small(slot, name, place) for place in PLACES[slot] if place in block.capabilities.places]
        return [*found, *_reusing_keys(slot, name)]
    if slot == "rotary_scaling":
        host = BlockCase("attention_positions", "rotary", {"scaling": name})
        return [BlockCase(slot, name), host, replace(host, place="bidirectional")]
    if getattr(block, "reuses", False):
        return [BlockCase(slot, name), _after_a_choice(name)]
    found = [case for place in PLACES.get(slot, ("causal",)) if _fits_its_place(case := small(slot, name, place))]
    return [*found, *_stacks_of_streams(slot, name)]


def _reusing_keys(slot: str, name: str) -> list[BlockCase]:
    """A stack whose second layer attends to the keys and values of the first, if the mixer can."""
    if "reuse_kv" not in entries(slot)[name].parameters:
        return []
    layers = {which: {"mixer": {"type": name, "reuse_kv": which == "b", "window": 3}} for which in "ab"}
    return [BlockCase("stack", "layers", {"depth": 3, "layers": layers, "pattern": ("a", "b"), "rest": "cut"})]


def _stacks_of_streams(slot: str, name: str) -> list[BlockCase]:
    """Stacks in which a block with several residual streams stands, whose layers give what it expects."""
    if slot == "readout":
        readout, wiring = name, "hyper"
    elif slot == "residual" and cast("Residual", small(slot, name).construct()).streams > 1:
        readout, wiring = "weighted", name
    else:
        return []
    params = {"depth": 2, "layer": {"residual": wiring}, "readout": readout}
    return [BlockCase("stack", "layers", params, place) for place in ("causal", "cross")]


def _after_a_choice(name: str) -> BlockCase:
    """A stack whose second layer has a key selector that takes over the choice of the first."""
    mixers = {which: {"type": "latent", "selector": selector} for which, selector in (("a", "indexer"), ("b", name))}
    layers = {which: {"mixer": mixer} for which, mixer in mixers.items()}
    return BlockCase("stack", "layers", {"depth": 3, "layers": layers, "pattern": ("a", "b"), "rest": "cut"})


def registered(package: str) -> list[BlockCase]:
    """Every block that a package registers, at every place that it supports, and every other component."""
    found: list[BlockCase] = []
    for slot in (*slots(), *option_slots()):
        for name, entry in entries(slot).items():
            if f"{entry.block.__module__}.".startswith(f"{package}."):
                found += block_cases(slot, name)
    return found


def _fits_its_place(case: BlockCase) -> bool:
    """Whether the block can be built at its place: a layer or a stack may refuse one."""
    if case.slot not in ("layer", "stack"):
        return True
    try:
        with torch.device("meta"):
            case.construct()
    except ValueError:
        return False
    return True


def dropout_paths(case: BlockCase) -> list[Path]:
    """Paths of all rates of dropout and stochastic depth in its recipe."""
    return [path for key in ("dropout", "rate") for path in case.keys(key)]


def _paths(tree: Any, key: str, path: Path = ()) -> Iterator[Path]:
    for name, child in _items(tree):
        if name == key:
            yield (*path, name)
        yield from _paths(child, key, (*path, name))


def _items(tree: Any) -> Iterable[tuple[str | int, Any]]:
    match tree:
        case dict():
            return cast("dict[str | int, Any]", tree).items()
        case tuple():
            return enumerate(cast("tuple[Any, ...]", tree))
        case _:
            return ()


def _put(tree: Any, path: Path, value: Any) -> Any:
    if not path:
        return value
    changed = _put(tree[path[0]], path[1:], value)
    if isinstance(tree, tuple):
        return tuple(changed if index == path[0] else item for index, item in enumerate(cast("tuple[Any, ...]", tree)))
    return {**tree, path[0]: changed}


def frozen(tree: Any) -> Any:
    """Lists become tuples, the type of sequence parameters."""
    match tree:
        case dict():
            return {key: frozen(value) for key, value in cast("dict[str, Any]", tree).items()}
        case list():
            return tuple(frozen(item) for item in cast("list[Any]", tree))
        case _:
            return tree


def _brief(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    found = cast("dict[str, Any]", value)
    return str(found["type"]) if "type" in found else ",".join(f"{key}={_brief(part)}" for key, part in found.items())
