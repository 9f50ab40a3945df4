"""A block can be stored, copied and moved."""

import copy
import pickle

import torch

from blocks.conformance.comparing import EXACT, assert_same
from blocks.conformance.example import example
from blocks.conformance.running import run
from blocks.conformance.subject import Subject


def check_restores_its_state(subject: Subject) -> None:
    """Another block that loads the state strictly computes the same."""
    block, other, given = subject.build(), subject.build(seed=7), example(subject)
    other.load_state_dict(block.state_dict(), strict=True)
    assert_same(run(other, given), run(block, given), "after loading the state", EXACT)


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
