"""What `blockformer generate` continues, translates, fills in or answers."""

import re
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from blockformer.data import plain_text
from blockformer.data.corpora.chats import Columns, chats_in, chats_of
from blockformer.data.corpora.corpus import Chat
from blockformer.errors import UserError

if TYPE_CHECKING:
    from blockformer.generation.text_model import TextModel

LONGEST = 2**28
"""Bytes of a prompt on standard input."""


@dataclass(frozen=True)
class Task:
    """Something to generate.

    Args:
        begin: a text to continue or fill in, or the token ids of a conversation to answer.
        source: a line to translate, for an encoder-decoder.
        where: the place of a conversation or the number of a prompt, if there are several.
    """

    begin: str | Sequence[int]
    source: str | None = None
    where: str = ""

    @property
    def shown(self) -> str:
        """What is printed before what is generated."""
        return self.begin if isinstance(self.begin, str) else ""


def read(options: Namespace) -> list[str] | list[Chat]:
    """The prompts, or the conversations of --messages.

    Raises:
        UserError: they cannot be read, or the options contradict each other.
    """
    if options.messages is None:
        for name in ("column", "tools_column"):
            if getattr(options, name) is not None:
                raise UserError(f"--{name.replace('_', '-')} has no effect without --messages")
        return _prompts(options)
    for name in ("prompt", "prompts"):
        if getattr(options, name) is not None:
            raise UserError(f"--{name} has no effect with --messages: put it into a message")
    given = {"messages": options.column, "tools": options.tools_column}
    columns = Columns(**{name: column for name, column in given.items() if column is not None})
    if options.messages == "-":
        found = [*chats_in(_standard_input("--messages"), "standard input", columns)]
    else:
        found = [*chats_of([Path(options.messages).expanduser()], columns)]
    if not found:
        raise UserError(f"--messages {options.messages}: there is no conversation")
    return found


def tasks_of(
    model: "TextModel", given: list[str] | list[Chat], options: Namespace
) -> tuple[list[Task], list[int] | None]:
    """What to generate, and the ids that end it; None: the tokenizer's end token.

    Args:
        model: the model that generates.
        given: what :func:`read` has found.
        options: those of the command.

    Raises:
        ValueError: the model cannot generate it.
    """
    several = len(given) > 1
    if options.messages is not None:
        chats = cast("list[Chat]", given)
        prompts, ends = model.chat_prompts(chats)
        return [Task(ids, where=one.where if several else "") for one, ids in zip(chats, prompts, strict=True)], ends
    texts = cast("list[str]", given)
    if model.model.kind == "encoder_decoder":
        return [Task("", source) for source in _sources(model, texts)], None
    origins = [*(options.prompt or []), *[None] * len(texts)]  # the line end of standard input is no part of the prompt
    texts = [re.sub(r"\r?\n\Z", "", one) if origin == "-" else one for one, origin in zip(texts, origins, strict=False)]
    for number, text in enumerate(texts, start=1):
        if (size := model.prompt_size(text)) > model.model.max_length and several:
            raise ValueError(
                f"prompt {number} has {size} tokens, but the model's max_length is {model.model.max_length}"
            )
    return [Task(text, where=str(number) if several else "") for number, text in enumerate(texts, start=1)], None


def _sources(model: "TextModel", texts: list[str]) -> list[str]:
    """The lines that an encoder-decoder translates, read as training reads a source."""
    sources = [plain_text.stripped(line) for text in texts for line in plain_text.lines(text)]
    if not sources:
        raise ValueError("there is no text to translate; give it with --prompt")
    for number, source in enumerate(sources, start=1):
        if (size := len(model.encode(source))) > model.model.max_length:
            which = f"line {number} of the prompt" if len(sources) > 1 else "a source"
            raise ValueError(f"{which} has {size} tokens, but the model's max_length is {model.model.max_length}")
    return sources


def _prompts(options: Namespace) -> list[str]:
    """The prompts, those of standard input (`-`) and of a file decoded; one empty prompt by default."""
    given: list[str] = options.prompt or []
    if given.count("-") > 1:
        raise UserError("--prompt -: standard input can be read once only")
    found = [_text(prompt) for prompt in given]
    if options.prompts is not None:
        found += plain_text.lines(plain_text.read(Path(options.prompts).expanduser()))
    return found or [""]


def _text(prompt: str) -> str:
    """The prompt, read from standard input if it is `-`."""
    if prompt == "-":
        data = _standard_input("--prompt").read(LONGEST + 1)
        if len(data) > LONGEST:
            raise UserError(f"the prompt on standard input is longer than {LONGEST:,} bytes: give it in parts")
        return plain_text.decode(data, "the prompt")
    try:
        prompt.encode()  # arguments that are not UTF-8 contain lone surrogates
    except UnicodeError:
        raise UserError("the prompt is not valid UTF-8") from None
    return prompt


def _standard_input(option: str) -> IO[bytes]:
    if sys.stdin is None:
        raise UserError(f"{option} -: there is no standard input")
    return sys.stdin.buffer
