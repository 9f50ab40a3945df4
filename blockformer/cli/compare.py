"""`blockformer compare`: run a study, or compare recipes directly, and give a verdict on each variant."""

import json
import os.path
import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blockformer.cli.compare_arguments import split_arguments
from blockformer.cli.compare_plan import plans
from blockformer.cli.parser import CommandFailedError, KeyValues, Parser, add_format, file_ending, positive

if TYPE_CHECKING:
    from blockformer.studies.run_result import Result
    from blockformer.studies.study import Study

LONGEST_NAME = 100  # characters of the folder of recipes that are compared without a file


def main(arguments: Sequence[str]) -> int:
    """Plan or run a comparison. Returns 0.

    Raises:
        RecipeError: the study, a recipe or a setting is wrong; every problem is named.
        UserError: an option is wrong.
        CommandFailedError: a run failed.
    """
    parser = _parser()
    own, settings, passed = split_arguments(arguments, list(parser._option_string_actions))
    options = parser.parse_args(own)
    _check_together(options, parser)
    from blockformer.studies.api import (  # imported late: --help then needs no torch
        execute,
        execute_one,
        folder_for,
        unfinished_seeds,
    )
    from blockformer.studies.execution import InterruptedStudy, RunFailedError
    from blockformer.studies.progress import Progress

    study = _study(options, parser, settings)
    if options.sweep:
        return _write_sweep(study, options, arguments)
    if options.plan:
        print(plans(study, options.format), end="")
        return 0
    folder = folder_for(study, options.out)
    if options.add_seeds and (seeds := unfinished_seeds(study, folder)):
        listed = ", ".join(map(str, seeds))
        print(
            f"note: seeds {listed} have no results yet: they are finished first, and no others are added",
            file=sys.stderr,
        )
    command = ["blockformer", "compare", *arguments]
    watch = Progress(folder, study.file.figure)
    try:
        if options.only is not None:
            print(_outcome(execute_one(study, folder, options.only, options=passed, watch=watch), options.format))
            return 0
        results = execute(
            study,
            folder,
            workers=options.workers,
            add_seeds=options.add_seeds,
            options=passed,
            command=command,
            watch=watch,
            engine=options.engine,
            speed=options.speed,
            engine_options=dict(option.split("=", 1) for option in options.engine_option),
        )
    except InterruptedStudy as stop:
        raise CommandFailedError(f"blockformer compare: {stop}", stop.exit_code) from stop
    except RunFailedError as error:
        raise CommandFailedError(f"{error}; run the same command to continue", 1) from error
    if options.format == "json":
        print(json.dumps(results["verdicts"], indent=1))
        return 0
    from blockformer.studies.tables import as_markdown
    from blockformer.studies.task_table import table_as_markdown
    from blockformer.studies.wandb_study import place_lines, send_views
    from registry.text import printable, terminal_text

    print(terminal_text((table_as_markdown if study.tasks else as_markdown)(results)), end="")
    print(f"\nreport: {printable(folder / 'report.html')}")
    for line in [*place_lines(folder), *(send_views(results, passed) if options.report else ())]:
        print(printable(line))
    return 0


def _write_sweep(study: "Study", options: Namespace, arguments: Sequence[str]) -> int:
    """Write the sweep file and say what to do with it."""
    from blockformer.files import write_text
    from blockformer.studies.api import folder_for
    from blockformer.studies.sweep import sweep_file
    from blockformer.studies.wandb_study import run_option
    from registry.text import printable

    command = ["blockformer", "compare", *_without(arguments, "--sweep", "--out", "--report")]
    text = sweep_file(study, folder_for(study, options.out), command, run_option(arguments, "project", "blockformer"))
    write_text(options.sweep, text)
    file = printable(shlex.quote(str(options.sweep)))
    print(
        f"{file}: start it with `wandb sweep {file}`; when its agents have ended, run this without --sweep for verdicts"
    )
    if study.file.learning_rates:
        print("its runs choose the learning rates; run this without --sweep for the other runs")
    return 0


def _without(arguments: Sequence[str], *options: str) -> list[str]:
    """The arguments without some options and their values; `--report` has none."""
    kept: list[str] = []
    items = iter(arguments)
    for item in items:
        key, equals, _ = item.partition("=")
        if key not in options:
            kept.append(item)
        elif not equals and key != "--report":
            next(items, None)
    return kept


def _check_together(options: Namespace, parser: Parser) -> None:
    """Refuse options that do not go together, and a report that could not be made after the runs."""
    if options.report and find_spec("wandb_workspaces") is None:
        parser.error("--report needs the package wandb-workspaces: pip install 'blockformer[reports]'")
    if options.only is not None and (options.plan or options.add_seeds or options.report or options.sweep):
        parser.error("--only executes one run: leave --plan, --add-seeds, --report and --sweep out")
    if options.sweep is not None and (options.plan or options.add_seeds or options.engine):
        parser.error("--sweep writes a file: leave --plan, --add-seeds and --engine out")
    if options.sweep is not None and os.path.realpath(options.sweep) in map(os.path.realpath, options.what):
        parser.error(f"--sweep {options.sweep}: is what is compared; name another file")
    if options.engine is None and options.engine_option:
        parser.error("--engine-option is for --engine slurm or ray")
    if options.engine is not None and (options.only is not None or options.workers is None):
        parser.error("--engine needs --workers N, the number of jobs, and cannot be combined with --only")
    if wrong := [option for option in options.engine_option if "=" not in option]:
        parser.error(f"--engine-option {wrong[0]}: must be KEY=VALUE")


def _study(options: Namespace, parser: Parser, settings: dict[str, Any]) -> "Study":
    from blockformer.studies.study import read_study

    changes = dict(settings)
    for name in ("seeds", "figure", "smallest"):
        if getattr(options, name) is not None:
            changes[name] = getattr(options, name)
    first, *others = options.what
    if not others:
        if Path(first).suffix not in (".yaml", ".yml"):
            parser.error(f"{first!r}: name a study file (it ends in .yaml), or two or more recipes")
        return read_study(Path(first), tier=options.tier, changes=changes, only=options.task)
    if options.tier is not None:
        parser.error("--tier is for a study file")
    variants = {Path(other).stem: {"recipe": other} for other in others}
    if len(variants) < len(others):
        parser.error("two of the recipes have the same name")
    tasks = {name: _task(name) for name in options.task}
    name = "-".join([Path(first).stem, *variants])[:LONGEST_NAME]
    return read_study({"base": first, "variants": variants, "tasks": tasks}, changes=changes, name=name)


def _task(dataset: str) -> dict[str, Any]:
    """A dataset as a task of a study; of a synthetic task the accuracy is compared."""
    from blockformer.data.datasets.base import Task
    from blockformer.data.options import class_of

    figure = {"figure": "val/accuracy"} if issubclass(class_of(dataset), Task) else {}
    return {"fit.data.dataset": dataset, **figure}


def _outcome(result: "Result", form: str) -> str:
    """What came of one run."""
    if form == "json":
        return json.dumps(asdict(result), indent=1)
    figure = "" if result.figure is None else f": {result.figure:.6g}"
    return f"{result.id} {result.status}{figure}"


def _parser() -> Parser:
    parser = Parser(
        prog="blockformer compare",
        description="Train variants of a model on the same data with several seeds and give a verdict on each.\n"
        "What has been run is not run again: the same command continues a stopped study.",
        epilog="Settings of `blockformer fit` (--data.*, --optimizer.*, --trainer.*, --model.*) change those of the\n"
        "study; --run.* goes to each run, for example --run.wandb offline.\n"
        "Exit status: 0; 1 if a run failed; 2 if something is wrong with the study; 130 after Ctrl-C, once the runs\n"
        "in progress have saved (a second one ends them at once). Run the same command to continue.",
    )
    parser.add_argument(
        "what", nargs="+", metavar="STUDY | RECIPE RECIPE ...", help="a study file, or recipes; the first is the base"
    )
    parser.add_argument(
        "--task",
        action="append",
        default=[],
        metavar="NAME",
        help="of a study: run this task alone; of recipes: compare them on this dataset; may be repeated",
    )
    parser.add_argument("--tier", metavar="NAME", help="apply this tier of the study")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the study's folder; default: comparisons/STUDY")
    parser.add_argument("--seeds", type=positive, metavar="N", help="number of seeds; default: the study's, or 3")
    parser.add_argument("--figure", metavar="NAME", help="the figure to compare; default: the study's, or val/loss")
    parser.add_argument("--smallest", type=float, metavar="X", help="a difference below this does not matter")
    parser.add_argument("--add-seeds", type=positive, default=0, metavar="N", help="run more seeds of a finished study")
    parser.add_argument("--workers", type=positive, metavar="N", help="runs at a time; default: one a GPU, or 1")
    parser.add_argument(
        "--engine", choices=("slurm", "ray"), help="execute the runs in --workers jobs of SLURM or tasks of Ray"
    )
    parser.add_argument(
        "--engine-option",
        action=KeyValues,
        default=[],
        metavar="KEY=VALUE",
        help="of a job: cpus, gpus; SLURM: time (minutes; required), partition, memory (GB), and options of sbatch;\n"
        "Ray: address; may be repeated",
    )
    speed = parser.add_mutually_exclusive_group()
    speed.add_argument(
        "--no-speed",
        dest="speed",
        action="store_const",
        const="never",
        default="once",
        help="do not measure tokens per second and memory of the variants after their runs",
    )
    speed.add_argument(
        "--speed-again",
        dest="speed",
        action="store_const",
        const="again",
        help="measure speed and memory again",
    )
    parser.add_argument(
        "--only",
        metavar="RUN",
        help="execute only this run (its id, as in --plan --format json) without verdicts",
    )
    parser.add_argument(
        "--report", action="store_true", help="create a workspace and a report in W&B, if this machine is logged in"
    )
    parser.add_argument(
        "--sweep",
        type=file_ending(".yaml", ".yml", ".json"),
        metavar="FILE.yaml",
        help="write a W&B sweep file, whose agents execute the runs, and exit",
    )
    parser.add_argument("--plan", action="store_true", help="print the runs, with sizes and time, and exit")
    add_format(parser, "text", "json")
    return parser
