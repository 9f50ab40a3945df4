"""A corpus of conversations in JSON lines, Parquet or Arrow, which is read row by row and may exceed the memory."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blockformer.data.corpora import file_notes
from blockformer.data.corpora.corpus import SPLITS, Chat, Corpus, Source, StreamedCorpus, size_of
from blockformer.data.corpora.files import Files, refuse_nothing, stamps_of, unchanged
from blockformer.data.corpora.table_readers import READERS, Counter, Values, reader_of
from blockformer.data.corpora.table_rows import raw_json_rows, raw_rows, text_of
from blockformer.data.corpora.tables import key_of, limits_of, overlaps, split_of
from blockformer.data.progress import stage
from blockformer.errors import DataError
from blockformer.files import is_deeper, parse_json

ASSISTANT, TOOLS = "assistant", "tools"
_ROLES = {"human": "user", "gpt": ASSISTANT}
"""What ShareGPT calls the speakers."""
DEEPEST = 100
"""Levels of lists and objects in a conversation, so that no step of reading it exceeds Python's recursion limit."""


class Columns(NamedTuple):
    """The columns of conversations.

    Attributes:
        messages: the name of the column of messages.
        tools: the name of the column of tools; None: there is none. One called `tools` may be missing.
    """

    messages: str = "messages"
    tools: str | None = TOOLS

    @property
    def names(self) -> list[str]:
        """Those that are read."""
        return [self.messages] if self.tools is None else [self.messages, self.tools]

    @property
    def optional(self) -> tuple[str, ...]:
        """Those that may be missing."""
        return (TOOLS,) if self.tools == TOOLS else ()


def source(files: Files, columns: Columns, template: tuple[str, str] | None = None) -> Source:
    """Conversations, one a row.

    Args:
        files: Which files; whole files for validation and test, or shares of the conversations of the training files,
            of which those that are equal up to the first answer stay together.
        columns: The names of their columns.
        template: The text of a chat template that takes the place of the tokenizer's, and where it is from.

    Raises:
        DataError: A file is missing or empty, or its ending is not that of JSON lines, Parquet or Arrow.
    """
    stamps = stamps_of(files)
    for path in (path for paths in files.own().values() for path in paths):
        _check_format(path)
        refuse_nothing(path)
    key = {"dataset": "chat", "columns": columns, "files": stamps, "shares": dict(files.shares), "format": 2}
    key["again"] = [*map(str, files.named_again())]

    def read() -> Corpus:
        own = files.own()
        keys, size = _keys(own, columns)
        unchanged(files, stamps)
        if empty := [split for split in ("train", *files.given()) if not len(keys[split])]:
            names = ("data.files" if split == "train" else f"data.{split}_files" for split in empty)
            raise DataError(f"{', '.join(names)}: there is no conversation")
        limits = limits_of(keys["train"], files.taken())
        if int(keys["train"].max()) < (limits[-1][1] if limits else 0):
            raise DataError("chat: validation and test leave no training data; lower their shares")

        def stream() -> Iterator[tuple[str, Chat]]:
            for split, paths in own.items():
                for chat in chats_of(paths, columns):
                    yield split_of(_key(chat), limits) if split == "train" else split, chat
            unchanged(files, stamps)

        notes = {split: [*overlaps(files, split, keys, "first questions")] for split in SPLITS}
        notes["train"] += file_notes.repetition_notes(files.named_again(), {})
        facts = {"dataset": "chat", "files": {split: [path.name for path in paths] for split, paths in own.items()}}
        return StreamedCorpus({}, False, facts, notes, chats=True, read=stream, bytes=size)

    return Source(key, read, chats=True, template=template)


def messages_of(value: Any, where: str, column: str) -> list[dict[str, Any]]:
    """The messages of a conversation; those of ShareGPT (`from`, `value`) as those of others (`role`, `content`).

    Args:
        value: A JSON value that should be a list of messages.
        where: Its place, for messages of errors.
        column: The name of its column.

    Raises:
        DataError: It is no such list.
    """
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else type(value).__name__
        raise DataError(
            f'{where}: {column} must be a list of messages such as {{"role": "user", "content": "..."}}, not {found}'
        )
    messages = [_message(one, f"{where}: message {number} of {column}") for number, one in enumerate(value, start=1)]
    return _encodable(messages, where, column)


def _message(value: Any, which: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{which} must be an object with role and content, not {type(value).__name__}")
    silent = "tool_calls" in value and value["tool_calls"] is not None  # whose content may be null, and stays so
    message = {key: one for key, one in value.items() if one is not None or (key == "content" and silent)}
    if not {"role", "content"} & message.keys() and {"from", "value"} <= message.keys():
        speaker, said = message.pop("from"), message.pop("value")
        message |= {"role": _ROLES.get(speaker, speaker) if isinstance(speaker, str) else speaker, "content": said}
    for key in ("role", "content"):
        if message.get(key) is not None:
            text_of(message[key], which, key)
        elif key == "role" or not silent:
            raise DataError(f"{which} has no {key}")
    return message


def tools_of(value: Any, where: str, column: str) -> list[dict[str, Any]] | None:
    """The tools of a conversation: objects such as JSON schemas, in a list or in the JSON text of one.

    Args:
        value: What should be such a list; None: there are no tools.
        where: Its place, for messages of errors.
        column: The name of its column.

    Raises:
        DataError: It is no such list.
    """
    if isinstance(value, str):
        try:
            value = parse_json(value) if value.strip() else None
        except ValueError:
            raise DataError(f"{where}: {column} is a text, but not the JSON of a list of tools") from None
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise DataError(f"{where}: {column} must be a list of objects, such as the JSON schemas of functions")
    return _encodable(value, where, column)


def _encodable(value: Any, where: str, column: str) -> Any:
    """The value.

    Raises:
        DataError: It has too many levels, or UTF-8 cannot encode a text in it.
    """
    if is_deeper(value, DEEPEST):
        raise DataError(f"{where}: {column} has more than {DEEPEST} levels of lists and objects; remove some")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: {column} has an unpaired surrogate; remove it") from None
    except TypeError as error:  # a date or bytes of Parquet or Arrow
        raise DataError(f"{where}: {column} has a value that JSON does not have ({error}); make it text") from None
    return value


def _check_format(path: Path) -> None:
    if reader_of(path) is READERS[".csv"]:
        raise DataError(
            f"{path}: CSV has no lists of messages: write the conversations to a file that ends with .jsonl, .parquet "
            "or .arrow"
        )


def chats_in(stream: IO[bytes], name: str, columns: Columns) -> Iterator[Chat]:
    """The conversations of a stream of JSON lines.

    Args:
        stream: The lines.
        name: Of the stream, for messages.
        columns: The names of their columns.

    Raises:
        DataError: A line is no conversation; the message has the line.
    """
    return _chats(raw_json_rows(stream, name, columns.names, columns.optional), columns)


def chats_of(paths: Sequence[Path], columns: Columns, count: Counter = int) -> Iterator[Chat]:
    """The conversations of files.

    Args:
        paths: The files.
        columns: The names of their columns.
        count: Called with the number of bytes that were just read from a file.

    Raises:
        DataError: A file cannot be read, or a row is no conversation; the message has the line or the row.
    """
    for path in paths:
        _check_format(path)
        rows = raw_rows(path, columns.names, columns.optional, count)
        if reader_of(path) is not READERS[".jsonl"]:
            rows = ((where, _without_nulls(row)) for where, row in rows)
        yield from _chats(rows, columns)


def _chats(rows: Values, columns: Columns) -> Iterator[Chat]:
    for where, (messages, *tools) in rows:
        found = tools_of(tools[0], where, columns.names[1]) if tools else None
        yield Chat(messages_of(messages, where, columns.messages), where, found)


def _without_nulls(value: Any) -> Any:
    """A value of a column without the keys whose value is null: all objects of such a column have the same keys."""
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return type(value)(map(_without_nulls, value)) if isinstance(value, list | tuple) else value


def _keys(own: Mapping[str, Sequence[Path]], columns: Columns) -> tuple[dict[str, NDArray[np.uint64]], int]:
    """The keys of the conversations of each split, and the size of all messages in bytes of UTF-8."""
    size = 0

    def keys(paths: Sequence[Path]) -> Iterator[int]:
        nonlocal size
        for chat in chats_of(paths, columns, reading.advance):
            size += size_of(chat)
            yield _key(chat)

    with stage("reading", sum(path.stat().st_size for paths in own.values() for path in paths)) as reading:
        found = {split: np.fromiter(keys(paths), np.uint64) for split, paths in own.items()}
    return found, size


def _key(chat: Chat) -> int:
    """The key of the messages before the first answer; of all messages if there are none before it, or no answer."""
    said = [(message["role"], message.get("content")) for message in chat.messages]
    first = next((number for number, (role, _) in enumerate(said) if role == ASSISTANT), 0)
    return key_of(json.dumps(said[:first] or said))
