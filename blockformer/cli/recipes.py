"""`blockformer recipes`: the recipes that are installed."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from blockformer.cli.parser import Parser, add_format

WIDTH = 110
INTRO = """<!-- Made by `make schema` from the recipes themselves; not for editing. -->

# Models

These recipes are installed, and known by their bare names wherever a recipe is asked for. Those of published models are
the models of the releases at full size, to the last parameter: a test compares each with the release's `config.json`,
key by key, and counts. None holds weights; [`blockformer import`](export.md) reads those of a release.

Parameters that are used in two places count once. Dropout and initial values are the release's as far as it says them.
"""


def main(arguments: Sequence[str]) -> int:
    """List recipes, or write the page about them."""
    parser = _parser()
    options = parser.parse_args(arguments)
    from registry.errors import nearest
    from registry.recipe import builtin_recipes, description_of  # only now, so that --help answers at once

    known = builtin_recipes()
    word = (options.word or "").lower()
    chosen = {
        name: description_of(path) for name, path in known.items() if word in f"{name} {description_of(path)}".lower()
    }
    if not chosen:
        parser.error(f"no recipe mentions {options.word!r}; {nearest(word, known) or 'without a word, all are listed'}")
    if options.page:
        _write(parser, options.page)
    elif options.format == "json":
        print(json.dumps(chosen, indent=2))
    else:
        width = max(map(len, chosen))
        print(*(_cut(f"{name:<{width}}  {text}") for name, text in chosen.items()), sep="\n")
    return 0


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 4].rstrip()} ..."


def _write(parser: Parser, file: Path) -> None:
    from blockformer import assembly
    from blockformer.files import write_text
    from registry import builtin_recipes, load_recipe

    try:
        write_text(file, page({name: assembly.check(load_recipe(name)).size for name in builtin_recipes()}))
    except OSError as error:
        parser.error(f"cannot write {file}: {error.strerror}")


def page(sizes: Mapping[str, int]) -> str:
    """The page that lists all recipes, by folder and then by size.

    Args:
        sizes: number of parameters of each.
    """
    return "\n".join([INTRO, *_tables(sizes)]) + "\n"


def _tables(sizes: Mapping[str, int]) -> Iterator[str]:
    from registry.recipe import builtin_recipes, description_of, recipes_folder

    groups: dict[str, list[str]] = {}
    for name, path in builtin_recipes().items():
        groups.setdefault("examples" if path.parent == recipes_folder() else path.parent.name, []).append(name)
    for group in sorted(groups, key=lambda group: (group == "examples", group)):
        yield f"## {group}\n\n| recipe | parameters | what it is |\n| --- | ---: | --- |"
        for name in sorted(groups[group], key=lambda name: (sizes[name], name)):
            yield f"| `{name}` | {sizes[name]:,} | {_linked(description_of(builtin_recipes()[name]))} |"
        yield ""


def _linked(text: str) -> str:
    """With addresses, of web pages and of papers, as links, and nothing that Markdown takes for mark-up."""
    text = re.sub(r"[*|<]", lambda found: "&lt;" if found[0] == "<" else f"\\{found[0]}", text)
    text = re.sub(r"https://[^\s,;:)]*[^\s,;:).]", lambda found: f"<{found[0]}>", text)
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def _parser() -> Parser:
    parser = Parser(
        prog="blockformer recipes",
        description="List the recipes that are installed, or those that mention a word. They are known by these names\n"
        "wherever a recipe is asked for; `blockformer show NAME` shows one.",
    )
    parser.add_argument("word", nargs="?", metavar="WORD", help="only recipes whose name or description holds it")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write a page about all of them there, as Markdown")
    add_format(parser, "text", "json")
    return parser
