"""`blockformer diff`: what differs between two models, in terms of blocks, and what that costs."""

import json
import os.path
import re
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from blockformer.cli.parser import Parser, add_format, positive
from blockformer.errors import UserError

if TYPE_CHECKING:
    from registry import Recipe

EPILOG = """\
A recipe is a file, the name of an installed one, a run's or an imported folder, or a checkpoint. KEY=VALUE changes the
second; without B it is the first, changed:
  blockformer diff gpt2 llama3_8b
  blockformer diff gpt2 decoder.layer.mixer.kv_heads=1
  blockformer diff runs/base/checkpoints/best.ckpt mine.yaml --set-a decoder.depth=2

FLOPs and cache are those of `blockformer show`. Settings that say only how something is computed are no difference.
Exit status: 0, whether they differ or not; 2 if something that was given is wrong."""
OVERRIDE = re.compile(r"[A-Za-z_]\w*(\.\w+)*=.*", re.S)


def main(arguments: Sequence[str]) -> int:
    """Print what differs, as text, JSON or Markdown."""
    parser = _parser()
    options = parser.parse_intermixed_args(arguments)
    a, b = _recipes(options)
    from blockformer import assembly
    from blockformer.assembly.recipe_diff import compare
    from blockformer.cli.differences import markdown, text
    from blockformer.inspection.cost import cost

    models = assembly.check(a), assembly.check(b)
    longest = min(model.max_length for model in models)
    length = options.length or longest
    if length > longest:
        raise UserError(f"--length {length} is more than a model takes: {longest} tokens (max_length)")
    changes = compare(*models)
    costs = [cost(model, length) for model in models]
    if options.format == "json":
        facts: dict[str, Any] = {"same": a.hash == b.hash, "changes": [asdict(change) for change in changes]}
        sides = zip("ab", (a, b), costs, strict=True)
        facts |= {side: {"name": recipe.name, "hash": recipe.hash, **asdict(told)} for side, recipe, told in sides}
        print(json.dumps(facts, indent=2))
    else:
        write = markdown if options.format == "markdown" else text
        print("\n".join(write(a, b, changes, *costs)))
    return 0


def _recipes(options: Namespace) -> "tuple[Recipe, Recipe]":
    rest = list(options.rest)
    second = options.a
    if rest and (not OVERRIDE.fullmatch(rest[0]) or os.path.exists(rest[0])):  # noqa: PTH110 (a long text is no path, and no error)
        second = rest.pop(0)
    if wrong := next((text for text in rest if not OVERRIDE.fullmatch(text)), None):
        raise UserError(f"{wrong!r}: after two recipes only changes of the form KEY=VALUE can follow")
    import blocks  # noqa: F401  (registers what recipes name)

    return _named(options.a, [*options.both, *options.a_only]), _named(second, [*options.both, *rest])


def _named(source: str, overrides: list[str]) -> "Recipe":
    """A recipe that says in its name what was changed."""
    from blockformer.cli.recipe_source import recipe_of

    return replace(recipe_of(source, overrides), name=f"{source} with {', '.join(overrides)}" if overrides else source)


def _parser() -> Parser:
    parser = Parser(
        prog="blockformer diff",
        usage="blockformer diff A [B] [KEY=VALUE ...] [options]",
        description="Say in terms of blocks how two models differ: what stands where, parameters, FLOPs, cache.",
        epilog=EPILOG,
    )
    parser.add_argument("a", metavar="A", help="a recipe, a run or a checkpoint")
    parser.add_argument("rest", metavar="B KEY=VALUE", nargs="*", help="another, and what to change in it")
    for option, place, which in (("--set", "both", "both"), ("--set-a", "a_only", "A only")):
        told = f"change {which}; may be repeated"
        parser.add_argument(option, dest=place, metavar="KEY=VALUE", action="append", default=[], help=told)
    parser.add_argument("--length", type=positive, metavar="T", help="of a sequence; default: the smaller max_length")
    add_format(parser, "text", "json", "markdown")
    return parser
