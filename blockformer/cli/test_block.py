"""`blockformer test-block`: run the conformance checks on a block of Blockformer or of your own module."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from blockformer.cli.check_progress import CheckProgress
from blockformer.cli.parser import KeyValues, Parser
from blockformer.errors import UserError
from blockformer.signals import Stopped

if TYPE_CHECKING:
    from blockformer.conformance import BlockCase, Check, ConformanceReport

CLOSEST = 3  # names that an error suggests


def main(arguments: Sequence[str]) -> int:
    """Run the checks and print every unexpected outcome. Returns 1 if there is one, else 0."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.report is not None and options.report.suffix not in (".json", ".md"):
        parser.error(f"--report {options.report}: the file must end in .json or .md")
    cases = cases_of(options.block, options.params)
    _check_they_build(cases)
    if options.list_checks:
        print("\n".join(sorted(_checks_of(cases))))
        return 0
    report = _run(cases, options)
    if options.report is not None:
        _write(options.report, report)
    from blockformer.conformance.block_case import NEEDS

    by_case = list(report.by_case())
    width = max((len(case) for case, _ in by_case), default=0)
    for case, part in by_case:
        print(f"{case:<{width}}  {part.summary().partition(': ')[2]}")
        lacking = [
            one.reason for one in part.outcomes if one.status == "not_applicable" and one.reason.startswith(NEEDS)
        ]
        print("".join(f"  {reason}\n" for reason in dict.fromkeys(lacking)), end="")
    print(report.summary())
    return 0 if report.good else 1


def _check_they_build(cases: "list[BlockCase]") -> None:
    """Refuse a module that cannot be built: all checks would fail for this one reason."""
    for case in cases:
        if not case.is_component:  # some of these need parameters
            try:
                case.construct()
            except Exception as error:
                reason = next(iter(str(error).splitlines()), "")
                what = reason if isinstance(error, ValueError) else f"{type(error).__name__}: {reason}"
                raise UserError(f"{case.id} cannot be built: {what}; --debug shows where") from error


def _run(cases: "list[BlockCase]", options: Namespace) -> "ConformanceReport":
    from blockformer.conformance import run_checks  # imports torch: here, so that --help is fast
    from blockformer.conformance.table import LONG

    only = _checks_by_name(cases, options.checks)
    progress = CheckProgress(options.traceback)
    try:
        return run_checks(
            cases,
            expected_failures=dict(map(_expected, options.expected)),
            only=only,
            without=LONG if options.quick and only is None else (),
            options=not options.quick,
            watch=progress.show,
        )
    except ValueError as error:  # an expected failure names a check that does not apply
        raise UserError(f"--expect-failure: {error}") from None
    except (KeyboardInterrupt, Stopped):
        progress.clear()
        print(f"stopped after {progress.done} checks, {progress.failed} of them with an unexpected outcome")
        raise
    finally:
        progress.end()


def cases_of(block: str, params: list[str]) -> "list[BlockCase]":
    """Blocks at every place that they support.

    Args:
        block: ``MODULE:CLASS``, ``MODULE`` for all blocks that it registers, or ``SLOT/NAME``.
        params: ``key=value``, recipe parameters; of one block only.

    Raises:
        UserError: there is no such block or module, or it refuses the parameters at every place.
        PluginError: the module cannot be imported.
        RecipeError: a parameter is wrong.
    """
    from registry import entries, slots
    from registry.plugins import PluginError

    if "/" in block and not block.endswith(".py"):
        found = _registered(*block.split("/", 1))
    else:
        module, _, name = block.partition(":")
        try:
            found = _of_class(module, name) if name else _of_module(module)
        except PluginError:
            if homes := [] if name else [f"{slot}/{module}" for slot in slots() if module in entries(slot)]:
                raise UserError(f"no module is called {module!r}; did you mean {' or '.join(homes)}?") from None
            raise
    return _with_params(found, params) if params else found


def _registered(slot: str, name: str) -> "list[BlockCase]":
    import blocks  # noqa: F401  (importing registers)
    from blockformer.conformance import block_cases
    from registry import entries, option_slots, slots
    from registry.errors import nearest

    if slot not in slots():
        import blockformer.cli.components  # noqa: F401  (loads the trainer, which takes seconds)
    for kind, wanted, known in (("slot", slot, [*slots(), *option_slots()]), (slot, name, entries(slot))):
        if wanted not in known:
            raise UserError(f"no {kind} is called {wanted!r}; {nearest(wanted, known) or 'known: ' + ', '.join(known)}")
    return block_cases(slot, name)


def _of_class(module: str, name: str) -> "list[BlockCase]":
    from blockformer.conformance import block_cases, registered
    from registry import entries, entry_of

    block = getattr(_imported(module), name, None)
    if block is None:
        names = sorted({entries(case.slot)[case.name].block.__qualname__ for case in registered(module)})
        raise UserError(f"module {module!r} has no {name!r}; it registers {', '.join(names) or 'no blocks'}")
    try:
        entry = entry_of(block)
    except (KeyError, AttributeError, TypeError):
        raise UserError(f"{module}:{name} is not a registered block; write @register above the class") from None
    return block_cases(entry.slot, entry.name)


def _of_module(module: str) -> "list[BlockCase]":
    from blockformer.conformance import registered

    _imported(module)
    if not (found := registered(module)):
        raise UserError(f"module {module!r} registers no blocks; write @register above a class")
    return found


def _imported(module: str) -> object:
    import blocks  # noqa: F401  (importing registers)
    from registry.plugins import load_named

    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    load_named([module])
    return import_module(module)


def _with_params(found: "list[BlockCase]", params: list[str]) -> "list[BlockCase]":
    """The cases with these parameters, at the places where the block accepts them."""
    if len({(case.slot, case.name) for case in found}) > 1:
        raise UserError("--param requires a single block; name its class, as MODULE:CLASS")
    parsed, valid, errors = _parsed(found[0], params), list["BlockCase"](), list[str]()
    for case in found:
        changed = replace(case, params={**case.params, **parsed})
        try:
            changed.construct()
            valid.append(changed)
        except ValueError as error:
            errors.append(str(error))
    if not valid:
        raise UserError(f"{found[0].slot}/{found[0].name}: {errors[0]}")
    return valid


def _parsed(case: "BlockCase", params: list[str]) -> dict[str, object]:
    from pydantic import ValidationError

    from registry import Mark, Problem, RecipeError, parse
    from registry.diagnosis import error_in
    from registry.merge import with_override
    from registry.recipe import assignments
    from registry.strict_yaml import Map, as_plain

    tree = Map({"type": case.name}, mark=Mark("--param"))
    for key, value, mark in assignments(params):
        if key == "type" or not key:
            raise RecipeError([Problem(mark, "", "is not a parameter; name the block as the argument BLOCK")])
        tree = with_override(tree, key, value, mark)
    try:
        parse(case.slot, as_plain(tree))
    except ValidationError as error:
        raise error_in(case.slot, tree, error) from None
    return {key: value for key, value in as_plain(tree).items() if key != "type"}


def _checks_of(cases: "list[BlockCase]") -> "dict[str, Check]":
    """All checks that apply, by name."""
    from blockformer.conformance import checks_for
    from blockformer.conformance.table import check_name

    return {check_name(check): check for case in cases for check in checks_for(case)}


def _checks_by_name(cases: "list[BlockCase]", names: list[str]) -> "list[Check] | None":
    """The checks with these names; None, for all checks, if there are no names."""
    known = _checks_of(cases)
    for name in names:
        if name not in known:
            containing = (check for check in known if name in check)
            close = get_close_matches(name, known, n=CLOSEST) or sorted(containing, key=lambda check: check.find(name))
            hint = f"did you mean {' or '.join(map(repr, close[:CLOSEST]))}? " if close else ""
            raise UserError(f"--check {name}: no check of this block has this name; {hint}--list-checks prints all")
    return [known[name] for name in names] or None


def _expected(text: str) -> tuple[str, str]:
    key, equals, reason = text.partition("=")
    if not (key and equals and reason):
        raise UserError(f"--expect-failure {text}: must have the form CHECK=REASON")
    return key.strip(), reason.strip()


def _write(path: Path, report: "ConformanceReport") -> None:
    from blockformer.files import write_text

    text = report.to_json() if path.suffix == ".json" else report.to_markdown()
    try:
        write_text(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def _parser() -> Parser:
    parser = Parser(
        prog="blockformer test-block",
        description="Run every check that applies to a block, at every place that it supports and with each of its\n"
        "parameters at another value; or to a dataset, tokenizer, objective, optimizer, schedule or evaluation.\n"
        "Prints one line for each failure.",
        epilog="Exit status: 0 if every outcome is as expected; 1 if a check failed, or passed though a failure is\n"
        "expected; 2 if there is no such block. A check that finds nothing to test on a block is counted as not\n"
        "applicable. A class can declare expected failures itself, in its attribute `expected_failures`.",
    )
    parser.add_argument(
        "block",
        metavar="BLOCK",
        help="MODULE:CLASS or MODULE, also from the working directory, or a registered SLOT/NAME",
    )
    parser.add_argument(
        "--param",
        dest="params",
        metavar="KEY=VALUE",
        action=KeyValues,
        default=[],
        help="set a recipe parameter of the block; may be repeated",
    )
    parser.add_argument(
        "--check",
        dest="checks",
        metavar="NAME",
        action="append",
        default=[],
        help="run only this check; may be repeated",
    )
    parser.add_argument("--list-checks", action="store_true", help="print the names of the checks that apply, and exit")
    parser.add_argument(
        "--expect-failure",
        dest="expected",
        metavar="CHECK=REASON",
        action="append",
        default=[],
        help="expect this check, given by its name or its id as printed, to fail; may be repeated",
    )
    parser.add_argument("--quick", action="store_true", help="skip other parameter values and slow checks")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write all outcomes to this .json or .md file")
    parser.add_argument("--traceback", action="store_true", help="print the traceback of each failure")
    return parser
