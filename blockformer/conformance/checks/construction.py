"""A block is documented, builds on any device, saves and restores its state, and counts parameters and FLOPs."""

import copy
import inspect
import math
import pickle
import re
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from blockformer.conformance.block_case import BlockCase, NotApplicable
from blockformer.conformance.checks.training import gradients_of
from blockformer.conformance.example import EXACT, Example, assert_same, example, hidden, run
from blocks.base import Mixer
from blocks.models.base import Model
from registry import entries, parse


def check_builds_from_its_name(case: BlockCase) -> None:
    """The name alone is a valid recipe, and its canonical form builds the same block."""
    spec = parse(case.slot, case.name)
    assert type(case.construct()) is entries(case.slot)[case.name].block
    again = parse(case.slot, {"type": case.name, **BlockCase(case.slot, case.name).canonical()})
    assert again.hash == spec.hash, "the canonical form has another hash"


def check_builds_on_the_meta_device(case: BlockCase) -> None:
    """Built on the meta device, no tensor has memory, and names and shapes are those of the real block."""
    with torch.device("meta"):
        on_meta = case.construct().state_dict()
    real = case.construct().state_dict()
    assert {name: t.shape for name, t in on_meta.items()} == {name: t.shape for name, t in real.items()}
    allocated = [name for name, tensor in on_meta.items() if not tensor.is_meta]
    assert not allocated, f"built on meta, these tensors have memory: {allocated}; create them on the default device"


def check_registers_every_tensor_as_a_parameter(case: BlockCase) -> None:
    """No tensor is a buffer or a plain attribute: after building on meta, only parameters get their values."""
    block = case.construct()
    strays = [
        f"{path}.{name}".lstrip(".")
        for path, module in cast("Iterator[tuple[str, nn.Module]]", block.named_modules())
        for name, value in vars(module).items()
        if isinstance(value, torch.Tensor)
    ]
    strays += [name for name, _ in block.named_buffers()]
    assert not strays, f"not parameters: {strays}; make them parameters, or compute them in each forward"


def check_computes_the_same_when_built_on_meta(case: BlockCase) -> None:
    """Built on meta, then given memory and values, a block computes the same as one built directly."""
    block = case.build_perturbed()
    with torch.device("meta"):
        late = case.construct()
    late = late.to(torch.float64).to_empty(device="cpu").eval()
    late.load_state_dict(block.state_dict())
    given = example(case)
    assert_same(run(late, given), run(block, given), "built on meta", EXACT)


def check_has_a_docstring(case: BlockCase) -> None:
    """The class has its own docstring."""
    block = entries(case.slot)[case.name].block
    assert inspect.cleandoc(vars(block).get("__doc__") or ""), f"{block.__qualname__} has no docstring"


def check_documents_every_parameter(case: BlockCase) -> None:
    """``Args:`` in the docstring describes every recipe parameter, and no other."""
    entry = entries(case.slot)[case.name]
    missing = [parameter.name for parameter in entry.parameters.values() if not parameter.description]
    assert not missing, f"not described under 'Args:': {', '.join(missing)}"
    _, _, args = inspect.cleandoc(entry.block.__doc__ or "").partition("\nArgs:\n")
    unknown = set(re.findall(r"^    (\w+):", args, flags=re.MULTILINE)) - set(entry.parameters)
    assert not unknown, f"'Args:' describes {sorted(unknown)}, which are not recipe parameters"


def check_cites_its_paper_with_a_year(case: BlockCase) -> None:
    """The attribute ``paper``, if set, gives authors and year."""
    paper = entries(case.slot)[case.name].block.paper
    if not paper:
        raise NotApplicable("the block cites no paper")
    assert re.search(r"\w.*, (19|20)\d\d", paper), f"paper {paper!r} has no year; write 'Authors, year, title'"


def check_restores_its_state_dict(case: BlockCase) -> None:
    """A block that loads the state dict of another computes the same, with ``assign`` false and true."""
    block, given = case.build_perturbed(), example(case)
    if not block.state_dict():
        raise NotApplicable("the block has no state")
    for seed, assign in ((7, False), (8, True)):  # with True, shared tensors must stay shared
        other = case.build_perturbed(seed=seed)
        other.load_state_dict(copy.deepcopy(block.state_dict()), strict=True, assign=assign)
        assert_same(run(other, given), run(block, given), f"after load_state_dict(assign={assign})", EXACT)


def check_parameter_names_do_not_change(case: BlockCase) -> None:
    """The keys of the state dict stay the same after forward, backward, compilation and a change of dtype."""
    block = case.build_perturbed()
    before = list(block.state_dict())
    run(block, example(case))
    block.train()
    gradients_of(block, example(case), again=True)
    cast("Any", block).compile(backend="eager")
    found = list(block.float().state_dict())
    assert found == before, f"keys of the state dict changed: {sorted(set(found) ^ set(before))}"


def check_copies_are_independent(case: BlockCase) -> None:
    """Copies by pickle and by deepcopy compute the same and share no memory with the original."""
    block, given = case.build_perturbed(), example(case)
    expected = run(block, given)
    pickled = pickle.loads(pickle.dumps(block))  # noqa: S301 (our own bytes)
    for how, other in (("pickled", pickled), ("deep-copied", copy.deepcopy(block))):
        assert_same(run(other, given), expected, how, EXACT)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(1.0)
        assert_same(run(block, given), expected, f"after changing the {how} copy", EXACT)


def check_state_dict_has_each_tensor_once(case: BlockCase) -> None:
    """No two keys of the state dict are the same tensor, which some file formats cannot store."""
    seen: dict[int, str] = {}
    if not (state := case.build_perturbed().state_dict()):
        raise NotApplicable("the block has no state")
    for name, tensor in state.items():
        first = seen.setdefault(tensor.data_ptr(), name) if tensor.numel() else name
        assert first == name, f"{first} and {name} are the same tensor"


LENGTH = 6


def check_flops_match_torch(case: BlockCase) -> None:
    """``flops_per_token`` equals the FLOPs that torch counts on the meta device.

    The text is no longer than the narrowest window or chunk, outside which torch counts products too, and the backend
    is eager, because a fused kernel takes a sink as one more key. It is one text, as some work is done once for a whole
    batch.
    """
    # imported here, because it is slow to import
    from torch.utils.flop_counter import FlopCounterMode

    for path in case.keys("backend"):
        case = case.put(path, "eager")
    with torch.device("meta"):
        block = case.construct()
    spans = [span for module in block.modules() if isinstance(module, Mixer) for span in (module.window, module.chunk)]
    length = min([LENGTH, *(span for span in spans if span is not None)])
    given = _meta(example(case, batch=1, length=length, memory_length=length, dtype=torch.float32))
    with FlopCounterMode(display=False) as counter:
        run(block, given)
    declared = block.flops_per_token(length) * given.x.shape[0] * length
    counted = counter.get_total_flops()
    assert math.isclose(declared, counted), f"flops_per_token gives {declared:.0f}, torch counts {counted}"


def check_parameters_by_slot_add_up(case: BlockCase) -> None:
    """The parameter counts of all slots add up to the size of the model, shared parameters counted once."""
    model = case.construct()
    assert isinstance(model, Model)
    size = sum(parameter.numel() for parameter in set(model.parameters()))
    by_slot = sum(model.parameters_by_slot().values())
    assert model.size == size == by_slot, f"{size} parameters; size gives {model.size}, parameters_by_slot {by_slot}"


def check_hidden_states_give_the_logits(case: BlockCase) -> None:
    """The vectors that a forward with ``hidden=True`` returns give the logits through the head, each row by itself."""
    model, given = case.build_perturbed(), example(case)
    assert isinstance(model, Model)
    vectors, logits = hidden(model, given), run(model, given)
    assert_same(model.logits(vectors), logits, "the logits of the hidden states")
    rows = [model.logits(row) for row in vectors.flatten(0, -2).split(2)]
    assert_same(torch.cat(rows).view(logits.shape), logits, "the logits of two rows at a time")


def _meta(given: Example) -> Example:
    return Example(*(value.to("meta") if isinstance(value, Tensor) else value for value in vars(given).values()))


def check_is_deterministic(case: BlockCase) -> None:
    """Two blocks from the same seed give the same values and gradients, to the last bit."""
    given = example(case)
    first, second = case.build_perturbed(), case.build_perturbed()
    assert_same(run(second, given), run(first, given), "a second block from the same seed", EXACT)
    again = gradients_of(second, given)
    for name, gradient in gradients_of(first, given).items():
        assert_same(again[name], gradient, f"the gradient of {name} in a second block", EXACT)
