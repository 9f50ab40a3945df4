"""`blockformer generate`: continue, translate or fill in text with a trained model."""

import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blockformer.cli.parser import Parser
from blockformer.errors import UserError

if TYPE_CHECKING:
    from blockformer.cli.prompts import Task
    from blockformer.generation import TokenChooser
    from blockformer.generation.session import Ends
    from blockformer.generation.text_model import TextModel

TOKENS = 256
_LINE_ENDS = dict.fromkeys(map(ord, "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"), " ")

DESCRIPTION = """\
Generate text with a trained model. A decoder continues the prompt or answers messages; default: by sampling. An
encoder-decoder translates each line of the prompt; default: by beam search. An encoder fills in the blanks of the
prompt: each blank is one token (with a byte tokenizer: one byte), and its most probable candidates are listed."""
EXAMPLES = """\
examples:
  blockformer generate runs/writer --prompt 'Return the number of' --temperature 0.8 --top-p 0.95
  blockformer generate runs/translator --prompt 'Tuesday, March 3' --beams 8 --samples 3
  blockformer generate runs/reader --prompt 'Return the numb__ of items'
  blockformer generate runs/chat --messages questions.jsonl --greedy"""


def main(arguments: Sequence[str]) -> int:
    """Print the generated text.

    Raises:
        UserError: there is no such checkpoint, a file cannot be read, or the options do not suit the model.
    """
    options = _parser().parse_args(arguments)
    from blockformer.cli.prompts import read, tasks_of  # imported late: --help then needs no numpy, and no torch

    given = read(options)
    from blockformer.generation.device import usable_device
    from blockformer.generation.text_model import TextModel

    model = TextModel.load(options.checkpoint, usable_device(options.device))
    method = choose_method(model.model.kind, options)
    try:
        method.run(model, *tasks_of(model, given, options), options)
    except ValueError as error:
        raise UserError(str(error)) from error
    return 0


@dataclass(frozen=True)
class Method:
    """A method to generate text, such as beam search.

    Attributes:
        name: for messages.
        own: options that select this method.
        others: further options of it.
        run: generates the text and prints it.
    """

    name: str
    own: tuple[str, ...]
    others: tuple[str, ...]
    run: "Callable[[TextModel, list[Task], Ends, Namespace], None]"


def choose_method(kind: str, options: Namespace) -> Method:
    """The method for this kind of model and these options.

    Raises:
        UserError: an option has no effect in this method.
    """
    given = [name for method in METHODS for name in (*method.own, *method.others) if getattr(options, name) is not None]
    usual = {"encoder_only": FILL, "encoder_decoder": SEARCH}.get(kind, DRAW)
    method = usual if usual is FILL else next((method for method in WRITING if set(method.own) & set(given)), usual)
    for name in given:
        if name not in (*method.own, *method.others):
            raise UserError(f"--{name.replace('_', '-')} has no effect with {method.name}")
    return method


def _take_best(model: "TextModel", tasks: "list[Task]", eos: "Ends", options: Namespace) -> None:
    from blockformer.generation import greedy

    _stream(model, tasks, eos, options, greedy)


def _draw(model: "TextModel", tasks: "list[Task]", eos: "Ends", options: Namespace) -> None:
    import torch

    from blockformer.generation import sampler

    if not 0 <= (options.seed or 0) < 2**63:
        raise ValueError(f"--seed {options.seed} must be at least 0 and below 2^63")
    generator = torch.Generator().manual_seed(options.seed or 0)
    temperature = 1.0 if options.temperature is None else options.temperature
    choose = sampler(temperature=temperature, top_k=options.top_k, top_p=options.top_p, generator=generator)
    _stream(model, tasks, eos, options, choose)


def _stream(model: "TextModel", tasks: "list[Task]", eos: "Ends", options: Namespace, choose: "TokenChooser") -> None:
    tokens, samples = _tokens(model, tasks, options), _samples(options)
    for task in tasks:
        for number in range(1, samples + 1):
            _show(_heading(task.where, str(number) if samples > 1 else ""), task.shown)
            if task.source != "":
                written = model.stream(task.begin, max_new_tokens=tokens, choose=choose, source=task.source, eos=eos)
                for characters in written:
                    _show(characters if task.source is None else _on_one_line(characters))
            _show("\n")


def _search(model: "TextModel", tasks: "list[Task]", eos: "Ends", options: Namespace) -> None:
    beams, samples = 4 if options.beams is None else options.beams, _samples(options)
    if samples > beams:
        raise ValueError(f"{beams} beams cannot find {samples} texts; increase --beams or reduce --samples")
    sources = [task.source for task in tasks if task.source]
    results = iter(
        model.search(
            [task.begin for task in tasks if task.source != ""],
            sources=sources if tasks[0].source is not None else None,
            max_new_tokens=_tokens(model, tasks, options),
            beams=beams,
            best=samples,
            alpha=0.6 if options.length_penalty is None else options.length_penalty,
            eos=eos,
        )
    )
    for task in tasks:
        _show(_heading(task.where))
        found = [("", 0.0)] * samples if task.source == "" else next(results)
        for written, score in found[:samples]:
            line = task.shown + written if task.source is None else _on_one_line(written)
            _show(f"{score:.3f}\t" if samples > 1 else "", line, "\n")


def _fill(model: "TextModel", tasks: "list[Task]", _: "Ends", options: Namespace) -> None:
    blank, text = options.blank or "_", tasks[0].shown
    if blank not in text:
        raise ValueError(f"the prompt has no blank; write {blank} for each missing token")
    filled, blanks = model.fill_masks(text, blank)
    _show(filled, "\n")
    for number, found in enumerate(blanks, start=1):
        candidates = (f"{model.tokenizer.name(token)!r} {share:.1%}" for token, share in found.candidates)
        _show(f"  blank {number}: ", "  ".join(candidates), "\n")


def _heading(*parts: str) -> str:
    """The line before one of several texts."""
    named = ", ".join(part for part in parts if part)
    return f"--- {named}\n" if named else ""


def _on_one_line(text: str) -> str:
    """A translation, or part of one, with spaces for line ends: each line of the prompt has one line of output."""
    return text.translate(_LINE_ENDS)


def _tokens(model: "TextModel", tasks: "list[Task]", options: Namespace) -> int:
    """The largest number of new tokens; prints a note to stderr if fewer than requested fit."""
    if options.max_new_tokens is None:
        return TOKENS
    fits = min(model.token_budget(task.begin, options.max_new_tokens) for task in tasks)
    if 0 < fits < options.max_new_tokens:
        print(f"the model's max_length of {model.model.max_length} leaves room for {fits} tokens", file=sys.stderr)
    return options.max_new_tokens


def _samples(options: Namespace) -> int:
    if options.samples is not None and options.samples < 1:
        raise ValueError(f"--samples {options.samples} must be at least 1")
    return options.samples or 1


def _show(*parts: str) -> None:
    """Print and flush; for a terminal, escape control characters."""
    from registry.text import terminal_text

    text = "".join(parts)
    if sys.stdout.isatty():
        text = terminal_text(text)
    sys.stdout.write(text)
    sys.stdout.flush()


GREEDY = Method("greedy decoding", ("greedy",), ("max_new_tokens",), _take_best)
SEARCH = Method("beam search", ("beams", "length_penalty"), ("samples", "max_new_tokens"), _search)
DRAW = Method("sampling", ("temperature", "top_k", "top_p", "seed"), ("samples", "max_new_tokens"), _draw)
FILL = Method("filling in blanks", ("blank",), (), _fill)
WRITING = (GREEDY, SEARCH, DRAW)
METHODS = (*WRITING, FILL)


def _parser() -> Parser:
    parser = Parser(prog="blockformer generate", description=DESCRIPTION, epilog=EXAMPLES)
    add = parser.add_argument
    add("checkpoint", metavar="CKPT", help="a checkpoint, or a run folder (its best checkpoint, else its last)")
    add(
        "--prompt",
        metavar="TEXT",
        help="text to continue, translate or fill in; -: read standard input; default: empty",
    )
    add(
        "--messages",
        metavar="FILE",
        help="conversations to answer, such as JSON lines with `messages`, by the tokenizer's chat template; -: read "
        "JSON lines from standard input",
    )
    add("--column", metavar="NAME", help="column of the messages of a conversation; default: messages")
    add("--max-new-tokens", type=int, metavar="N", help="largest number of new tokens; default: 256")
    add("--samples", type=int, metavar="N", help="number of texts; with beam search: the best N; default: 1")
    add("--greedy", action="store_const", const=True, help="always choose the most probable token")
    add(
        "--temperature",
        type=float,
        metavar="T",
        help="sampling: divide the logits by T; below 1: less random; default: 1",
    )
    add("--top-k", type=int, metavar="K", help="sampling: only from the K most probable tokens; default: all")
    add(
        "--top-p",
        type=float,
        metavar="P",
        help="sampling: only from the fewest tokens whose probabilities sum to P; default: 1",
    )
    add("--seed", type=int, metavar="N", help="sampling: seed of the random numbers; default: 0")
    add("--beams", type=int, metavar="N", help="beam search: candidates kept at each token; default: 4")
    add(
        "--length-penalty",
        type=float,
        metavar="A",
        help="beam search: 0 favours short texts, 1 long ones; default: 0.6",
    )
    add("--blank", metavar="TEXT", help="filling in: the characters that mark a blank; default: _")
    add("--device", metavar="NAME", help="device, such as cpu or cuda:0; default: a GPU if there is one, else cpu")
    parser.add_argument("--plugin", metavar="MODULE", help="import a module that registers blocks; may be repeated")
    return parser
