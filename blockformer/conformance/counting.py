"""What a block says that it costs is what it costs."""

import torch
from torch import Tensor

from blockformer.conformance.example import Example, example
from blockformer.conformance.running import run
from blockformer.conformance.subject import Subject
from blocks.base import Mixer
from blocks.models.base import Model

LENGTH = 6


def check_counts_its_flops(subject: Subject) -> None:
    """flops_per_token is what torch counts on the meta device, in a text as long as the narrowest window.

    In a longer one, torch counts also the products that a window leaves out; and a fused kernel takes a sink as one
    more key, so that what is counted is the eager way.
    """
    # imported here, because it is slow to import and nobody else needs it
    from torch.utils.flop_counter import FlopCounterMode

    for path in subject.keys("backend"):
        subject = subject.put(path, "eager")
    with torch.device("meta"):
        block = subject.make()
    windows = [module.window for module in block.modules() if isinstance(module, Mixer) and module.window is not None]
    length = min([LENGTH, *windows])
    given = _meta(example(subject, length=length, memory_length=length, dtype=torch.float32))
    with FlopCounterMode(display=False) as counter:
        run(block, given)
    told = block.flops_per_token(length) * given.x.shape[0] * length
    assert told == counter.get_total_flops(), f"{told:.0f} told, {counter.get_total_flops()} counted"


def check_counts_its_parameters(subject: Subject) -> None:
    """The parameters of all slots add up to the model's, shared ones counted once."""
    model = subject.make()
    assert isinstance(model, Model)
    size = sum(parameter.numel() for parameter in set(model.parameters()))
    assert model.size == size == sum(model.parameters_by_slot().values())


def _meta(given: Example) -> Example:
    return Example(*(value.to("meta") if isinstance(value, Tensor) else value for value in vars(given).values()))
