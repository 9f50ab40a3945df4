"""`blockformer blocks`: the slots, and the blocks that recipes can name in them."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from textwrap import fill
from typing import TYPE_CHECKING

from blockformer.cli.parser import Parser, add_format

if TYPE_CHECKING:
    from registry.schema import DescribedBlock

WIDTH = 110


def main(arguments: Sequence[str]) -> int:
    """Print the slots, the blocks of one slot, or one block."""
    parser = _parser()
    options = parser.parse_args(arguments)
    import blockformer.cli.components  # noqa: F401
    import blocks  # noqa: F401  (importing registers; imported late: --help then needs no torch)
    from registry.schema import catalogue

    known = catalogue()
    slot, _, name = (options.place or "").partition("/")
    if options.place is not None and slot not in known:
        homes = [home for home, found in known.items() if any(block.name == options.place for block in found)]
        if homes:
            commands = " or ".join(f"`blockformer blocks {home}/{slot}`" for home in homes)
            parser.error(f"{slot!r} is not a slot but a block: {commands}")
        parser.error(_unknown("slot", slot, known))
    chosen = known.get(slot, [])
    if name:
        chosen = [block for block in chosen if block.name == name]
        if not chosen:
            parser.error(_unknown(slot, name, [block.name for block in known[slot]]))
    if options.format == "json":
        print(json.dumps(_plain(known, slot, chosen if name else None), indent=2))
    else:
        print("\n".join(_block(chosen[0]) if name else _blocks(slot, chosen) if slot else _slots(known)))
    return 0


def _plain(known: "dict[str, list[DescribedBlock]]", slot: str, one: "list[DescribedBlock] | None") -> object:
    """For JSON: one block, or slots with their meaning and blocks."""
    from registry import slot_named

    if one:
        return asdict(one[0])
    chosen = {slot: known[slot]} if slot else known
    return {
        key: {"meaning": slot_named(key).description, "blocks": list(map(asdict, found))}
        for key, found in chosen.items()
    }


def _slots(known: "dict[str, list[DescribedBlock]]") -> Iterator[str]:
    from registry import slot_named

    width = max(map(len, known))
    for slot, found in known.items():
        yield f"{slot:<{width}}  {slot_named(slot).description}"
        yield f"{'':<{width}}  {', '.join(block.name for block in found)}"
    yield "\n`blockformer blocks SLOT` lists the blocks of a slot, `blockformer blocks SLOT/NAME` explains one."


def _blocks(slot: str, found: "list[DescribedBlock]") -> Iterator[str]:
    from registry import slot_named
    from registry.schema import keys_of

    yield f"{slot}: {slot_named(slot).description}"
    if option := slot_named(slot).option:
        group = option.rpartition(".")[0]
        yield f"Chosen with `--{option} NAME`; its parameters are options too: `--{group}.PARAMETER`."
    if keys := keys_of(slot):
        yield f"Written under {' or '.join(f'`{key}:`' for key in keys)}."
    width = max(len(block.name) for block in found)
    yield ""
    yield from (f"{block.name:<{width}}  {block.summary}" for block in found)


def _block(block: "DescribedBlock") -> Iterator[str]:
    from registry.text import as_yaml

    yield f"{block.slot}/{block.name}"
    yield ""
    yield from (fill(text, WIDTH) for text in (block.summary, block.details) if text)
    if block.paper:
        yield fill(f"Source: {block.paper}", WIDTH, subsequent_indent="        ")
    if block.abilities:
        yield fill(f"It {'; '.join(block.abilities)}.", WIDTH)
    yield ""
    for parameter in block.parameters:
        yield f"{parameter.name}: {as_yaml(parameter.default)}"
        yield f"    {parameter.type}"
        yield fill(parameter.description, WIDTH, initial_indent="    ", subsequent_indent="    ")
    if not block.parameters:
        yield "No parameters."


def _unknown(kind: str, name: str, known: "Sequence[str] | dict[str, list[DescribedBlock]]") -> str:
    from registry.errors import nearest

    return f"no {kind} is called {name!r}; {nearest(name, known) or 'known: ' + ', '.join(known)}"


def _parser() -> Parser:
    parser = Parser(
        prog="blockformer blocks",
        description="List all slots, list the blocks of a slot, or describe one block and its parameters.",
    )
    parser.add_argument(
        "place",
        nargs="?",
        metavar="SLOT[/NAME]",
        help="a slot, such as mixer, or a block, such as mixer/attention; default: all slots",
    )
    add_format(parser, "text", "json")
    return parser
