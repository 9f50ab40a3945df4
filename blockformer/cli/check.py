"""`blockformer check`: every problem of recipes, before anything is trained."""

from collections.abc import Sequence

from blockformer.cli.parser import Parser, add_overrides


def main(arguments: Sequence[str]) -> int:
    """Check every recipe, and print a line for each valid one.

    Raises:
        RecipeError: the problems of all recipes, a line each.
    """
    options = _parser().parse_args(arguments)
    from registry import RecipeError  # imported late: --help then needs no torch

    errors: list[RecipeError] = []
    for source in options.recipes:
        try:
            print(_checked(source, options.overrides))
        except RecipeError as error:
            errors.append(error)
    if errors:
        problems = (problem for error in errors for problem in error.problems)
        raise RecipeError(problems, more=sum(error.more for error in errors)) from errors[0]
    return 0


def _checked(source: str, overrides: list[str]) -> str:
    import registry
    from blockformer import assembly
    from blockformer.assembly.capabilities import position_warnings
    from registry.text import shortened

    recipe = registry.load_recipe(source, overrides)
    model = assembly.check(recipe)
    source = shortened(source)
    good = f"{source}: ok, {model.kind}, {model.size:,} parameters, hash {recipe.hash[:12]}"
    return "\n".join([good, *(f"{source}: note: {remark}" for remark in position_warnings(model))])


def _parser() -> Parser:
    parser = Parser(
        prog="blockformer check",
        description="Check recipes by building their models without allocating weights.\n"
        "Prints a line for each valid recipe and a line for each problem.",
        epilog="Exit status: 0 if every recipe is valid, otherwise 2.",
    )
    parser.add_argument("recipes", nargs="+", metavar="RECIPE", help="a file, or the name of a built-in recipe")
    add_overrides(parser)
    return parser
