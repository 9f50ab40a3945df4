"""Inputs that a block cannot process are refused with a message, not processed wrongly."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from blockformer.conformance.block_case import DIM, MAX_LENGTH, BlockCase, NotApplicable
from blockformer.conformance.example import example, memory_of, new_cache, run
from registry import entries


def check_refuses_masks_of_another_shape(case: BlockCase) -> None:
    """A padding mask or documents whose shape differs from the tokens' are refused, with both shapes."""
    block, given = case.build_perturbed(), example(case)
    wrong = torch.ones(2, 3, dtype=torch.bool)
    assert_refused(lambda: run(block, replace(given, mask=wrong)), "(2, 3)", "(2, 5)")
    if given.memory is None:
        assert_refused(lambda: run(block, replace(given, documents=wrong.long())), "(2, 3)", "(2, 5)")


def check_refuses_float_masks(case: BlockCase) -> None:
    """An additive mask of 0 and -inf is refused: taken as booleans it would have the opposite meaning."""
    block, given = case.build_perturbed(), example(case)
    assert_refused(lambda: run(block, replace(given, mask=torch.zeros(given.x.shape[:2]))), "attention_mask", "float32")


def check_declares_the_positions_that_it_applies(case: BlockCase) -> None:
    """A block that takes positions says which kinds of them it applies: a recipe with others is refused."""
    entry = entries(case.slot)[case.name]
    taken = [name for name, parameter in entry.parameters.items() if parameter.slot == "attention_positions"]
    if not taken:
        raise NotApplicable("the block takes no positions")
    assert entry.block.capabilities.positions, (
        f"it takes {taken[0]}, and its capabilities name no kind of them; add those of "
        "positions=frozenset({'rotation', 'bias'}) that it applies"
    )


def check_refuses_another_width(case: BlockCase) -> None:
    """Vectors of another width than ``dim`` are refused with the number, or keep their width; never broadcast."""
    block, given = case.build_perturbed(), example(case)
    for width in (1, DIM // 2, DIM + 8):
        x = given.x[..., :1].expand(*given.x.shape[:-1], width)
        result = output_or_error(lambda x=x: run(block, replace(given, x=x)), RuntimeError)  # torch names the shapes
        if isinstance(result, str):
            has_number = str(DIM) in result or str(width) in result
            assert has_number, f"the error for vectors of {width} channels does not mention the width: {result}"
        else:
            assert result.shape == x.shape, f"vectors of {width} channels gave {tuple(result.shape)}"


def check_refuses_documents_with_a_cache(case: BlockCase) -> None:
    """Packed documents are refused in decoding, which continues one text per row."""
    block, given = case.build_perturbed(), example(case)
    documents = torch.zeros(given.x.shape[:2], dtype=torch.long)
    assert_refused(lambda: run(block, replace(given, documents=documents), new_cache(block)), "documents", "cache")


def check_refuses_missing_memory(case: BlockCase) -> None:
    """A cross-attending block without memory is refused."""
    block, given = case.build_perturbed(), example(case)
    assert_refused(lambda: run(block, replace(given, memory=None)), "memory")


def check_refuses_memory_of_another_batch_size(case: BlockCase) -> None:
    """Memory with more or fewer rows than the batch is refused, not broadcast."""
    block, given = case.build_perturbed(), example(case)
    for rows in (1, 3):
        memory = memory_of(example(case, seed=1, batch=3))[:rows]
        assert_refused(lambda memory=memory: run(block, replace(given, memory=memory)), "memory", str(rows))


def check_refuses_padding(case: BlockCase) -> None:
    """Without the capability ``padding``, a padding mask is refused."""
    block, given = case.build_perturbed(), example(case)
    masked = replace(given, mask=torch.ones(given.x.shape[:2], dtype=torch.bool))
    if case.slot == "model" and given.memory is not None:  # the block without the capability may be in either stack
        masked = replace(masked, memory_mask=torch.ones(given.memory.shape[:2], dtype=torch.bool))
    assert_refused(lambda: run(block, masked), "padding")


def check_refuses_documents(case: BlockCase) -> None:
    """Without the capability ``documents``, packed documents are refused."""
    block, given = case.build_perturbed(), example(case)
    documents = torch.zeros(given.x.shape[:2], dtype=torch.long)
    assert_refused(lambda: run(block, replace(given, documents=documents)), "documents")


def check_refuses_a_prefix(case: BlockCase) -> None:
    """Without the capability ``prefix``, a prefix is refused."""
    block, given = case.build_perturbed(), example(case)
    prefix = torch.ones(given.x.shape[:2], dtype=torch.bool)
    assert_refused(lambda: run(block, replace(given, prefix=prefix)), "prefix")


def check_refuses_a_cache(case: BlockCase) -> None:
    """Without the capability ``cache``, decoding with a cache is refused."""
    block, given = case.build_perturbed(), example(case)
    assert_refused(lambda: run(block, given, new_cache(block)), "cache")


def check_refuses_more_than_max_length(case: BlockCase) -> None:
    """Without the capability ``any_length``, a text longer than ``max_length`` is refused, with both numbers."""
    block, longer = case.build_perturbed(), example(case, length=MAX_LENGTH + 1, memory_length=MAX_LENGTH + 1)
    assert_refused(lambda: run(block, longer), str(MAX_LENGTH), str(MAX_LENGTH + 1))


def assert_refused(call: Callable[[], Tensor], *words: str) -> None:
    """Assert that a call raises ValueError with all of ``words`` in its message."""
    result = output_or_error(call)
    assert isinstance(result, str), f"accepted; expected a ValueError that mentions {', '.join(words)}"
    missing = [word for word in words if word not in result]
    assert not missing, f"the error does not mention {', '.join(missing)}: {result}"


def output_or_error(call: Callable[[], Tensor], *others: type[Exception]) -> Tensor | str:
    """The result of a call, or the message of the ValueError (or one of ``others``) that it raised."""
    try:
        return call()
    except (ValueError, *others) as error:
        return str(error)
