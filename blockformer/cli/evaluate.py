"""`blockformer evaluate`: score a trained model on tasks of lm-evaluation-harness."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from blockformer.cli.parser import Parser, file_ending

DESCRIPTION = """\
Score a trained model on tasks of lm-evaluation-harness (EleutherAI), without an export. It needs an extra:
pip install 'blockformer[evaluation]'. Tasks download their data, unless it is on this machine; --include names a folder
with tasks of your own."""


def main(arguments: Sequence[str]) -> int:
    """Print the figures of each task.

    Raises:
        UserError: there is no such model or task, or the harness is not installed.
    """
    options = _parser().parse_args(arguments)
    from blockformer.errors import UserError  # imported late: --help then needs no torch
    from blockformer.files import as_json, write_text
    from blockformer.generation.device import usable_device
    from blockformer.generation.text_model import TextModel
    from blockformer.training.run_folder import check_writable

    if options.out is not None:
        check_writable(options.out.parent, options.out.name)
    model = TextModel.load(options.model, usable_device(options.device))
    try:
        from blockformer.generation.harness import evaluate
    except ImportError as error:
        if not (error.name or "").startswith(("lm_eval", "datasets")):
            raise
        raise UserError("the harness is not installed: pip install 'blockformer[evaluation]'") from None
    with redirect_stdout(sys.stderr):  # the harness prints as it goes
        found = evaluate(
            model,
            options.tasks,
            batch_size=options.batch_size,
            examples=options.examples,
            limit=options.limit,
            include=options.include,
        )
    if options.out is not None:
        write_text(options.out, as_json(found, indent=1) + "\n")
    print(as_json(found, indent=1) if options.format == "json" else "\n".join(_table(found)))
    return 0


def _table(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each figure."""
    from registry.text import printable

    lines: list[str] = []
    for task, figures in found.items():
        for name, value in figures.items():
            if name == "questions" or "stderr" in name:
                continue
            error = figures.get(f"{name}_stderr")
            spread = f" ± {error:.4f}" if isinstance(error, float) else ""
            questions = figures.get("questions", "?")
            lines.append(f"{printable(task)}  {printable(name)} {value:.4f}{spread}  ({questions} questions)")
    return lines


def _parser() -> Parser:
    parser = Parser(prog="blockformer evaluate", description=DESCRIPTION)
    parser.add_argument("model", metavar="PATH", type=Path, help="a run's folder, or a checkpoint")
    parser.add_argument("--tasks", nargs="+", required=True, metavar="TASK", help="names of tasks")
    parser.add_argument("--include", type=Path, metavar="FOLDER", help="folder with task files (YAML) of your own")
    parser.add_argument("--examples", type=int, metavar="N", help="solved examples before each question (few-shot)")
    parser.add_argument("--limit", type=int, metavar="N", help="questions of each task; default: all")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="requests in a batch; default: 16")
    parser.add_argument("--device", help="cpu, cuda, ...; default: a GPU if there is one")
    file = file_ending(".json")
    parser.add_argument("--out", type=file, metavar="FILE.json", help="write the figures to this file, too")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    return parser
