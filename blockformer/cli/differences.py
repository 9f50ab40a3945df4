"""The differences of two models as lines of text or Markdown."""

from collections.abc import Iterable, Iterator

from blockformer.assembly.recipe_diff import Change
from blockformer.inspection.cost import Cost
from blockformer.training.metadata import flat
from registry import Recipe


def text(a: Recipe, b: Recipe, changes: list[Change], one: Cost, other: Cost) -> Iterator[str]:
    """For a terminal."""
    yield verdict(a, b, changes)
    if a.hash == b.hash:
        return
    for place, found in _by_place(changes):
        yield f"\n{place}"
        wide = max(len(change.key) for change in found)
        for change in found:
            key = f"{change.key}: ".ljust(wide + 2) if change.key else ""
            yield f"  {key}{change.old} -> {change.new}" + (f"  ({change.note})" if change.note else "")
    table = list(figures(one, other))
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    yield ""
    for name, *numbers in table:
        columns = (f"{number:>{width}}" for number, width in zip(numbers, widths[1:], strict=True))
        yield f"{name:<{widths[0]}}  {'  '.join(columns)}".rstrip()


def markdown(a: Recipe, b: Recipe, changes: list[Change], one: Cost, other: Cost) -> Iterator[str]:
    """For a pull request or a page."""
    yield verdict(a, b, changes)
    if a.hash == b.hash:
        return
    if changes:
        yield "\n| where | what | A | B |\n| --- | --- | --- | --- |"
    for place, found in _by_place(changes):
        for change in found:
            note = f" ({change.note})" if change.note else ""
            yield f"| {place} | {change.key or change.slot} | {change.old} | {change.new}{note} |"
    yield "\n| | A | B | change |\n| --- | ---: | ---: | ---: |"
    yield from (f"| {' | '.join(cell.strip() for cell in row)} |" for row in figures(one, other))


def verdict(a: Recipe, b: Recipe, changes: list[Change]) -> str:
    """The first line: the same model, or how many differences."""
    if a.hash == b.hash:
        runtime = _different_keys(a, b)
        computed = f", computed otherwise: {', '.join(runtime)}" if runtime else ""
        return f"{a.name} and {b.name} are the same model{computed} (hash {a.hash[:12]})"
    if not changes:
        keys = ", ".join(_different_keys(a, b))
        return f"{a.name} and {b.name} have the same layers, written so that their hashes differ: {keys}"
    count = f"{len(changes)} differences" if len(changes) > 1 else "one difference"
    return f"{count} from A, {a.name}, to B, {b.name}"


def _different_keys(a: Recipe, b: Recipe) -> list[str]:
    there, here = flat(a.dump()), flat(b.dump())
    return [key for key in {**there, **here} if there.get(key) != here.get(key)]


def _by_place(changes: list[Change]) -> Iterator[tuple[str, list[Change]]]:
    """What differs in the same block under one heading."""
    groups: dict[str, list[Change]] = {}
    for change in changes:
        places = "; ".join(place or "model" for place in change.places)
        block = f" ({change.block})" if change.key else ""
        groups.setdefault(f"{places}{block}", []).append(change)
    yield from groups.items()


def figures(one: Cost, other: Cost) -> Iterator[tuple[str, str, str, str]]:
    """Rows of name, A, B and the change."""
    yield "", "A", "B", "change"
    yield _row("parameters", one.parameters, other.parameters)
    for slot in dict.fromkeys((*one.by_slot, *other.by_slot)):
        yield _row(f"  {slot}", one.by_slot.get(slot, 0), other.by_slot.get(slot, 0))
    yield _row(f"FLOPs per token at {one.length:,}", one.flops_per_token, other.flops_per_token)
    for name, size in (("bf16", 2), ("fp32", 4)):
        per_token = [None if cost.cached_per_token is None else cost.cached_per_token * size for cost in (one, other)]
        yield from _cache(f"cache bytes per token, {name}", *per_token)
    for name in ("bf16", "fp32"):
        yield from _cache(f"cache bytes at {one.length:,}, {name}", one.cached.get(name), other.cached.get(name))


def _cache(name: str, a: int | None, b: int | None) -> Iterable[tuple[str, str, str, str]]:
    return [] if a is None and b is None else [_row(name, a, b)]


def _row(name: str, a: float | None, b: float | None) -> tuple[str, str, str, str]:
    if a is None or b is None:
        there, here = ("none" if value is None else f"{value:,.0f}" for value in (a, b))
        return name, there, here, ""
    change = "" if a == b else f"{b - a:+,.0f}" + (f" ({b / a - 1:+.1%})" if a else "")
    return name, f"{a:,.0f}", f"{b:,.0f}", change
