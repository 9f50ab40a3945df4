"""A block can be stored, copied and moved."""

import copy
import pickle
from typing import Any, cast

import torch

from blockformer.conformance.comparing import EXACT, assert_same
from blockformer.conformance.example import example
from blockformer.conformance.gradients import gradients_of
from blockformer.conformance.running import run
from blockformer.conformance.subject import Subject


def check_restores_its_state(subject: Subject) -> None:
    """Another block that loads the state strictly, by copying or by taking the tensors over, computes the same."""
    block, given = subject.build(), example(subject)
    for assign in (False, True):  # taken over, what is shared has to stay so
        other = subject.build(seed=7)
        other.load_state_dict(copy.deepcopy(block.state_dict()), strict=True, assign=assign)
        assert_same(run(other, given), run(block, given), "after loading the state", EXACT)


def check_keeps_its_names(subject: Subject) -> None:
    """Compiled in place, used, trained or moved, the block calls its parameters the same."""
    block = subject.build()
    before = list(block.state_dict())
    run(block, example(subject))
    block.train()
    gradients_of(block, example(subject), again=True)
    cast("Any", block).compile(backend="eager")
    found = list(block.float().state_dict())
    assert found == before, f"the names of the state are others afterwards: {sorted(set(found) ^ set(before))}"


def check_copies(subject: Subject) -> None:
    """Copies by pickle and by deepcopy compute the same, and share no memory with the original."""
    block, given = subject.build(), example(subject)
    expected = run(block, given)
    pickled = pickle.loads(pickle.dumps(block))  # noqa: S301 (our own bytes)
    for how, other in (("pickled", pickled), ("deep-copied", copy.deepcopy(block))):
        assert_same(run(other, given), expected, how, EXACT)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(1.0)
        assert_same(run(block, given), expected, f"after changing what was {how}", EXACT)


def check_shares_no_parameter_twice(subject: Subject) -> None:
    """No two names in the state stand for one tensor, so that saving in any format keeps what it is given."""
    seen: dict[int, str] = {}
    for name, tensor in subject.build().state_dict().items():
        first = seen.setdefault(tensor.data_ptr(), name) if tensor.numel() else name
        assert first == name, f"{first} and {name} are one tensor"
