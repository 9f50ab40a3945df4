"""`blockformer plan`: which strategies fit on some devices, what each device holds, and how long a step takes."""

import re
from argparse import ArgumentTypeError
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from blockformer.cli.parser import Parser, add_format, add_overrides, positive
from blockformer.cli.show import size
from blockformer.errors import UserError
from blockformer.files import as_json

if TYPE_CHECKING:
    from blockformer.inspection.device_plan import DevicePlan, Need

DESCRIPTION = """\
List the strategies of `blockformer fit` on some devices: the memory that each device needs, by part, whether it has
that, and the least change with which it has. (`blockformer compare --plan` lists the runs of a study.)"""
NOTE = (
    "At the start of the backward pass. {spare:.0%} of each device is left for its context, temporary memory of "
    "kernels and fragments. `exchange`: gathered layers (fsdp2) or buckets (ddp); `sent`: by each device in a step."
)
DEVICES = {"b200": (2250e12, 80e12), "h200": (989e12, 67e12), "h100": (989e12, 67e12), "a100": (312e12, 19.5e12)}
"""Peak operations per second of dense products in bfloat16 and in float32, as the maker states them."""
SHARES = (0.25, 0.5)
"""Of the peak, in training: 22 to 53 % on one H200 (docs/scaling.md, Speed on a GPU)."""
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
PARTS = ("parameters", "gradients", "optimizer", "activations", "logits", "exchange")


def main(arguments: Sequence[str]) -> int:
    """Print the table, or JSON. Returns 0, whether something fits or not.

    Raises:
        UserError: the batch or the length cannot be.
    """
    options = _parser().parse_args(arguments)
    from blockformer.cli.recipe_source import recipe_of  # imported late: --help then needs no torch and no pydantic
    from blockformer.inspection.device_plan import SPARE, DevicePlan

    recipe = recipe_of(options.recipe, options.overrides)
    plan = DevicePlan(
        recipe,
        options.precision,
        options.length,
        fused=options.device != "cpu",
        checkpointing=options.checkpointing,
        tokens=options.sequence_parallel,
    )
    name, longest = plan.model.length_limit
    if plan.length > longest:
        raise UserError(f"--length {plan.length} is above the model's {name} of {longest} tokens")
    batch = options.batch or 8 * options.devices
    available = int(options.memory * (1 - SPARE))
    needs = [plan.need(layout, batch) for layout in plan.layouts(options.devices)]
    peak = _peak(options.device, options.precision)
    if options.format == "json":
        print(as_json(_facts(plan, needs, batch, options.devices, available, peak), indent=2))
        return 0
    tokens = f"{batch:,} x {plan.length:,} tokens"
    on = f"{options.devices} device{'s' * (options.devices > 1)}"
    print(f"{recipe.name}: {plan.model.size:,} parameters, {options.precision}, {tokens} a step on {on}")
    print(f"each has {size(options.memory)}, of which {size(available)} are for this\n")
    print("\n".join(_table(needs, available)))
    print()
    for need in needs:
        if need.refused is not None:
            print(f"{need.layout}: is not possible: {need.refused}")
        elif need.total > available:
            print(f"{need.layout}: {_remedy(plan, need, batch, available)}")
    if all(need.refused is not None or need.total > available for need in needs):
        print(_more(plan, options.devices, on, batch, available))
    print(_time(plan, batch, options.devices, options.device, peak))
    print(NOTE.format(spare=SPARE))
    return 0


def _table(needs: "Sequence[Need]", available: int) -> Iterator[str]:
    """A row for each layout."""
    rows = [["strategy", "rows", *PARTS, "total", "fits", "sent"]]
    for need in needs:
        if need.refused is None:
            parts = [size(getattr(need, part)) for part in PARTS]
            fits = "yes" if need.total <= available else "no"
            rows.append([str(need.layout), f"{need.rows:,}", *parts, size(need.total), fits, size(need.sent)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for first, *others in rows:
        cells = (f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True))
        yield f"{first:<{widths[0]}}  {'  '.join(cells)}".rstrip()


def _remedy(plan: "DevicePlan", need: "Need", batch: int, available: int) -> str:
    """The options with which a layout fits, or else the part of the batch with which it does."""
    for words, other in _changes(plan, split=need.layout.tensor > 1):
        total = other.need(need.layout, batch).total
        if total <= available:
            return f"does not fit; fits with {words} ({size(total)})"
    found = plan.smaller_batch(need.layout, batch, available)
    if found is None:
        return "does not fit with any batch"
    part = found.rows * need.layout.data
    return (
        f"does not fit; fits with --data.batch_size {part} --trainer.accumulate_grad_batches {batch // part}, "
        f"the same step ({size(found.total)})"
    )


def _changes(plan: "DevicePlan", *, split: bool) -> "Iterator[tuple[str, DevicePlan]]":
    """Options of `fit` that take less memory, each with the plan; ``split``: devices split layers."""
    tokens = "sequence_parallel: true"
    if split and not plan.tokens:
        yield tokens, plan.but(plan.checkpointing, tokens=True)
    if plan.checkpointing == "none":
        yield "--model.checkpointing selective", plan.but("selective", tokens=plan.tokens)
        yield "--model.checkpointing layer", plan.but("layer", tokens=plan.tokens)
        if split and not plan.tokens:
            yield f"--model.checkpointing layer and {tokens}", plan.but("layer", tokens=True)


def _more(plan: "DevicePlan", devices: int, on: str, batch: int, available: int) -> str:
    found = plan.more_devices(devices, batch, available)
    if found is None:
        return "nothing fits with this batch, nor on more devices that divide it: take a smaller batch or length"
    count, need = found
    return f"nothing fits with these options on {on}; on {count} {need.layout} does ({size(need.total)} each)"


def _peak(device: str, precision: str) -> float:
    """Operations per second of a device: as its maker states them, or as products of matrices take here."""
    if device != "cpu":
        return DEVICES[device][precision == "fp32"]
    import torch

    from blockformer.training.device_peak import compute_dtype, peak_flops

    return peak_flops(torch.device("cpu"), compute_dtype(precision))


def _time(plan: "DevicePlan", batch: int, devices: int, device: str, peak: float) -> str:
    from blockformer.inspection.device_plan import step_seconds

    least, *usual = (step_seconds(plan, batch, devices, peak, share) for share in (1.0, *reversed(SHARES)))
    low, high = SHARES
    source, shares = ("measured here", "") if device == "cpu" else ("its maker's", ", as measured on one H200")
    return (
        f"a step: {least:.3g} s at the peak of {peak / 1e12:.3g} TFLOP/s ({source}); {usual[0]:.3g} to {usual[1]:.3g} "
        f"s at {low:.0%} to {high:.0%} of it{shares}; what is sent comes on top where it is not hidden"
    )


def _facts(
    plan: "DevicePlan", needs: "Sequence[Need]", batch: int, devices: int, available: int, peak: float
) -> dict[str, object]:
    from dataclasses import asdict

    from blockformer.inspection.device_plan import step_seconds

    rows = [
        asdict(need)
        | {"name": str(need.layout), "total": need.total, "fits": need.refused is None and need.total <= available}
        for need in needs
    ]
    seconds = {f"{share:g}": step_seconds(plan, batch, devices, peak, share) for share in (1.0, *SHARES)}
    return {
        "recipe": plan.recipe.name,
        "batch": batch,
        "length": plan.length,
        "devices": devices,
        "available": available,
        "peak_flops": peak,
        "seconds_at_share_of_peak": seconds,
        "layouts": rows,
    }


def _bytes(text: str) -> int:
    """A size such as 80GB or 141GiB, for ``type=``."""
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?) ?([KMGT]?I?)B", text.strip().upper())
    if found is None or found[2] not in UNITS or not float(found[1]):
        raise ArgumentTypeError(f"must be a size such as 80GB or 24GiB, not {text[:40]!r}")
    return int(float(found[1]) * UNITS[found[2]])


def _devices(text: str) -> int:
    count = positive(text)
    if count > 65536:
        raise ArgumentTypeError(f"must be at most 65536, not {text}")
    return count


def _parser() -> Parser:
    parser = Parser(prog="blockformer plan", description=DESCRIPTION)
    parser.add_argument("recipe", metavar="RECIPE", help="a file, a built-in recipe, a run, an import or a checkpoint")
    add_overrides(parser)
    add = parser.add_argument
    add("--devices", type=_devices, default=1, metavar="N", help="number of devices; default: 1")
    add("--device", choices=(*DEVICES, "cpu"), default="h100", help="what they are, for the time; default: h100")
    add("--memory", type=_bytes, default=_bytes("80GB"), metavar="SIZE", help="of each device; default: 80GB")
    add("--batch", type=positive, metavar="B", help="sequences in a batch over all devices; default: 8 for each")
    add("--length", type=positive, metavar="T", help="tokens in a sequence; default: max_length")
    add(
        "--precision",
        choices=("fp32", "bf16-mixed", "bf16-true"),
        default="bf16-mixed",
        help="of the training; default: bf16-mixed",
    )
    add(
        "--checkpointing",
        choices=("none", "layer", "selective"),
        default="none",
        help="what layers compute again, as --model.checkpointing of fit; default: none",
    )
    add(
        "--sequence-parallel",
        action="store_true",
        help="devices that split layers keep only their part of the tokens between sublayers",
    )
    add_format(parser, "text", "json")
    return parser
