"""Shapes, dtypes, and the smallest inputs."""

import torch

from blockformer.conformance.comparing import COARSE, assert_same
from blockformer.conformance.example import Example, example
from blockformer.conformance.running import run
from blockformer.conformance.subject import DIM, EXPERTS, VOCABULARY, Subject


def check_keeps_the_shape(subject: Subject) -> None:
    """(B, T, D) comes out, or (B, T, V) of what gives logits, or (B, T, E) of what weighs experts."""
    width = {"head": VOCABULARY, "model": VOCABULARY, "router": EXPERTS}.get(subject.slot, DIM)
    shape = tuple(run(subject.build(), example(subject)).shape)
    assert shape == (2, 5, width), f"out came {shape}, not {(2, 5, width)}"


def check_keeps_the_dtype(subject: Subject) -> None:
    """What comes out has the precision of the parameters."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        found = run(subject.build(dtype), example(subject, dtype=dtype)).dtype
        assert found == dtype, f"{dtype} went in, {found} came out"


def check_is_precise_in_float32(subject: Subject) -> None:
    """In float32 it computes what it does in float64."""
    exact = run(subject.build(), example(subject))
    single = run(subject.build(torch.float32), example(subject, dtype=torch.float32))
    assert_same(single, exact, "float32 against float64", 10 * COARSE)


def check_works_in_bfloat16(subject: Subject) -> None:
    """In bfloat16, by its parameters or by autocast, it computes about what it does in float64.

    How much rounding matters to a block is measured by rounding its parameters alone.
    """
    given = example(subject)
    exact = run(subject.build(), given)
    rounded = subject.build().to(torch.bfloat16).to(torch.float64)
    sensitive = float((run(rounded, given) - exact).detach().abs().max() / exact.detach().abs().max().clamp(min=1e-9))
    half = run(subject.build(torch.bfloat16), example(subject, dtype=torch.bfloat16))
    assert_same(half, exact, "bfloat16 against float64", 0.1 + 4 * sensitive)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = run(subject.build(torch.float32), example(subject, dtype=torch.float32))
    assert_same(mixed, exact, "autocast against float64", 0.1 + 4 * sensitive)


def check_takes_one_token(subject: Subject) -> None:
    """A single token gives what it gives as the start of a longer text, if later ones are hidden, and finite values."""
    block, given = subject.build(), example(subject)
    alone = run(block, given.span(0, 1))
    assert bool(torch.isfinite(alone).all()), "a single token gives values that are not finite"
    if subject.place != "bidirectional":
        assert_same(alone, run(block, given)[:, :1], "one token alone")


def check_takes_nothing(subject: Subject) -> None:
    """No tokens, or no rows, give none."""
    block, given = subject.build(), example(subject)
    whole = run(block, given)
    for name, none in (("tokens", given.span(0, 0)), ("rows", given.rows([]))):
        batch, length = none.x.shape[:2]
        shape = tuple(run(block, none).shape)
        assert shape == (batch, length, *whole.shape[2:]), f"without {name}, out came {shape}"


def check_leaves_its_inputs_alone(subject: Subject) -> None:
    """Neither inputs nor masks are written to."""
    block, given = subject.build(), example(subject)
    if block.allows("padding"):
        given = given.padded(1, 1, example(subject, seed=1))
    if subject.place == "cross" and given.memory is not None:
        mask = torch.ones(given.memory.shape[:2], dtype=torch.bool)
        given = Example(given.x, given.mask, None, given.memory, mask)
    tensors = [tensor for tensor in vars(given).values() if isinstance(tensor, torch.Tensor)]
    copies = [tensor.clone() for tensor in tensors]
    run(block, given)
    assert all(torch.equal(one, other) for one, other in zip(tensors, copies, strict=True)), "an input was changed"
