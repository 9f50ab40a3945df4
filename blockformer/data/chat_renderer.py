"""Conversations rendered by a chat template, in a process of its own."""

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from blockformer.data import chat_sandbox
from blockformer.data.chat_template import ChatTemplate
from blockformer.data.corpora.corpus import Chat
from blockformer.errors import DataError
from registry.text import shortened

SECONDS = 10.0
"""That a template may take for a conversation."""
_SURROGATE = re.compile("[\ud800-\udfff]")


class Rendered(NamedTuple):
    """A conversation as a text.

    Attributes:
        text: the text.
        spans: the first character of each part that the template marks as the assistant's, and the one after its last.
    """

    text: str
    spans: Sequence[tuple[int, int]]


class ChatRenderer:
    """Renders conversations by a template that may come from a stranger.

    The process has Jinja's sandbox, a limit of time for each conversation, and limits of memory and of the length of
    the text. It ends with the `with` block.

    Args:
        template: The template.
        seconds: The limit of time.

    Raises:
        DataError: It is no template, or takes too long.
    """

    def __init__(self, template: ChatTemplate, seconds: float = SECONDS) -> None:
        self._origin, self._seconds = template.origin, seconds
        command = [sys.executable, "-P", str(Path(chat_sandbox.__file__)), str(seconds)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            self._send({"template": template.text, "tokens": dict(template.tokens)})
            answer = self._answer()
        except BaseException:
            self.close()
            raise
        if (error := answer.get("error")) is not None:
            self.close()
            raise DataError(f"{self._origin} is not a valid Jinja template: {shortened(error)}")
        self.marks: bool = answer["marks"]
        self._uses_tools: bool = answer["tools"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def render(self, chats: Sequence[Chat], *, prompt: bool = False) -> Iterator[Rendered]:
        """The texts of conversations.

        Args:
            chats: The conversations.
            prompt: End with what comes before the assistant's next message.

        Raises:
            DataError: The template refuses a conversation, does not use its tools, does what a template must not do,
                or takes too long; the message has the conversation's place.
        """
        for chat in chats:
            if chat.tools and not self._uses_tools:
                raise DataError(
                    f"{chat.where}: the conversation has tools, which {self._origin} does not use: choose a template "
                    "that does, or leave the tools out"
                )
        given = [{"messages": chat.messages, "tools": chat.tools} for chat in chats]
        self._send({"conversations": given, "prompt": prompt})
        for chat in chats:
            answer = self._answer(f"{chat.where}: ")
            if (error := answer.get("error")) is not None:
                raise DataError(f"{chat.where}: {self._origin} cannot render the conversation: {shortened(error)}")
            if _SURROGATE.search(answer["text"]):
                raise DataError(f"{chat.where}: {self._origin} renders it to a text with an unpaired surrogate")
            yield Rendered(answer["text"], answer["spans"])

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _send(self, request: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # there will be no answer
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()

    def _answer(self, where: str = "") -> dict[str, Any]:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer.endswith(b"\n"):
            raise DataError(f"{where}{self._origin} took more than {self._seconds:g} seconds, or crashed")
        return json.loads(answer)


def check_template(template: ChatTemplate) -> None:
    """Check that a template can be read and marks answers.

    Raises:
        DataError: it cannot, or it does not; the message says what to do.
    """
    with ChatRenderer(template) as renderer:
        if not renderer.marks:
            raise DataError(
                f"{template.origin} marks no answers, which alone are scored: put {{% generation %}} and "
                "{% endgeneration %} around the assistant's text in a copy of it, and name the copy by "
                "--data.chat_template"
            )
