"""`blockformer conformance`: recipes that nobody wrote, drawn from the registry and held to every promise."""

from collections.abc import Sequence
from pathlib import Path

from blockformer.cli.parser import Parser, add_overrides, positive
from blockformer.errors import UserError


def main(arguments: Sequence[str]) -> int:
    """Draw recipes, check them, reduce what fails; 0 if nothing did, else 1."""
    options = _parser().parse_args(arguments)
    if options.recipe:
        return _one(options.recipe, options.overrides)
    from blockformer.conformance.full import Settings, explain, run  # torch only now, so that --help answers at once
    from blockformer.conformance.page import write_matrix

    plan, outcomes = run(Settings(options.folder, options.count, options.seed, options.processes))
    failures = [row for row in outcomes if row["failure"]]
    explain(failures, options.folder)
    checks = sum(row["checks"] for row in outcomes)
    print(f"{len(outcomes):,} recipes, {checks:,} checks, {len(failures):,} failures")
    if options.out:
        write_matrix(options.out, plan[0], outcomes)
    return 1 if failures else 0


def _one(source: str, overrides: list[str]) -> int:
    """Check one recipe, such as a failure that was written down."""
    from blockformer.conformance.admitting import admit
    from blockformer.conformance.judging import judged
    from blockformer.conformance.subject import SMALL
    from registry import load_recipe

    tree = load_recipe(source, overrides).dump()
    if wrong := [f"{key}={size}" for key, size in SMALL.items() if tree.get(key, size) != size]:
        raise UserError(f"{source}: the checks are made for small sizes; say: --set {' --set '.join(wrong)}")
    checks, failure = judged(admit(tree, source))
    print(f"{source}: {checks} checks, {f'{failure.check} fails: {failure.error}' if failure else 'all hold'}")
    return 1 if failure else 0


def _parser() -> Parser:
    parser = Parser(
        prog="blockformer conformance",
        description="Draw recipes from the registry, write each as YAML, read and check it, and hold all that are\n"
        "accepted to the promises of a whole model. What fails is reduced to the smallest recipe that does.",
        epilog="An interrupted run goes on where it was. Exit status: 0 if nothing failed, otherwise 1.",
    )
    parser.add_argument(
        "--count", type=positive, default=2000, help="recipes that are accepted and checked (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all chance (%(default)s)")
    parser.add_argument("--processes", type=positive, default=2, help="recipes that run at once (%(default)s)")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("runs/conformance"),
        help="where is kept what was drawn and found so far (%(default)s)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the figures here, and a page beside it")
    parser.add_argument("--recipe", help="check this recipe alone, of sizes like those that are drawn")
    add_overrides(parser)
    return parser
