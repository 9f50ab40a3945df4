"""What is checked: a block, with some parameters, at a place."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch

from blocks.base import Component, Site
from blocks.init.keyed import generator, initialise
from blocks.init.schemes import Xavier
from blocks.models.base import Model
from registry import Block, Place, Spec, entries, entry_of, parse, slots

Path = tuple[str | int, ...]

DIM, MEMORY_DIM, HEADS, EXPERTS, VOCABULARY, MAX_LENGTH = 32, 24, 4, 8, 41, 16
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
}
SMALL: Mapping[str, int] = {"dim": DIM, "vocab_size": VOCABULARY, "max_length": MAX_LENGTH, "depth": 2}


@dataclass(frozen=True)
class Subject:
    """A block that the checks build and run.

    Attributes:
        slot: the slot that it fills.
        name: its name there.
        params: what a recipe says about it; its defaults otherwise.
        place: where it stands: in a decoder, in an encoder, or in a decoder that looks at an encoder's output.
        label: what reports call it; a name made of all else if empty.
    """

    slot: str
    name: str
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    place: Place = "causal"
    label: str = ""

    @classmethod
    def of(cls, block: type[Block], params: Mapping[str, Any] | None = None, place: Place = "causal") -> "Subject":
        """The subject for a registered class."""
        return cls(block.slot.name, entry_of(block).name, params or {}, place)

    @property
    def id(self) -> str:
        """``mixer/attention/cross[window=3]``, unless it has a label."""
        if self.label:
            return self.label
        place = f"/{self.place}" if self.slot in PLACES else ""
        said = ",".join(f"{key}={_brief(value)}" for key, value in self.params.items() if SMALL.get(key) != value)
        return f"{self.slot}/{self.name}{place}{f'[{said}]' if said else ''}"

    @property
    def site(self) -> Site:
        """Where the block is told that it sits."""
        site = SITES[self.place]
        if self.slot == "router":
            return replace(site, experts=EXPERTS)
        return site.resized(DIM // HEADS, HEADS) if self.slot == "attention_positions" else site

    @property
    def spec(self) -> Spec[Any]:
        """The validated recipe of the block."""
        return parse(self.slot, {"type": self.name, **self.params})

    @property
    def reads_ids(self) -> bool:
        """Whether it takes token ids; other blocks take vectors."""
        return self.slot in ("embedding", "model")

    def make(self) -> Component:
        """The block as its constructor leaves it, on the default device.

        Raises:
            ValueError: its parameters do not fit each other or the site.
        """
        given = {"site": self.site, "vocab_size": VOCABULARY, "tokens": None, "width": DIM, "theta": 10000.0}
        block = entries(self.slot)[self.name].block
        return cast("Component", self.spec(*(given[name] for name in block.slot.parent_arguments)))

    def build(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> Component:
        """The block with random values in every parameter, in eval mode.

        Parameters that start as constants are moved a little, so that a bias or a scale that is not used shows.
        """
        block = self.make().to(dtype)
        if isinstance(block, Model):
            block.initialise(seed)
        else:
            initialise(block, Xavier(), seed)
        with torch.no_grad():
            for name, parameter in block.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator(seed + 1, name))
                parameter.add_(0.1 * noise.to(dtype))
        return block.eval()

    def keys(self, key: str) -> Iterator[Path]:
        """Every place in the canonical recipe of the block where ``key`` is said."""
        yield from _places(self.canonical(), key)

    def canonical(self) -> dict[str, Any]:
        """All that a recipe could say about the block, defaults filled in."""
        return {key: _frozen(value) for key, value in self.spec.dump().items() if key != "type"}

    def at(self, path: Path) -> Any:
        """What the canonical recipe says at a place."""
        tree: Any = self.canonical()
        for key in path:
            tree = tree[key]
        return tree

    def put(self, path: Path, value: Any) -> "Subject":
        """The same with another value at one place of its recipe."""
        return replace(self, params=_put(self.canonical(), path, value))


def small(slot: str, name: str, place: Place = "causal") -> Subject:
    """A block by its name alone, except that whole models are given sizes that a test can afford."""
    params: dict[str, Any] = {}
    if slot in ("model", "stack"):
        known = entries(slot)[name].parameters
        params = {key: value for key, value in SMALL.items() if key in known}
        stacks = (key for key, parameter in known.items() if parameter.slot == "stack")
        params |= {key: {"depth": 2} for key in stacks}
    return Subject(slot, name, params, place)


def subjects(slot: str, name: str) -> list[Subject]:
    """A registered block at every place where it says that it works."""
    block = entries(slot)[name].block
    if slot == "model":
        with torch.device("meta"):
            kind = cast("Model", small(slot, name).make()).kind
        return [small(slot, name, MODEL_PLACES[kind])]
    if slot == "mixer":
        return [small(slot, name, place) for place in PLACES[slot] if place in block.capabilities.places]
    if slot == "rotary_scaling":
        host = Subject("attention_positions", "rotary", {"scaling": name})
        return [Subject(slot, name), host, replace(host, place="bidirectional")]
    return [subject for place in PLACES.get(slot, ("causal",)) if _stands(subject := small(slot, name, place))]


def registered(package: str) -> list[Subject]:
    """Every block that a package registers, at every place where it works."""
    found: list[Subject] = []
    for slot in slots():
        for name, entry in entries(slot).items():
            if f"{entry.block.__module__}.".startswith(f"{package}."):
                found += subjects(slot, name)
    return found


def _stands(subject: Subject) -> bool:
    """Whether the block takes its place: a layer or a stack may refuse one."""
    if subject.slot not in ("layer", "stack"):
        return True
    try:
        with torch.device("meta"):
            subject.make()
    except ValueError:
        return False
    return True


def chances(subject: Subject) -> list[Path]:
    """Every place in its recipe that says how much is left out at random while training."""
    return [path for key in ("dropout", "rate") for path in subject.keys(key)]


def _places(tree: Any, key: str, path: Path = ()) -> Iterator[Path]:
    for name, child in _items(tree):
        if name == key:
            yield (*path, name)
        yield from _places(child, key, (*path, name))


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


def _frozen(tree: Any) -> Any:
    """Lists as the tuples that parameters are."""
    match tree:
        case dict():
            return {key: _frozen(value) for key, value in cast("dict[str, Any]", tree).items()}
        case list():
            return tuple(_frozen(item) for item in cast("list[Any]", tree))
        case _:
            return tree


def _brief(value: Any) -> str:
    return str(cast("dict[str, Any]", value).get("type", "...")) if isinstance(value, dict) else str(value)
