"""The dataset of conversations."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from blockformer.data.chat_template import read_template
from blockformer.data.corpora import chats
from blockformer.data.corpora.corpus import Source
from blockformer.data.datasets.base import Form
from blockformer.data.datasets.text import Names, OwnFiles
from blockformer.errors import DataError
from registry import register


@register("chat")
class OwnChats(OwnFiles):
    """Your own conversations in JSON lines, Parquet or Arrow, in which only the assistant's answers are predicted.

    Each row has a list of messages, `{"messages": [{"role": "user", "content": "..."}, ...]}`; those of ShareGPT
    (`from`, `value`) are read too. JSON lines may be compressed (`.gz`, `.bz2`, `.zst`, `.lz4`). The chat template of
    the tokenizer makes a text of them, and marks the answers by the tag `generation`, as in transformers. Conversations
    without an answer are left out, and counted.

    Args:
        files: Files or glob patterns.
        column: The name of the column of messages.
        tools_column: The name of the column of tools, of which a row may have none: a list of JSON schemas, or its
            text. One called `tools` is read where there is one; null: none is read.
        chat_template: A file with a template in the language of Jinja; null: that of the tokenizer.
        validation_files: Files to validate on; without any, a share of the conversations of `files` is held out.
        test_files: Files to test on; without any, a share of the conversations of `files` is held out.
    """

    form: ClassVar[Form] = "chats"
    reads = (*OwnFiles.reads, "chat_template")

    def __init__(
        self,
        *,
        files: Names = None,
        column: str = "messages",
        tools_column: str | None = chats.TOOLS,
        chat_template: str | None = None,
        validation_files: Names = None,
        test_files: Names = None,
    ) -> None:
        super().__init__(files, validation_files, test_files)
        if column == tools_column:
            raise DataError(f"data.tools_column {column!r} is the column of messages too: name different columns")
        self.columns, self.chat_template = chats.Columns(column, tools_column), chat_template

    def source(self, shares: Mapping[str, float]) -> Source:
        path = self.chat_template
        template = None if path is None else (read_template(Path(path).expanduser()), path)
        return chats.source(self.own(shares), self.columns, template)
