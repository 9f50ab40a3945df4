"""`blockformer import`: convert a Hugging Face folder to a recipe and its weights."""

import os.path
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from blockformer.cli.parser import Parser

if TYPE_CHECKING:
    from blockformer.huggingface import Verification

DIFFERS = 1  # exit status


def main(arguments: Sequence[str]) -> int:
    """Read a Hugging Face folder, compare it with the original if requested, and write the recipe and its weights."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.longest < 1:
        parser.error(f"--longest must be at least 1, not {options.longest}")
    folder = Path(options.folder)
    name = os.path.basename(os.path.realpath(folder))  # noqa: PTH119  (resolve() fails on a loop of links)
    out = Path(options.out or f"{name}-imported")
    from blockformer.assembly import check  # imported late: --help then needs no torch
    from blockformer.huggingface import read_folder, verify, write_folder
    from registry.text import shortened

    imported = read_folder(folder, options.family)
    model = check(imported.recipe)
    family = imported.family
    print(f"{shortened(folder)}: {family.about}, {model.kind}, {model.size:,} parameters (family {family.name})")
    if options.verify:
        result = verify(imported, longest=options.longest)
        print(*comparison_lines(result), sep="\n")
        if not result.agrees:
            print(f"{shortened(out)} was not written")
            return DIFFERS
    written = write_folder(imported, out)
    print(f"{shortened(written)}: {', '.join(sorted(path.name for path in written.iterdir()))}")
    if (problem := _tokenizer_problem(written)) is not None:
        print(f"note: `blockformer generate` refuses this tokenizer: {problem}")
    return 0


def _tokenizer_problem(folder: Path) -> str | None:
    """Why the tokenizer of an imported folder is refused where it is used; None: it is not, or there is none."""
    from blockformer.data.tokenizers.file import has_tokenizer
    from blockformer.errors import UserError
    from blockformer.generation.trained_folder import imported_tokenizer
    from registry.text import printable

    if not has_tokenizer(folder):
        return None
    try:
        imported_tokenizer(folder)
    except UserError as error:
        return printable(error)
    return None


def comparison_lines(result: "Verification") -> list[str]:
    """The difference of two models for the user; if it is too large, also that of each layer."""
    from blockformer.huggingface.verification import TOLERANCE

    lines = [f"largest relative difference of the logits: {result.logits:.1e} (tolerance {TOLERANCE:.0e})"]
    if result.rounding is not None:
        lines[0] += f", in float64; {result.rounding:.1e} in float32, whose rounding this model magnifies"
    if result.untried:
        lines.append(f"not tried: {'; '.join(result.untried)}")
    if result.agrees:
        return lines
    if not result.layers:
        return [*lines, "the original returns no hidden states, so the first layer that differs is unknown"]
    if result.first_difference is None:
        return [*lines, "all hidden states agree; the head differs"]
    first = "  <- first that differs"
    layers = (
        f"  {name:<28} {difference:.1e}{first * (name == result.first_difference)}"
        for name, difference in result.layers.items()
    )
    return [*lines, *layers]


def _parser() -> Parser:
    parser = Parser(
        prog="blockformer import",
        description="Convert a Hugging Face folder (config.json and safetensors) to a recipe and its weights.",
        epilog="Exit status: 0; 1 if --verify finds that the models differ; 2 if the folder cannot be imported.",
    )
    parser.add_argument("folder", metavar="DIR", help="folder with config.json and model.safetensors or its shards")
    parser.add_argument(
        "--out", metavar="DIR", help="folder to create; default: the name of DIR with -imported, in this folder"
    )
    parser.add_argument(
        "--verify", action="store_true", help="compare the logits with those of the original (requires transformers)"
    )
    parser.add_argument(
        "--longest", metavar="TOKENS", type=int, default=1024, help="longest text of --verify, in tokens; default: 1024"
    )
    parser.add_argument(
        "--family", metavar="FILE", help="family file or name; default: the family for the config's model_type"
    )
    return parser
