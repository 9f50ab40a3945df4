"""What positions do: shifted, and left out."""

import torch

from blockformer.conformance.comparing import COARSE, assert_same
from blockformer.conformance.example import Example, example
from blockformer.conformance.running import run
from blockformer.conformance.subject import Subject
from blocks.base import AttentionPositions, InputPositions

SHIFT = 7


def check_shifts_as_it_says(subject: Subject) -> None:
    """With all positions shifted alike, the output changes where a position is ``absolute``, and only there."""
    block, given = subject.build(), example(subject)
    usual = torch.arange(given.x.shape[1])
    before, after = (run(block, _at(given, positions)) for positions in (usual, usual + SHIFT))
    kinds = (InputPositions, AttentionPositions)
    absolute = [type(m).__name__ for m in block.modules() if isinstance(m, kinds) and m.absolute]
    if not absolute:
        assert_same(after, before, f"all positions shifted by {SHIFT}", 10 * COARSE)
        return
    changed = float((after - before).detach().abs().max())
    assert changed > COARSE, f"{absolute[0]} is absolute, but nothing changes when positions are shifted"


def check_knows_no_order_without_positions(subject: Subject) -> None:
    """Where nothing says where tokens stand, tokens in another order give the same in that order, and only there."""
    canonical = subject
    for path in subject.keys("positions"):
        canonical = canonical.put(path, {"type": "none"}) if subject.at(path) else canonical
    for path in subject.keys("window"):
        canonical = canonical.put(path, None)
    block, given = canonical.build(), example(canonical)
    order = [3, 0, 4, 1, 2]
    shuffled = Example(given.x[:, order], memory=given.memory)
    after, before = run(block, shuffled), run(block, given)[:, order]
    knowing = [type(component).__name__ for _, component in block.components() if component.capabilities.ordered]
    if not knowing:
        assert_same(after, before, f"tokens in the order {order}")
        return
    changed = float((after - before).detach().abs().max())
    assert changed > COARSE, f"{knowing[0]} declares that it knows the order of tokens, but does not"


def _at(given: Example, positions: torch.Tensor) -> Example:
    return Example(given.x, memory=given.memory, positions=positions[None])
