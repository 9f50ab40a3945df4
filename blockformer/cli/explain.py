"""`blockformer explain`: what a model computes for one text, step by step, as a page."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from blockformer.cli.parser import Parser, file_ending
from blockformer.errors import UserError

if TYPE_CHECKING:
    from blockformer.explanation import Explanation

DESCRIPTION = """\
Write a page that shows what a model computes for one text: each step of the forward pass with its formula, its paper
and its numbers, from tokens to the next token. The page is one file and needs no network."""
EPILOG = """\
A recipe is explained with its initial values, and each byte of the text is a token. In the text of an encoder, _ is a
masked token. An encoder-decoder reads --source and continues --text; without --source it reads --text and writes
the target itself.

examples:
  blockformer explain runs/writer --text 'cat eats fish'
  blockformer explain gpt2 --text 'cat eats fish' --compare pythia-70m --out gpt2-and-pythia.html
  blockformer explain runs/translator --source 'Tuesday, March 3' --text '' --language zh"""


def main(arguments: Sequence[str]) -> int:
    """Write the page, and figures if they are asked for."""
    options = _parser().parse_args(arguments)
    text = _checked(options)
    from blockformer.explanation.page import write_page

    explanation = _explained(options.model, text, options.source)
    other = None if options.compare is None else _explained(options.compare, text, options.source, explanation)
    out: Path = options.out or Path(f"{_stem(explanation.name)}.html")
    try:
        write_page(out, explanation, other, language=options.language)
    except OSError as error:
        raise UserError(f"--out {_printable(out)}: {error.strerror}") from None
    print(f"{len(explanation.steps)} steps of {explanation.name}: {_printable(out)}")
    if options.figures is not None:
        from blockformer.explanation.figures import draw_figures

        try:
            count, missing = draw_figures(options.figures, explanation)
        except OSError as error:
            raise UserError(f"--figures {_printable(options.figures)}: {error.strerror}") from None
        if missing:
            few = "".join(sorted(missing)[:10]) + ("..." if len(missing) > 10 else "")
            note = f"no installed font has {few}: figures show code points; install one, such as Noto Sans CJK"
            print(f"note: {note}", file=sys.stderr)
        print(f"{count} figures: {_printable(options.figures)}")
    return 0


def _explained(model: str, text: str, source: str | None, beside: "Explanation | None" = None) -> "Explanation":
    from blockformer.explanation import explain

    return explain(model, text, source=source, beside=beside)


def _checked(options: Namespace) -> str:
    """The text, after checking what can be checked before a model is loaded."""
    for name in ("text", "source"):
        try:
            (getattr(options, name) or "").encode()  # arguments that are not UTF-8 contain lone surrogates
        except UnicodeError:
            raise UserError(f"--{name} is not valid UTF-8") from None
    if options.figures is not None:
        from blockformer.training.watch.pictures import require_matplotlib

        require_matplotlib("--figures")
    return options.text


def _printable(path: Path) -> str:
    from registry.text import shortened

    return shortened(str(path))


def _stem(name: str) -> str:
    """A name of a file in the working directory."""
    from blockformer.files import is_name

    return name if is_name(name) and not name.startswith(".") else "explanation"


def _parser() -> Parser:
    parser = Parser(prog="blockformer explain", description=DESCRIPTION, epilog=EPILOG)
    add = parser.add_argument
    add("model", metavar="MODEL", help="a run, a checkpoint, an import, a recipe's file, or the name of a built-in one")
    add("--text", required=True, metavar="TEXT", help="what the model reads")
    add("--source", metavar="TEXT", help="what an encoder-decoder's encoder reads; then --text is the target so far")
    page = file_ending(".html", ".htm")
    add("--out", type=page, metavar="FILE.html", help="file of the page; default: the model's name with .html")
    add("--language", choices=("en", "zh"), default="en", help="language of the page's words; default: en")
    add("--compare", metavar="MODEL", help="another model, shown beside the first one with the differences marked")
    add("--figures", type=Path, metavar="DIR", help="also draw each step as a PNG in this folder")
    parser.add_argument("--plugin", metavar="MODULE", help="import a module that registers blocks; may be repeated")
    return parser
