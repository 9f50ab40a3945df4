"""`blockformer check`: all that is wrong with recipes, before anything is trained."""

import sys
from collections.abc import Sequence

from blockformer.cli.parser import Parser, add_overrides


def main(arguments: Sequence[str]) -> int:
    """Check every recipe; print a line for each good one to stdout and a line for each problem to stderr."""
    options = _parser().parse_args(arguments)
    from registry import Problem, RecipeError  # these and torch only now, so that --help answers at once

    problems: list[Problem] = []
    for source in options.recipes:
        try:
            print(_checked(source, options.overrides))
        except RecipeError as error:
            problems += error.problems
    if problems:
        sys.stdout.flush()
        print(*dict.fromkeys(map(str, problems)), sep="\n", file=sys.stderr)
    return 2 if problems else 0


def _checked(source: str, overrides: list[str]) -> str:
    import registry
    from blockformer import assembly
    from blockformer.assembly.capabilities import position_warnings

    recipe = registry.load_recipe(source, overrides)
    model = assembly.check(recipe)
    good = f"{source}: ok, {model.kind}, {model.size:,} parameters, hash {recipe.hash[:12]}"
    return "\n".join([good, *(f"{source}: note: {remark}" for remark in position_warnings(model))])


def _parser() -> Parser:
    parser = Parser(
        prog="blockformer check",
        description="Read recipes, build them without memory, and say all that is wrong, a line a problem.",
        epilog="Exit status: 0 if every recipe is good, otherwise 2.",
    )
    parser.add_argument("recipes", nargs="+", metavar="RECIPE", help="a file, or the name of an installed recipe")
    add_overrides(parser)
    return parser
