"""A memory budget as lines of text."""

from collections.abc import Iterator

from blockformer.inspection.memory import PRECISIONS, Memory, memory
from registry import Recipe

NOTE = "Counted on a CPU when the backward pass begins; what kernels use in passing and allocators waste comes on top."


def budgets(recipe: Recipe, batch: int, length: int) -> dict[str, Memory]:
    """One for each precision."""
    return {precision: memory(recipe, precision, batch, length) for precision in PRECISIONS}


def text(budget: dict[str, Memory], batch: int, length: int) -> Iterator[str]:
    """A column for each precision, and what is largest in each."""
    rows = [(f"training on {batch:,} x {length:,} tokens", *budget), *_training(list(budget.values()))]
    rows += [("", "", "", ""), ("inference", *budget), *_inference(list(budget.values()), length)]
    wide = max(len(row[0]) for row in rows)
    yield from (f"{name:<{wide}}{''.join(f'{cell:>13}' for cell in cells)}".rstrip() for name, *cells in rows)
    yield ""
    for precision, told in budget.items():
        yield f"largest in {precision}: {', '.join(largest(told))}"
    if any(told.dropout for told in budget.values()):
        sizes = ", ".join(size(told.dropout) for told in budget.values())
        yield f"only for the dropout of attention, which a GPU's fused kernel does without: {sizes}"
    yield NOTE


def _training(columns: list[Memory]) -> Iterator[tuple[str, ...]]:
    for name in ("parameters", "gradients", "optimizer"):
        yield f"  {name}", *(size(getattr(column, name)) for column in columns)
    yield "  activations", *(size(sum(column.activations.values())) for column in columns)
    for slot in dict.fromkeys(slot for column in columns for slot in column.activations):
        yield f"    {slot}", *(size(column.activations.get(slot, 0)) for column in columns)
    yield "  logits", *(size(column.logits) for column in columns)
    yield "  loss", *(size(column.loss) for column in columns)
    yield "  together", *(size(column.training) for column in columns)


def _inference(columns: list[Memory], length: int) -> Iterator[tuple[str, ...]]:
    yield "  parameters", *(size(column.parameters) for column in columns)
    if columns[0].cache is not None:
        yield f"  cache, a sequence of {length:,}", *(size(column.cache or 0) for column in columns)


def largest(told: Memory, count: int = 3) -> list[str]:
    """The largest items of training, with their shares."""
    items = {"parameters": told.parameters, "gradients": told.gradients, "optimizer": told.optimizer}
    items |= {"logits and loss": told.logits + told.loss}
    items |= {f"activations of {slot}": size for slot, size in told.activations.items()}
    ordered = sorted(items.items(), key=lambda item: -item[1])[:count]
    return [f"{name} {share / told.training:.0%}" for name, share in ordered]


def size(numbers: int) -> str:
    """Bytes in the unit in which they are easy to read."""
    value, units = float(numbers), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.3g} {units[0]}"
