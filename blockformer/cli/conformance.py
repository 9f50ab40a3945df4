"""`blockformer conformance`: generate recipes from the registry and run the conformance checks on each."""

from collections.abc import Sequence
from pathlib import Path

from blockformer.cli.parser import Parser, add_overrides, file_ending, positive
from blockformer.errors import UserError


def main(arguments: Sequence[str]) -> int:
    """Generate recipes, check them, shrink those that fail. Returns 1 if one failed, else 0."""
    options = _parser().parse_args(arguments)
    if options.recipe:
        return _check_one(options.recipe, options.overrides)
    from blockformer.conformance.full_run import (  # imports torch: here, for a fast --help
        Settings,
        report_failures,
        run,
    )
    from blockformer.conformance.matrix import write_matrix

    settings = Settings(options.folder, options.count, options.seed, options.processes)
    plan, results = run(settings)
    failures = [row for row in results if row["failure"]]
    report_failures(failures, options.folder)
    passed, not_applicable = (sum(len(row[key]) for row in results) for key in ("passed", "not_applicable"))
    checks = f"{passed:,} checks passed, {not_applicable:,} not applicable"
    print(f"{len(results):,} recipes, {checks}, {len(failures):,} failures")
    if options.out:
        write_matrix(options.out, settings, plan[0], results)
    return 1 if failures else 0


def _check_one(source: str, overrides: list[str]) -> int:
    """Check one recipe, such as one that the full run stored as a failure."""
    from blockformer.conformance.block_case import SMALL
    from blockformer.conformance.recipe_checks import run_recipe_checks
    from blockformer.conformance.validate import validate
    from registry import load_recipe

    tree = load_recipe(source, overrides).dump()
    if wrong := [f"{key}={size}" for key, size in SMALL.items() if tree.get(key, size) != size]:
        raise UserError(f"{source}: the checks need small sizes; add: --set {' --set '.join(wrong)}")
    result = run_recipe_checks(validate(tree, source))
    counts = f"{len(result.passed)} passed, {len(result.not_applicable)} not applicable"
    failed = f"; {result.failure.check} fails: {result.failure.error}" if result.failure else ""
    print(f"{source}: {counts}{failed}")
    return 1 if result.failure else 0


def _parser() -> Parser:
    parser = Parser(
        prog="blockformer conformance",
        description="Generate recipes from the registry, write each as YAML, validate it, and run the checks of a\n"
        "whole model on every valid one. A recipe that fails is shrunk to the smallest one that still fails.",
        epilog="An interrupted run resumes where it stopped. Exit status: 0 if nothing failed, otherwise 1.",
    )
    parser.add_argument(
        "--count", type=positive, default=2000, help="number of valid recipes to check; default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated recipes; default: %(default)s")
    parser.add_argument("--processes", type=positive, default=2, help="number of processes; default: %(default)s")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("runs/conformance"),
        help="folder for recipes and results; default: %(default)s",
    )
    parser.add_argument(
        "--out",
        type=file_ending(".json"),
        metavar="FILE.json",
        help="write the results to this file, and a Markdown page next to it",
    )
    parser.add_argument(
        "--recipe", help="check only this recipe, a file or a name; its sizes must be those of generated recipes"
    )
    add_overrides(parser)
    return parser
