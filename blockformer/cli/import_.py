"""`blockformer import`: a published model becomes a recipe and its weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from blockformer.cli.parser import Parser

if TYPE_CHECKING:
    from blockformer.huggingface.verification import Verification

DIFFERS = 1


def main(arguments: Sequence[str]) -> int:
    """Read a Hugging Face folder, compare it with the original if that is asked, and write what it is in our terms."""
    options = _parser().parse_args(arguments)
    folder = Path(options.folder)
    out = Path(options.out or f"{folder.resolve().name}-imported")
    from blockformer.assembly import check  # these and torch only now, so that --help answers at once
    from blockformer.huggingface import read_folder, verify, write_folder

    imported = read_folder(folder, options.family)
    model = check(imported.recipe)
    print(f"{folder}: {imported.family.about}, {model.kind}, {model.size:,} parameters (family {imported.family.name})")
    if options.verify:
        result = verify(imported)
        print(*said(result), sep="\n")
        if not result.agrees:
            print(f"{out} was not written")
            return DIFFERS
    written = write_folder(imported, out)
    print(f"{written}: {', '.join(sorted(path.name for path in written.iterdir()))}")
    return 0


def said(result: "Verification") -> list[str]:
    """The lines that tell how far two models are apart, and where they part."""
    from blockformer.huggingface.verification import TOLERANCE

    lines = [f"largest relative difference of the logits: {result.logits:.1e} (at most {TOLERANCE:.0e} is rounding)"]
    if result.agrees:
        return lines
    if not result.layers:
        return [*lines, "the original does not give its hidden states, so no layer can be named"]
    if result.first is None:
        return [*lines, "all hidden states agree: what differs is the head"]
    shown = [
        f"  {name:<28} {apart:.1e}{'  <- first that differs' * (name == result.first)}"
        for name, apart in result.layers.items()
    ]
    return [*lines, *shown]


def _parser() -> Parser:
    parser = Parser(
        prog="blockformer import",
        description="Turn a Hugging Face folder (config.json, safetensors) into a recipe and its weights.",
        epilog="Exit status: 0; 1 if --verify finds that the models differ; 2 if the folder cannot be read.",
    )
    parser.add_argument("folder", metavar="DIR", help="with config.json and model.safetensors, whole or in parts")
    parser.add_argument("--out", metavar="DIR", help="where to write; default: the folder's name with -imported, here")
    parser.add_argument(
        "--verify", action="store_true", help="run it beside the original, for which transformers is needed"
    )
    parser.add_argument("--family", metavar="FILE", help="a family file, instead of that of the folder's model_type")
    return parser
