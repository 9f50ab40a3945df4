"""Shapes, dtypes, precision, and inputs of unusual length."""

from typing import cast

import torch

from blockformer.conformance.block_case import (
    DIM,
    EXPERTS,
    HEADS,
    MAX_LENGTH,
    VOCABULARY,
    BlockCase,
    NotApplicable,
    perturbed,
)
from blockformer.conformance.example import COARSE, Example, assert_same, example, run
from blocks.base import Component, Head, Norm


def check_returns_the_expected_shape(case: BlockCase) -> None:
    """The output is (B, T, D); (B, T, V) of logits; (B, T, E) of experts; of N values (B, N) or (B, T, N)."""
    block = case.build_perturbed()
    width = {"head": VOCABULARY, "model": VOCABULARY, "generator": VOCABULARY, "router": EXPERTS}.get(case.slot, DIM)
    sizes = [head.values for head in block.modules() if isinstance(head, Head) and (head.pooled or head.per_token)]
    expected = (2, *([] if case.pools else [5]), *(sizes or [width]))
    shape = tuple(run(block, example(case)).shape)
    assert shape == expected, f"the output has shape {shape}, not {expected}"


def check_normalises_each_head_with_its_own_weights(case: BlockCase) -> None:
    """At a site with heads, inputs are (B, T, H, D / H); no head affects another, and no two have the same weights."""
    site = case.site.resized(DIM // HEADS, HEADS)
    norm = cast("Norm", perturbed(cast("Component", case.spec(site)).to(torch.float64)))
    given = example(case).x.unflatten(-1, (HEADS, DIM // HEADS))
    found = norm(given)
    assert found.shape == given.shape, f"{tuple(given.shape)} becomes {tuple(found.shape)} at a site with heads"
    changed = given.clone()
    changed[:, :, 0] = given[:, :, 1]
    after = norm(changed)
    assert_same(after[:, :, 1:], found[:, :, 1:], "another head")
    if not list(norm.parameters()):
        raise NotApplicable("the norm has no parameters")
    shared = torch.allclose(after[:, :, 0], after[:, :, 1])
    assert not shared, "all heads have the same weights; at a site with heads, make them (site.heads, site.dim)"


def check_returns_the_input_dtype(case: BlockCase) -> None:
    """The output has the dtype of inputs and parameters."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        found = run(case.build_perturbed(dtype), example(case, dtype=dtype)).dtype
        assert found == dtype, f"inputs are {dtype}, the output is {found}"


def check_float32_matches_float64(case: BlockCase) -> None:
    """float32 gives the values of float64 within 1e-4."""
    exact = run(case.build_perturbed(), example(case))
    single = run(case.build_perturbed(torch.float32), example(case, dtype=torch.float32))
    assert_same(single, exact, "float32 against float64", 10 * COARSE)


def check_bfloat16_matches_float64(case: BlockCase) -> None:
    """bfloat16 parameters and autocast give the values of float64 within 10 %.

    The tolerance grows with the error that rounding only the parameters causes.
    """
    given = example(case)
    exact = run(case.build_perturbed(), given)
    rounded = case.build_perturbed().to(torch.bfloat16).to(torch.float64)
    sensitive = float((run(rounded, given) - exact).detach().abs().max() / exact.detach().abs().max().clamp(min=1e-9))
    half = run(case.build_perturbed(torch.bfloat16), example(case, dtype=torch.bfloat16))
    assert_same(half, exact, "bfloat16 against float64", 0.1 + 4 * sensitive)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = run(case.build_perturbed(torch.float32), example(case, dtype=torch.float32))
    assert_same(mixed, exact, "autocast against float64", 0.1 + 4 * sensitive)


def check_accepts_one_token(case: BlockCase) -> None:
    """A single token gives finite values; in a causal block, those of the first token of a longer text, if any."""
    block, given = case.build_perturbed(), example(case)
    alone = run(block, given.span(0, 1))
    assert bool(torch.isfinite(alone).all()), "a single token gives values that are not finite"
    if case.place != "bidirectional" and not case.pools:
        assert_same(alone, run(block, given)[:, :1], "one token alone")


def check_accepts_empty_inputs(case: BlockCase) -> None:
    """A batch without tokens or without rows gives an empty output; what pools needs tokens."""
    block, given = case.build_perturbed(), example(case)
    whole = run(block, given)
    empty = {"rows": given.rows([])} | ({} if case.pools else {"tokens": given.span(0, 0)})
    for name, none in empty.items():
        expected = none.x.shape[: 1 if case.pools else 2] + whole.shape[1 if case.pools else 2 :]
        shape = tuple(run(block, none).shape)
        assert shape == tuple(expected), f"without {name}, the output has shape {shape}"


def check_does_not_modify_its_inputs(case: BlockCase) -> None:
    """Inputs and masks are not written to."""
    block, given = case.build_perturbed(), example(case)
    if block.allows("padding"):
        given = given.padded(1, 1, example(case, seed=1))
    if case.place == "cross" and given.memory is not None:
        mask = torch.ones(given.memory.shape[:2], dtype=torch.bool)
        given = Example(given.x, given.mask, memory=given.memory, memory_mask=mask)
    tensors = [tensor for tensor in vars(given).values() if isinstance(tensor, torch.Tensor)]
    copies = [tensor.clone() for tensor in tensors]
    run(block, given)
    assert all(torch.equal(one, other) for one, other in zip(tensors, copies, strict=True)), (
        "an input was written to; do not use in-place operations on inputs"
    )


def check_accepts_max_length(case: BlockCase) -> None:
    """A text of ``max_length`` tokens gives finite values."""
    y = run(case.build_perturbed(), example(case, length=MAX_LENGTH))
    assert bool(torch.isfinite(y).all()), f"{MAX_LENGTH} tokens give values that are not finite"


def check_accepts_more_than_max_length(case: BlockCase) -> None:
    """With the capability ``any_length``, a text longer than ``max_length`` gives finite values."""
    y = run(case.build_perturbed(), example(case, length=2 * MAX_LENGTH))
    assert bool(torch.isfinite(y).all()), f"{2 * MAX_LENGTH} tokens give values that are not finite"
