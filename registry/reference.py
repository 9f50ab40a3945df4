"""The block reference: one Markdown page a slot, made from what is registered."""

from collections.abc import Iterator, Mapping

from registry.catalogue import DescribedBlock, DescribedParameter, catalogue, keys_of, meaning
from registry.words import shown

MADE = "<!-- Made by `make schema` from the blocks themselves; not for editing. -->"


def pages() -> dict[str, str]:
    """Every page by its file name: an index of the slots, and one page a slot."""
    known = catalogue()
    return {"index.md": _index(known), **{f"{slot}.md": _page(slot, found) for slot, found in known.items()}}


def _index(known: Mapping[str, list[DescribedBlock]]) -> str:
    rows = [
        f"| [{slot}]({slot}.md) | {meaning(slot)} | {', '.join(f'[{b.name}]({slot}.md#{b.name})' for b in found)} |"
        for slot, found in known.items()
    ]
    intro = "A slot is a place in a recipe that any of its blocks can fill."
    return _joined(
        [MADE, "# Blocks", intro, "\n".join(["| slot | what fills it | blocks |", "| --- | --- | --- |", *rows])]
    )


def _page(slot: str, found: list[DescribedBlock]) -> str:
    keys = keys_of(slot)
    where = (
        f"In a recipe it stands under {' or '.join(f'`{key}:`' for key in keys)}."
        if keys
        else "It is the recipe itself."
    )
    blocks = [part for block in found for part in _block(block, keys[0] if keys else None)]
    return _joined([MADE, f"# {slot}", f"{meaning(slot)} {where}", *blocks])


def _block(block: DescribedBlock, key: str | None) -> Iterator[str]:
    yield f"## {block.name}"
    yield " ".join(filter(None, [_escaped(block.summary), _escaped(block.details)]))
    if block.paper:
        yield f"*Source: {_escaped(block.paper)}*"
    if block.abilities:
        yield f"It {'; '.join(block.abilities)}."
    yield _table(block) if block.parameters else "No parameters."
    yield f'```yaml title="with all defaults"\n{_example(block, key)}\n```'


def _table(block: DescribedBlock) -> str:
    rows = [f"| `{p.name}` | {_type(p)} | `{shown(p.default)}` | {_escaped(p.description)} |" for p in block.parameters]
    return "\n".join(["| parameter | takes | default | meaning |", "| --- | --- | --- | --- |", *rows])


def _type(parameter: DescribedParameter) -> str:
    words, slot = _escaped(parameter.type), parameter.slot
    return words.replace(slot, f"[{slot}]({slot}.md)", 1) if slot else words


def _example(block: DescribedBlock, key: str | None) -> str:
    """The block with every parameter at its default, as it would stand in a recipe."""
    values = {"type": block.name} | {parameter.name: parameter.default for parameter in block.parameters}
    lines = [f"{name}: {shown(value)}" for name, value in values.items()]
    return "\n".join(lines if key is None else [f"{key}:", *(f"  {line}" for line in lines)])


def _escaped(text: str) -> str:
    """Text without what Markdown would take for mark-up or for a new column, code excepted."""
    parts = text.split("`")
    for mark, written in (("*", r"\*"), ("|", r"\|"), ("<", "&lt;")):
        parts[::2] = [part.replace(mark, written) for part in parts[::2]]
    return "`".join(parts)


def _joined(parts: list[str]) -> str:
    return "\n\n".join(parts) + "\n"
