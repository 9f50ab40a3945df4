"""The ways in which `blockformer generate` can make text, and which options each of them has."""

import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass

import torch

from blockformer.errors import UserError
from blockformer.generation import TokenChooser, greedy, sampler
from blockformer.generation.text_model import TextModel

TOKENS = 256


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
    run: Callable[[TextModel, str, Namespace], None]


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


def _take_best(model: TextModel, text: str, options: Namespace) -> None:
    _stream(model, text, options, greedy)


def _draw(model: TextModel, text: str, options: Namespace) -> None:
    generator = torch.Generator().manual_seed(options.seed or 0)
    temperature = 1.0 if options.temperature is None else options.temperature
    choose = sampler(temperature=temperature, top_k=options.top_k, top_p=options.top_p, generator=generator)
    _stream(model, text, options, choose)


def _stream(model: TextModel, text: str, options: Namespace, choose: TokenChooser) -> None:
    begin, sources = _task(model, text)
    tokens, samples = _tokens(model, begin, options), _samples(options)
    for source in sources:
        for number in range(1, samples + 1):
            _show(f"--- {number}\n" if samples > 1 else "", begin)
            for characters in model.stream(begin, max_new_tokens=tokens, choose=choose, source=source):
                _show(characters)
            _show("\n")


def _search(model: TextModel, text: str, options: Namespace) -> None:
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


def _fill(model: TextModel, text: str, options: Namespace) -> None:
    blank = options.blank or "_"
    if blank not in text:
        raise ValueError(f"the prompt has no blank to fill in; write {blank} for every missing token")
    filled, blanks = model.fill_masks(text, blank)
    _show(filled, "\n")
    for number, found in enumerate(blanks, start=1):
        candidates = (f"{model.tokenizer.name(token)!r} {share:.1%}" for token, share in found.candidates)
        _show(f"  blank {number}: ", "  ".join(candidates), "\n")


def _task(model: TextModel, text: str) -> tuple[str, list[str] | list[None]]:
    """What is to be continued, and what is to be read meanwhile."""
    if model.model.kind != "encoder_decoder":
        return text, [None]
    if not text:
        raise ValueError("there is nothing to translate: give it with --prompt")
    return "", text.splitlines()


def _tokens(model: TextModel, begin: str, options: Namespace) -> int:
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
