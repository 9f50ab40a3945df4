"""`blockformer export`: a model of ours becomes a folder that transformers loads."""

from argparse import Namespace
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blockformer.cli.import_ import DIFFERS, said
from blockformer.cli.parser import Parser
from blockformer.errors import UserError

if TYPE_CHECKING:
    from blockformer.huggingface import Verification
    from blockformer.huggingface.export import Source

DTYPES = ("float32", "bfloat16", "float16", "float64")
REMEDY = "no class of transformers is this model; --custom writes one of its own (loaded with trust_remote_code=True)"


class DiffersError(Exception):
    """What was written is not the same model; nothing of it may stay."""


def main(arguments: Sequence[str]) -> int:
    """Write a model as a Hugging Face folder, and load it there with transformers to compare the two.

    Raises:
        UserError: there is no such model, or it cannot be compared.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.custom and options.family:
        parser.error("--custom writes a class of its own, which is of no --family")
    if options.verify and find_spec("transformers") is None:
        raise UserError(
            "to compare what is written, transformers is needed: pip install 'blockformer[hf]'; or ask for --no-verify"
        )
    import torch  # now, so that --help answers at once

    from blockformer.huggingface import drafted
    from blockformer.huggingface.export import read_source

    source = read_source(Path(options.path), options.dtype and getattr(torch, options.dtype))
    out = Path(options.out or f"{source.name}-hf")
    try:
        with drafted(out) as draft:
            _write(source, draft, options)
    except DiffersError as difference:
        print(difference, f"{out} was not written", sep="\n")
        return DIFFERS
    names = sorted(path.name for path in out.iterdir())
    code = sum(name.endswith(".py") for name in names)
    others = [name for name in names if not name.endswith(".py")]
    print(f"{out}: {', '.join([*others, *([f'{code} files of code'] if code else [])])}")
    return 0


def _write(source: "Source", draft: Path, options: Namespace) -> None:
    encode = source.write_tokenizer(draft)
    verify = (_custom if options.custom else _stock)(source, draft, options)
    if not options.verify:
        return
    result = verify()
    if not result.agrees:
        raise DiffersError("\n".join(said(result)))
    print(*said(result), sep="\n")
    _compare_tokenizer(draft, encode)


def _custom(source: "Source", draft: Path, options: Namespace) -> "Callable[[], Verification]":
    """Write the model with the code of its blocks; what is returned compares the two."""
    from blockformer.huggingface.custom.writing import verify_custom, write_custom

    copies = write_custom(source, draft, options.shard_size)
    model = source.model
    print(f"{options.path}: {model.kind}, {model.size:,} parameters, with code of its own")
    return lambda: verify_custom(source, draft, copies)


def _stock(source: "Source", draft: Path, options: Namespace) -> "Callable[[], Verification]":
    """Write the model as a class that transformers has; what is returned compares the two.

    Raises:
        InexpressibleError: there is none; what stands in the way is named, and what can be done.
    """
    from blockformer.huggingface import InexpressibleError, load_family, verify, write_export
    from registry import Mark, Problem

    name = options.family or source.family
    family = None if name is None else load_family(name)
    try:
        exported = write_export(
            source.recipe, source.model.state_dict(), draft, family, source.tokens, options.shard_size
        )
    except InexpressibleError as error:
        remedy = Problem(Mark(options.path), "", REMEDY)
        raise InexpressibleError([*error.problems, remedy]) from None
    model, chosen = source.model, exported.family
    print(f"{options.path}: {model.kind}, {model.size:,} parameters, as {chosen.architectures[0]} ({chosen.about})")
    return lambda: verify(exported)


def _compare_tokenizer(draft: Path, encode: Any) -> None:
    from blockformer.data import hub_tokenizer
    from blockformer.errors import DataError

    if encode is None:
        print("there is no tokenizer to write")
        return
    try:
        print(f"the tokenizer encodes {hub_tokenizer.verify(draft, encode)} texts as the original does")
    except DataError as error:
        raise DiffersError(str(error)) from None


def _parser() -> Parser:
    parser = Parser(
        prog="blockformer export",
        description="Turn a trained or imported model into a folder that transformers loads, and compare the two.",
        epilog="Exit status: 0; 1 if what transformers loads differs; 2 if the model cannot be exported.",
    )
    add = parser.add_argument
    add("path", metavar="PATH", help="a checkpoint, a run's folder (its best checkpoint, else its last), or an import")
    add("--to", choices=["hf"], required=True, help="hf: config.json, safetensors and the tokenizer, for transformers")
    add("--out", metavar="DIR", help="where to write; default: the model's name with -hf, here")
    add("--family", metavar="NAME", help="as which family (a name or a FILE); default: the nearest that can say it")
    add(
        "--custom", action="store_true", help="with code of its own, for a recipe that no class of transformers can say"
    )
    add("--dtype", choices=DTYPES, help="of the tensors; default: as they are stored")
    add("--shard-size", metavar="SIZE", default="5GB", help="cut the tensors into files of this size (5GB)")
    add("--no-verify", dest="verify", action="store_false", help="do not load it with transformers to compare")
    add("--plugin", metavar="MODULE", help="import a module that registers blocks; may be repeated")
    return parser
