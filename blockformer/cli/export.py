"""`blockformer export`: convert a model to a folder that transformers loads."""

from argparse import Namespace
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from blockformer.cli.import_ import DIFFERS, comparison_lines
from blockformer.cli.parser import Parser
from blockformer.errors import UserError

if TYPE_CHECKING:
    from blockformer.huggingface import ExportSource, Verification

DTYPES = ("float32", "bfloat16", "float16", "float64")
REMEDY = "no class of transformers supports this recipe; --custom exports it with its own code (trust_remote_code=True)"


class DiffersError(Exception):
    """The exported model or tokenizer differs from the original, so the folder must not be kept."""


def main(arguments: Sequence[str]) -> int:
    """Export a model to a Hugging Face folder, and compare what transformers loads from it with the original.

    Raises:
        UserError: the model cannot be read or compared.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.custom and options.family:
        parser.error("--custom and --family cannot be combined: --custom uses no family")
    if options.verify and find_spec("transformers") is None:
        message = "verification requires transformers: pip install 'blockformer[hf]'; or export with --no-verify"
        raise UserError(message)
    import torch  # imported late: --help then needs no torch

    from blockformer.huggingface import output_folder, read_source
    from registry.text import shortened

    source = read_source(Path(options.path), options.dtype and getattr(torch, options.dtype))
    if source.merged:
        print(f"{shortened(options.path)}: {source.merged} adapters folded into the weights of their projections")
    if source.dropped:
        print(f"{shortened(options.path)}: {source.dropped} extra predictions left out, which serve training only")
    if source.text_model is not None and source.text_model.bidirectional_prompt:
        print(f"{shortened(options.path)}: reads prompts in both directions; transformers will read them in one")
    out = Path(options.out or f"{source.name}-hf")
    try:
        with output_folder(out) as draft:
            _write(source, draft, options)
    except DiffersError as difference:
        print(difference, f"{shortened(out)} was not written", sep="\n")
        return DIFFERS
    names = sorted(path.name for path in out.iterdir())
    others = [name for name in names if not name.endswith(".py")]
    code = len(names) - len(others)
    print(f"{shortened(out)}: {', '.join([*others, *([f'{code} Python files'] if code else [])])}")
    return 0


def _write(source: "ExportSource", draft: Path, options: Namespace) -> None:
    """Write everything and verify it.

    Raises:
        DiffersError: the exported model or its tokenizer differs.
    """
    compare = source.write_tokenizer(draft)
    verify = (_write_custom if options.custom else _write_family)(source, draft, options)
    if not options.verify:
        return
    result = verify()
    if not result.agrees:
        raise DiffersError("\n".join(comparison_lines(result)))
    print(*comparison_lines(result), sep="\n")
    _verify_tokenizer(compare)


def _write_custom(source: "ExportSource", draft: Path, options: Namespace) -> "Callable[[], Verification]":
    """Write the model with the code of its blocks; return a function that verifies it."""
    from blockformer.huggingface.custom.exporter import verify_custom, write_custom
    from registry.text import shortened

    copies = write_custom(source, draft, options.shard_size)
    model = source.model
    print(f"{shortened(options.path)}: {model.kind}, {model.size:,} parameters, with its own code")
    return lambda: verify_custom(source, draft, copies)


def _write_family(source: "ExportSource", draft: Path, options: Namespace) -> "Callable[[], Verification]":
    """Write the model for a class of transformers; return a function that verifies it.

    Raises:
        ExportError: no class supports the recipe.
    """
    from blockformer.huggingface import ExportError, load_family, verify, write_export
    from registry import Mark, Problem
    from registry.text import shortened

    name = options.family or source.family
    family = None if name is None else load_family(name)
    try:
        unused = source.unused if name == source.family else {}
        exported = write_export(
            source.recipe, source.model.state_dict(), draft, family, source.tokens, options.shard_size, unused
        )
    except ExportError as error:
        remedy = Problem(Mark(options.path), "", REMEDY)
        raise ExportError([*error.problems, remedy]) from None
    model, chosen = source.model, exported.family
    size = f"{model.kind}, {model.size:,} parameters"
    print(f"{shortened(options.path)}: {size}, as {chosen.architectures[0]} ({chosen.about})")
    return lambda: verify(exported)


def _verify_tokenizer(compare: Callable[[], int] | None) -> None:
    from blockformer.errors import DataError

    if compare is None:
        print("no tokenizer to export")
        return
    try:
        print(f"tokenizer: {compare()} texts compared, all ids agree")
    except DataError as error:
        raise DiffersError(str(error)) from None


def _parser() -> Parser:
    parser = Parser(
        prog="blockformer export",
        description="Convert a trained or imported model to a folder that transformers loads, and compare the two.",
        epilog="Exit status: 0; 1 if the exported model differs; 2 if the model cannot be exported.",
    )
    add = parser.add_argument
    add("path", metavar="PATH", help="checkpoint, imported folder, or run folder (its best checkpoint, else its last)")
    add("--to", choices=["hf"], required=True, help="format; hf: config.json, safetensors and tokenizer")
    add("--out", metavar="DIR", help="folder to create; default: the model's name with -hf, in this folder")
    add("--family", metavar="NAME", help="family to export as, by name or file; default: the nearest that fits")
    add(
        "--custom",
        action="store_true",
        help="export the code of the blocks too; works for every recipe, without a family",
    )
    add("--dtype", choices=DTYPES, help="dtype of the exported tensors; default: as stored")
    add("--shard-size", metavar="SIZE", default="5GB", help="largest size of one file of tensors; default: 5GB")
    add("--no-verify", dest="verify", action="store_false", help="do not compare the exported model with the original")
    add("--plugin", metavar="MODULE", help="import a module that registers blocks; may be repeated")
    return parser
