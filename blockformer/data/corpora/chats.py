"""A corpus of conversations in JSON lines, which is read line by line and may exceed the memory."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blockformer.data.corpora import file_notes
from blockformer.data.corpora.corpus import SPLITS, Chat, Corpus, Source, StreamedCorpus, size_of
from blockformer.data.corpora.files import Files, stamps_of, unchanged
from blockformer.data.corpora.table_rows import READERS, Counter, json_values, reader_of, text_of
from blockformer.data.corpora.tables import key_of, limits_of, overlaps, split_of
from blockformer.data.progress import stage
from blockformer.errors import DataError

ASSISTANT = "assistant"
_ROLES = {"human": "user", "gpt": ASSISTANT}
"""What ShareGPT calls the speakers."""
DEEPEST = 100
"""Levels of lists and objects in a conversation, so that no step of reading it exceeds Python's recursion limit."""


def source(files: Files, column: str, template: tuple[str, str] | None = None) -> Source:
    """Conversations, one a line.

    Args:
        files: Which files; whole files for validation and test, or shares of the conversations of the training files,
            of which those that are equal up to the first answer stay together.
        column: The name of the column of messages.
        template: The text of a chat template that takes the place of the tokenizer's, and where it is from.

    Raises:
        DataError: A file is missing, or its ending is not that of JSON lines.
    """
    stamps = stamps_of(files)
    for path in (path for paths in files.own().values() for path in paths):
        if reader_of(path) is not READERS[".jsonl"]:
            raise DataError(f"{path}: conversations are read from JSON lines alone: a file that ends with .jsonl")
    key = {"dataset": "chat", "column": column, "files": stamps, "shares": dict(files.shares), "format": 1}

    def read() -> Corpus:
        own = files.own()
        keys, size = _keys(own, column)
        unchanged(files, stamps)
        if empty := [split for split in ("train", *files.given()) if not len(keys[split])]:
            names = ("data.files" if split == "train" else f"data.{split}_files" for split in empty)
            raise DataError(f"{', '.join(names)}: there is no conversation")
        limits = limits_of(keys["train"], files.taken())
        if int(keys["train"].max()) < (limits[-1][1] if limits else 0):
            raise DataError("chat: validation and test leave no training data; lower their shares")

        def stream() -> Iterator[tuple[str, Chat]]:
            for split, paths in own.items():
                for chat in _of(paths, column):
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
    if _too_deep(messages):
        raise DataError(f"{where}: {column} has more than {DEEPEST} levels of lists and objects; remove some")
    try:
        json.dumps(messages, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: {column} has an unpaired surrogate; remove it") from None
    return messages


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        inside = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        if not (level := [part for parts in inside for part in parts]):
            return False
    return True


def _message(value: Any, which: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{which} must be an object with role and content, not {type(value).__name__}")
    message = {key: one for key, one in value.items() if one is not None}
    if not {"role", "content"} & message.keys() and {"from", "value"} <= message.keys():
        speaker, said = message.pop("from"), message.pop("value")
        message |= {"role": _ROLES.get(speaker, speaker) if isinstance(speaker, str) else speaker, "content": said}
    for key in ("role", "content"):
        if key not in message:
            raise DataError(f"{which} has no {key}")
        text_of(message[key], which, key)
    return message


def _of(paths: Sequence[Path], column: str, count: Counter = int) -> Iterator[Chat]:
    for path in paths:
        for where, value in json_values(path, column, count):
            yield Chat(messages_of(value, where, column), where)


def _keys(own: Mapping[str, Sequence[Path]], column: str) -> tuple[dict[str, NDArray[np.uint64]], int]:
    """The keys of the conversations of each split, and the size of all messages in bytes of UTF-8."""
    size = 0

    def keys(paths: Sequence[Path]) -> Iterator[int]:
        nonlocal size
        for chat in _of(paths, column, reading.advance):
            size += size_of(chat)
            yield _key(chat)

    with stage("reading", sum(path.stat().st_size for paths in own.values() for path in paths)) as reading:
        found = {split: np.fromiter(keys(paths), np.uint64) for split, paths in own.items()}
    return found, size


def _key(chat: Chat) -> int:
    """The key of the messages before the first answer; of all messages if there are none before it, or no answer."""
    said = [(message["role"], message["content"]) for message in chat.messages]
    first = next((number for number, (role, _) in enumerate(said) if role == ASSISTANT), 0)
    return key_of(json.dumps(said[:first] or said))
