"""`blockformer generate`: continue, translate or fill in text with a trained model."""

import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blockformer.cli.generate_arguments import parser
from blockformer.errors import UserError

if TYPE_CHECKING:
    from blockformer.cli.prompts import Task
    from blockformer.generation import TokenChooser
    from blockformer.generation.session import Ends
    from blockformer.generation.speculative import Drafting
    from blockformer.generation.text_model import TextModel

TOKENS = 256
_LINE_ENDS = dict.fromkeys(map(ord, "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"), " ")


def main(arguments: Sequence[str]) -> int:
    """Print the generated text.

    Raises:
        UserError: there is no such checkpoint, a file cannot be read, or the options do not suit the model.
    """
    options = parser().parse_args(arguments)
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
    if options.draft is None and options.draft_tokens is not None:
        raise UserError("--draft-tokens has no effect without --draft")
    if kind == "encoder_decoder" and options.prompt_chunk is not None:
        raise UserError("--prompt-chunk has no effect with an encoder-decoder, whose source is read at once")
    if options.draft is not None and options.compile:
        raise UserError("--compile has no effect with --draft, whose steps have varying numbers of tokens")
    return method


def _take_best(model: "TextModel", tasks: "list[Task]", eos: "Ends", options: Namespace) -> None:
    from blockformer.generation import greedy

    _write(model, tasks, eos, options, greedy)


def _draw(model: "TextModel", tasks: "list[Task]", eos: "Ends", options: Namespace) -> None:
    import torch

    from blockformer.generation import sampler

    if not 0 <= (options.seed or 0) < 2**63:
        raise ValueError(f"--seed {options.seed} must be at least 0 and below 2^63")
    generator = torch.Generator().manual_seed(options.seed or 0)
    temperature = 1.0 if options.temperature is None else options.temperature
    choose = sampler(temperature=temperature, top_k=options.top_k, top_p=options.top_p, generator=generator)
    _write(model, tasks, eos, options, choose)


def _write(model: "TextModel", tasks: "list[Task]", eos: "Ends", options: Namespace, choose: "TokenChooser") -> None:
    """Continue or translate greedily or by sampling: token by token, but several prompts side by side."""
    from blockformer.generation.text_model import WRITING_BATCH

    drafting, samples = _drafting(model, options), _samples(options)
    given: dict[str, Any] = {"choose": choose, "prompt_chunk": options.prompt_chunk, "compiled": bool(options.compile)}
    given |= {"max_new_tokens": _tokens(model, tasks, options), "eos": eos}
    together = WRITING_BATCH if len(tasks) > 1 and tasks[0].source is None and drafting is None else 1
    for start in range(0, len(tasks), together):
        part, written = tasks[start : start + together], list[list[str]]()
        if together > 1:
            written = [model.write([task.begin for task in part], **given) for _ in range(samples)]
        for index, task in enumerate(part):
            for sample in range(samples):
                _show(_heading(task.where, str(sample + 1) if samples > 1 else ""), task.shown)
                if written:
                    _show(written[sample][index])
                elif task.source != "":
                    for characters in model.stream(task.begin, source=task.source, drafting=drafting, **given):
                        _show(characters if task.source is None else _on_one_line(characters))
                _show("\n")
    if drafting is not None:
        found = f"{drafting.accepted:,} of {drafting.proposed:,} drafted tokens were accepted ({drafting.share:.0%})"
        print(found, file=sys.stderr)


def _drafting(model: "TextModel", options: Namespace) -> "Drafting | None":
    """The model of --draft."""
    if options.draft is None:
        return None
    from blockformer.generation.text_model import TextModel

    draft = TextModel.load(options.draft, next(model.model.parameters()).device)
    return model.drafting(draft, 4 if options.draft_tokens is None else options.draft_tokens)


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
    blank = options.blank or "_"
    for task in tasks:
        if blank not in task.shown:
            which = f"prompt {task.where}" if task.where else "the prompt"
            raise ValueError(f"{which} has no blank; write {blank} for each missing token")
    for task in tasks:
        filled, blanks = model.fill_masks(task.shown, blank)
        _show(_heading(task.where), filled, "\n")
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
        after = " after the longest prompt" if len(tasks) > 1 else ""
        name, longest = model.model.target_limit
        print(f"the model's {name} of {longest} leaves room for {fits} tokens{after}", file=sys.stderr)
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


STEPWISE = ("max_new_tokens", "draft", "draft_tokens", "prompt_chunk", "compile")
GREEDY = Method("greedy decoding", ("greedy",), STEPWISE, _take_best)
SEARCH = Method("beam search", ("beams", "length_penalty"), ("samples", "max_new_tokens"), _search)
DRAW = Method("sampling", ("temperature", "top_k", "top_p", "seed"), ("samples", *STEPWISE), _draw)
FILL = Method("filling in blanks", ("blank",), (), _fill)
WRITING = (GREEDY, SEARCH, DRAW)
METHODS = (*WRITING, FILL)
