"""`blockformer diff`: the differences of two models in blocks, parameters, FLOPs and cache."""

import os.path
import re
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blockformer.cli.parser import KeyValues, Parser, add_format, positive
from blockformer.errors import UserError
from blockformer.files import as_json

if TYPE_CHECKING:
    from blockformer.assembly.recipe_diff import Change
    from blockformer.inspection.cost import Cost
    from registry import Recipe

EPILOG = """\
A and B are recipe files, names of built-in recipes, folders of runs or imports, or checkpoints. KEY=VALUE changes B;
without B, A with these changes is compared with A:
  blockformer diff gpt2 llama3_8b
  blockformer diff gpt2 decoder.layer.mixer.kv_heads=1
  blockformer diff runs/base/checkpoints/best.ckpt mine.yaml --set-a decoder.depth=2
  blockformer diff runs/base runs/wide      also compares the data, settings, versions and figures of the two runs

`blockformer show --help` defines FLOPs and cache. Settings that choose only an implementation, such as backend, are not
counted as differences. Exit status: 0, whether the models differ or not; 2 if an argument is wrong."""
KEY = r"\w+|\"[^\"]*\"|'[^']*'"
OVERRIDE = re.compile(rf"[A-Za-z_]\w*(\.({KEY}))*=.*", re.S)


def main(arguments: Sequence[str]) -> int:
    """Print what differs, as text, JSON or Markdown."""
    parser = _parser()
    options = parser.parse_intermixed_args(arguments)
    a, b, sources = _recipes(options)
    runs = _runs(sources)
    from blockformer import assembly
    from blockformer.assembly.recipe_diff import compare
    from blockformer.inspection.cost import cost

    models = assembly.check(a), assembly.check(b)
    longest = min(model.length_limit[1] for model in models)
    length = options.length or longest
    if length > longest:
        raise UserError(f"--length {length} is above the smaller max_length of the two models: {longest} tokens")
    changes = compare(*models)
    costs = [cost(model, length) for model in models]
    if options.format == "json":
        facts: dict[str, Any] = {"same": a.hash == b.hash, "changes": [asdict(change) for change in changes]}
        sides = zip("ab", (a, b), costs, strict=True)
        facts |= {side: {"name": recipe.name, "hash": recipe.hash, **asdict(one)} for side, recipe, one in sides}
        facts |= {name: [dict(zip(("key", "a", "b"), row, strict=True)) for row in rows] for name, rows in runs.items()}
        print(as_json(facts, indent=2))
    else:
        write = markdown if options.format == "markdown" else text
        print("\n".join((*write(a, b, changes, *costs), *_of_runs(runs, options.format == "markdown"))))
    return 0


def _runs(sources: Sequence[str]) -> dict[str, list[tuple[str, Any, Any]]]:
    """Where two runs differ beside their models; nothing if a source is no run's folder, or both are the same."""
    from blockformer.training.run_list import FACTS, run_differences

    a, b = map(Path, sources)
    if a == b or not all(os.path.isfile(path / FACTS) for path in (a, b)):  # noqa: PTH113 (a long text is no path, and no error)
        return {}
    return run_differences(a, b)


def _of_runs(runs: dict[str, list[tuple[str, Any, Any]]], table: bool) -> Iterator[str]:
    """Lines on the data, settings, versions and figures of two runs."""
    from registry.text import as_yaml, printable

    for name, rows in runs.items():
        if rows:
            yield f"\n| {name} | A | B |\n| --- | --- | --- |" if table else f"\n{name}"
        for key, *values in rows:
            rounded = (float(f"{value:.5g}") if isinstance(value, float) else value for value in values)
            old, new = (printable(as_yaml(value)) for value in rounded)
            yield f"| {printable(key)} | {old} | {new} |" if table else f"  {printable(key)}: {old} -> {new}"
    if same := [name for name, rows in runs.items() if not rows]:
        yield f"\nthe same {', '.join(same)}"


def _recipes(options: Namespace) -> "tuple[Recipe, Recipe, tuple[str, str]]":
    """The two recipes, and what they were named as."""
    rest = list(options.rest)
    second = options.a
    if rest and (not OVERRIDE.fullmatch(rest[0]) or os.path.exists(rest[0])):  # noqa: PTH110 (a long text is no path, and no error)
        second = rest.pop(0)
    if wrong := next((text for text in rest if not OVERRIDE.fullmatch(text)), None):
        raise UserError(f"{wrong!r}: must have the form KEY=VALUE; only changes can follow two recipes")
    import blocks  # noqa: F401  (registers what recipes name)

    one, other = _named(options.a, [*options.both, *options.a_only]), _named(second, [*options.both, *rest])
    return one, other, (options.a, second)


def _named(source: str, overrides: list[str]) -> "Recipe":
    """A recipe whose name lists the changes."""
    from blockformer.cli.recipe_source import recipe_of
    from registry.text import shortened

    name = f"{source} with {', '.join(overrides)}" if overrides else source
    return replace(recipe_of(source, overrides), name=shortened(name))


def text(a: "Recipe", b: "Recipe", changes: "list[Change]", one: "Cost", other: "Cost") -> Iterator[str]:
    """Lines for a terminal."""
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


def markdown(a: "Recipe", b: "Recipe", changes: "list[Change]", one: "Cost", other: "Cost") -> Iterator[str]:
    """Lines of Markdown."""
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


def verdict(a: "Recipe", b: "Recipe", changes: "list[Change]") -> str:
    """The first line: the same model, or how many differences."""
    if a.hash == b.hash:
        runtime = _different_keys(a, b)
        computed = f", implemented differently: {', '.join(runtime)}" if runtime else ""
        return f"{a.name} and {b.name} are the same model{computed} (hash {a.hash[:12]})"
    if not changes:
        keys = ", ".join(_different_keys(a, b))
        return f"{a.name} and {b.name} have the same layers, but different hashes, because of {keys}"
    count = f"{len(changes)} differences" if len(changes) > 1 else "one difference"
    return f"{count} from A, {a.name}, to B, {b.name}"


def _different_keys(a: "Recipe", b: "Recipe") -> list[str]:
    from registry.merge import flat

    there, here = flat(a.dump()), flat(b.dump())
    return [key for key in {**there, **here} if there.get(key) != here.get(key)]


def _by_place(changes: "list[Change]") -> "Iterator[tuple[str, list[Change]]]":
    """Changes grouped by place and block."""
    groups: dict[str, list[Change]] = {}
    for change in changes:
        places = "; ".join(place or "model" for place in change.places)
        block = f" ({change.block})" if change.key else ""
        groups.setdefault(f"{places}{block}", []).append(change)
    yield from groups.items()


def figures(one: "Cost", other: "Cost") -> Iterator[tuple[str, str, str, str]]:
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


def _parser() -> Parser:
    parser = Parser(
        prog="blockformer diff",
        usage="blockformer diff A [B] [KEY=VALUE ...] [options]",
        description="Compare two models: the block in each place, its settings, parameters, FLOPs and cache.",
        epilog=EPILOG,
    )
    parser.add_argument("a", metavar="A", help="a recipe, a run, an import or a checkpoint")
    parser.add_argument("rest", metavar="B KEY=VALUE", nargs="*", help="another one (default: A), and changes to it")
    for option, place, which in (("--set", "both", "both recipes"), ("--set-a", "a_only", "A only")):
        text = f"change {which}; may be repeated"
        parser.add_argument(option, dest=place, metavar="KEY=VALUE", action=KeyValues, default=[], help=text)
    parser.add_argument(
        "--length", type=positive, metavar="T", help="tokens in a sequence; default: the smaller max_length"
    )
    add_format(parser, "text", "json", "markdown")
    return parser
