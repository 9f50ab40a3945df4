"""A block can be built from its name, on no device, and anew."""

from collections.abc import Iterator
from typing import cast

import torch
from torch import nn

from blockformer.conformance.comparing import EXACT, assert_same
from blockformer.conformance.example import example
from blockformer.conformance.running import run
from blockformer.conformance.subject import Subject
from registry import entries, parse


def check_builds_from_its_name(subject: Subject) -> None:
    """Its name alone is a recipe, whose canonical form leads back to the same block."""
    spec = parse(subject.slot, subject.name)
    assert type(subject.make()) is entries(subject.slot)[subject.name].block
    again = parse(subject.slot, {"type": subject.name, **Subject(subject.slot, subject.name).canonical()})
    assert again.hash == spec.hash, "the canonical form is another block"


def check_builds_on_meta(subject: Subject) -> None:
    """On the meta device nothing is allocated, and names and shapes are those of the real block."""
    with torch.device("meta"):
        hollow = subject.make().state_dict()
    real = subject.make().state_dict()
    assert {name: t.shape for name, t in hollow.items()} == {name: t.shape for name, t in real.items()}
    allocated = [name for name, tensor in hollow.items() if not tensor.is_meta]
    assert not allocated, f"built on meta, these were allocated all the same: {allocated}"


def check_keeps_tensors_as_parameters(subject: Subject) -> None:
    """Every tensor is a parameter, so that what was built on meta is whole once initial values are drawn."""
    block = subject.make()
    strays = [
        f"{path}.{name}".lstrip(".")
        for path, module in cast("Iterator[tuple[str, nn.Module]]", block.named_modules())
        for name, value in vars(module).items()
        if isinstance(value, torch.Tensor)
    ]
    strays += [name for name, _ in block.named_buffers()]
    assert not strays, f"neither drawn nor constant: {strays}; make them a parameter, or anew in each forward"


def check_is_the_same_when_built_on_meta(subject: Subject) -> None:
    """Built on meta, given memory and then values, the block computes the same as one built directly."""
    block = subject.build()
    with torch.device("meta"):
        late = subject.make()
    late = late.to(torch.float64).to_empty(device="cpu").eval()
    late.load_state_dict(block.state_dict())
    given = example(subject)
    assert_same(run(late, given), run(block, given), "built on meta", EXACT)
