"""A program of its own that renders a chat template, which may come from a stranger, in bounded time and memory.

It reads and writes JSON, one object a line: first the template, then conversations. It imports nothing of Blockformer.
The environment is Jinja's immutable sandbox with what transformers gives to templates: trimmed blocks, `break` and
`continue`, `tojson`, `raise_exception`, `strftime_now`, and the tag `{% generation %}` around what the assistant says.
What takes too long ends the program from a thread that needs no lock of the interpreter.
"""

import contextlib
import faulthandler
import json
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import jinja2
import jinja2.meta
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock, Node
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

if sys.platform != "win32":
    import resource

MEMORY = 2**30
"""Bytes."""
LONGEST = 2**24
"""Characters of a rendered conversation."""


class Answers(Extension):
    """The tag `{% generation %}`: what it encloses is rendered as it is, and its place in the text is noted.

    Attributes:
        used: whether a template that was read has the tag.
        written: characters that have been rendered before the present one.
        found: the text of each such block, and its first character; of one inside another nothing.
    """

    tags = {"generation"}  # noqa: RUF012  (as Jinja declares it)

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.used, self.written, self.found = False, 0, list[tuple[int, str]]()
        self._inside = False

    def parse(self, parser: Any) -> Node:
        line, self.used = next(parser.stream).lineno, True
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_noted"), [], [], body).set_lineno(line)

    def _noted(self, caller: Any) -> str:
        if self._inside:
            return caller()
        self._inside = True
        try:
            text = caller()
        finally:
            self._inside = False
        self.found.append((self.written, text))
        return text

    def spans(self, whole: str) -> list[tuple[int, int]]:
        """The first character of each block in a rendered conversation, and the one after its last.

        Raises:
            ValueError: the text of a block is elsewhere, as that of a macro that writes something before it.
        """
        for start, text in self.found:
            if not whole.startswith(text, start):
                raise ValueError(
                    "what is between {% generation %} and {% endgeneration %} is moved or changed; use the tags "
                    "where the text is written, outside of macros, filters and {% set %}"
                )
        return [(start, start + len(text)) for start, text in self.found]


class _Dict:
    """The function `dict` without the attributes of the class."""

    def __call__(self, *args: Any, **values: Any) -> dict[Any, Any]:
        return dict(*args, **values)


class _Namespace(Namespace):
    """A namespace whose attributes begin with no underscore."""

    def __init__(*args: Any, **values: Any) -> None:
        self, *others = args
        found = dict(*others, **values)
        for name in found:
            _check_name(name)
        Namespace.__init__(self, found)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"namespace attributes must not begin with an underscore: {name!r}")


def _refuse(message: Any) -> None:
    raise jinja2.TemplateError(str(message))


def _as_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


class Sandbox:
    """A template that renders conversations.

    Args:
        text: the template.
        tokens: the names of special tokens.

    Raises:
        jinja2.TemplateError: it is no template.
    """

    def __init__(self, text: str, tokens: dict[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[Answers, loopcontrols]
        )
        environment.filters["tojson"] = _as_json
        environment.globals |= {
            "raise_exception": _refuse,
            "strftime_now": _now,
            "dict": _Dict(),
            "namespace": _Namespace,
        }
        (self._answers,) = (one for one in environment.extensions.values() if isinstance(one, Answers))
        self._template, self._tokens = environment.from_string(text), tokens
        self._names = jinja2.meta.find_undeclared_variables(environment.parse(text))

    @property
    def marks(self) -> bool:
        """Whether it marks what the assistant says."""
        return self._answers.used

    @property
    def uses_tools(self) -> bool:
        """Whether it reads the tools of a conversation."""
        return "tools" in self._names

    def render(self, chat: dict[str, Any], *, prompt: bool) -> dict[str, Any]:
        """The text of a conversation, and where the assistant's parts are in it.

        Args:
            chat: the conversation's `messages` and `tools`.
            prompt: end with what comes before the assistant's next message.

        Raises:
            Exception: of any class, if the template cannot be rendered.
        """
        self._answers.written, self._answers.found = 0, []
        text = "".join(self._parts(chat, prompt))
        return {"text": text, "spans": self._answers.spans(text)}

    def _parts(self, chat: dict[str, Any], prompt: bool) -> Iterator[str]:
        given = {**chat, "documents": None, "add_generation_prompt": prompt}
        for part in self._template.generate(**{**self._tokens, **given}):
            self._answers.written += len(part)
            if self._answers.written > LONGEST:
                raise ValueError(f"it makes more than {LONGEST:,} characters of it")
            yield part


def _reason(error: BaseException) -> str:
    """What went wrong, on one line."""
    if isinstance(error, MemoryError):
        return f"it needs more than {MEMORY // 2**20} MiB"
    line = f"line {error.lineno}: " if isinstance(error, jinja2.TemplateSyntaxError) else ""
    return f"{line}{' '.join(str(error).split()) or type(error).__name__}"


class Program:
    """Answers requests: the first one has the template, and each other one conversations.

    Args:
        seconds: what the template may take for a conversation, and a quarter more.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self._sandbox, self._armed = seconds, None, 0.0

    def answer(self, line: bytes) -> Iterator[dict[str, Any]]:
        """One answer for the template, or one for each conversation, in bounded time."""
        request = json.loads(line)
        for chat in request.get("conversations", ({},)):
            if (now := time.monotonic()) - self._armed > self._seconds / 4:  # starts a thread, so not each time
                faulthandler.dump_traceback_later(1.25 * self._seconds, exit=True)
                self._armed = now
            try:
                yield self._of(request, chat)
            except Exception as error:  # a template can raise anything
                yield {"error": _reason(error)}
        faulthandler.cancel_dump_traceback_later()
        self._armed = 0.0

    def _of(self, request: dict[str, Any], chat: Any) -> dict[str, Any]:
        if self._sandbox is None:
            self._sandbox = Sandbox(request["template"], request["tokens"])
            return {"marks": self._sandbox.marks, "tools": self._sandbox.uses_tools}
        return self._sandbox.render(chat, prompt=request["prompt"])


def main() -> None:
    """Answer each line of standard input; the first argument is the seconds for each conversation."""
    if sys.platform != "win32":
        with contextlib.suppress(ValueError, OSError):  # a smaller limit is set already
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    program = Program(float(sys.argv[1]))
    for line in sys.stdin.buffer:
        for answer in program.answer(line):
            sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
