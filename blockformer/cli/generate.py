"""`blockformer generate`: let a trained model write, translate or fill in blanks."""

import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blockformer.cli.parser import Parser
from blockformer.errors import UserError

if TYPE_CHECKING:
    from blockformer.generation import TokenChooser
    from blockformer.generation.text_model import TextModel

TOKENS = 256

DESCRIPTION = """\
Write text with a trained model. A decoder continues the prompt, drawing tokens at random unless told otherwise. An
encoder-decoder translates each line of the prompt, by beam search unless told otherwise. An encoder fills in the blanks
of the prompt; a blank stands for one token (of a tokenizer of bytes: one byte), and its best candidates are listed."""
EXAMPLES = """\
examples:
  blockformer generate runs/writer --prompt 'Return the number of' --temperature 0.8 --top-p 0.95
  blockformer generate runs/translator --prompt 'Tuesday, March 3' --beams 8 --samples 3
  blockformer generate runs/reader --prompt 'Return the numb__ of items'"""


def main(arguments: Sequence[str]) -> int:
    """Write to stdout what the model makes of the prompt.

    Raises:
        UserError: there is no such checkpoint, or its model cannot do what is asked for.
    """
    options = _parser().parse_args(arguments)
    text = _text(options.prompt)
    from blockformer.generation.text_model import TextModel  # torch only now, so that --help answers at once

    model = TextModel.load(options.checkpoint, _device(options.device))
    way = choose_way(model.model.kind, options)
    try:
        way.run(model, text, options)
    except ValueError as error:
        raise UserError(str(error)) from error
    return 0


def _text(prompt: str) -> str:
    """The prompt, read from stdin if it is `-`, without the line break at its end."""
    try:
        if prompt == "-":
            return sys.stdin.buffer.read().decode().removesuffix("\n")
        prompt.encode()  # arguments that are no UTF-8 arrive as half surrogate pairs
    except UnicodeError:
        raise UserError("the prompt is not valid UTF-8") from None
    return prompt


def _device(name: str | None) -> str:
    """The device asked for, or a GPU if there is one."""
    import torch

    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # torch says both
        raise UserError(f"--device {name} cannot be used: {str(error).splitlines()[0]}") from None
    return name


@dataclass(frozen=True)
class Way:
    """One way to make text.

    Attributes:
        name: for messages.
        own: options that ask for this way.
        others: further options that it has.
        run: writes to stdout what the model makes of the prompt.
    """

    name: str
    own: tuple[str, ...]
    others: tuple[str, ...]
    run: "Callable[[TextModel, str, Namespace], None]"


def choose_way(kind: str, options: Namespace) -> Way:
    """The way that the model's kind and the options ask for.

    Raises:
        UserError: an option was given that this way does not have.
    """
    given = [name for way in WAYS for name in (*way.own, *way.others) if getattr(options, name) is not None]
    usual = {"encoder_only": FILL, "encoder_decoder": SEARCH}.get(kind, DRAW)
    way = usual if usual is FILL else next((way for way in WRITING if set(way.own) & set(given)), usual)
    for name in given:
        if name not in (*way.own, *way.others):
            raise UserError(f"--{name.replace('_', '-')} is no option of {way.name}, which is asked for here")
    return way


def _take_best(model: "TextModel", text: str, options: Namespace) -> None:
    from blockformer.generation import greedy

    _stream(model, text, options, greedy)


def _draw(model: "TextModel", text: str, options: Namespace) -> None:
    import torch

    from blockformer.generation import sampler

    generator = torch.Generator().manual_seed(options.seed or 0)
    temperature = 1.0 if options.temperature is None else options.temperature
    choose = sampler(temperature=temperature, top_k=options.top_k, top_p=options.top_p, generator=generator)
    _stream(model, text, options, choose)


def _stream(model: "TextModel", text: str, options: Namespace, choose: "TokenChooser") -> None:
    begin, sources = _task(model, text)
    tokens, samples = _tokens(model, begin, options), _samples(options)
    for source in sources:
        for number in range(1, samples + 1):
            _show(f"--- {number}\n" if samples > 1 else "", begin)
            for characters in model.stream(begin, max_new_tokens=tokens, choose=choose, source=source):
                _show(characters)
            _show("\n")


def _search(model: "TextModel", text: str, options: Namespace) -> None:
    begin, sources = _task(model, text)
    beams, samples = 4 if options.beams is None else options.beams, _samples(options)
    if samples > beams:
        raise ValueError(f"a search with {beams} beams cannot find {samples} texts: more --beams or fewer --samples")
    results = model.search(
        [begin] * len(sources),
        sources=None if sources == [None] else [source or "" for source in sources],
        max_new_tokens=_tokens(model, begin, options),
        beams=beams,
        best=samples,
        alpha=0.6 if options.length_penalty is None else options.length_penalty,
    )
    for found in results:
        for written, score in found[:samples]:
            _show(f"{score:.3f}\t" if samples > 1 else "", begin, written, "\n")


def _fill(model: "TextModel", text: str, options: Namespace) -> None:
    blank = options.blank or "_"
    if blank not in text:
        raise ValueError(f"the prompt has no blank to fill in; write {blank} for every missing token")
    filled, blanks = model.fill_masks(text, blank)
    _show(filled, "\n")
    for number, found in enumerate(blanks, start=1):
        candidates = (f"{model.tokenizer.name(token)!r} {share:.1%}" for token, share in found.candidates)
        _show(f"  blank {number}: ", "  ".join(candidates), "\n")


def _task(model: "TextModel", text: str) -> tuple[str, list[str] | list[None]]:
    """What is to be continued, and what is to be read meanwhile."""
    if model.model.kind != "encoder_decoder":
        return text, [None]
    if not text:
        raise ValueError("there is nothing to translate: give it with --prompt")
    return "", text.splitlines()


def _tokens(model: "TextModel", begin: str, options: Namespace) -> int:
    """How many tokens to write at most; if fewer fit than were asked for, that is said on stderr."""
    if options.max_new_tokens is None:
        return TOKENS
    if 0 < (fits := model.token_budget(begin, options.max_new_tokens)) < options.max_new_tokens:
        print(f"the model's max_length of {model.model.max_length} leaves room for {fits} tokens", file=sys.stderr)
    return options.max_new_tokens


def _samples(options: Namespace) -> int:
    if options.samples is not None and options.samples < 1:
        raise ValueError(f"--samples {options.samples} must be at least 1")
    return options.samples or 1


def _show(*parts: str) -> None:
    """Write at once; to a terminal without what would control it."""
    text = "".join(parts)
    if sys.stdout.isatty():
        text = "".join(one if one.isprintable() or one in "\n\t" else "\N{REPLACEMENT CHARACTER}" for one in text)
    sys.stdout.write(text)
    sys.stdout.flush()


GREEDY = Way("greedy decoding", ("greedy",), ("max_new_tokens",), _take_best)
SEARCH = Way("beam search", ("beams", "length_penalty"), ("samples", "max_new_tokens"), _search)
DRAW = Way("drawing at random", ("temperature", "top_k", "top_p", "seed"), ("samples", "max_new_tokens"), _draw)
FILL = Way("filling in blanks", ("blank",), (), _fill)
WRITING = (GREEDY, SEARCH, DRAW)
WAYS = (*WRITING, FILL)


def _parser() -> Parser:
    parser = Parser(prog="blockformer generate", description=DESCRIPTION, epilog=EXAMPLES)
    add = parser.add_argument
    add("checkpoint", metavar="CKPT", help="a checkpoint, or the folder of a run (its best checkpoint, else its last)")
    add("--prompt", default="", metavar="TEXT", help="what to start from; - reads it from standard input")
    add("--max-new-tokens", type=int, metavar="N", help="write at most so many tokens (256)")
    add("--samples", type=int, metavar="N", help="write so many texts; of a beam search the best ones (1)")
    add("--greedy", action="store_const", const=True, help="take the most probable token each time")
    add("--temperature", type=float, metavar="T", help="draw at random; below 1 bolder guesses are rarer (1)")
    add("--top-k", type=int, metavar="K", help="draw among the K most probable tokens (all)")
    add("--top-p", type=float, metavar="P", help="draw among the fewest tokens with probability P together (1)")
    add("--seed", type=int, metavar="N", help="decides what is drawn; the same seed draws the same (0)")
    add("--beams", type=int, metavar="N", help="search for the most probable text, keeping N at each token (4)")
    add("--length-penalty", type=float, metavar="A", help="of the search: 0 favours short texts, 1 long ones (0.6)")
    add("--blank", metavar="TEXT", help="how a blank is written (_)")
    add("--device", metavar="NAME", help="such as cpu or cuda:0 (a GPU if there is one)")
    parser.add_argument("--plugin", metavar="MODULE", help="import a module that registers blocks; may be repeated")
    return parser
