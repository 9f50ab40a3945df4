"""Conversations in tokens: the same ids and the same answers as in transformers."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import transformers

from blockformer.data.chat_tokens import ChatEncoder
from blockformer.data.corpora.corpus import Chat
from blockformer.data.tokenizers.file import File
from tests.data.chats import CHATML, TEMPLATES, Messages, conversations, tokenizer, write_tokenizer

TOKENIZERS: dict[str, dict[str, Any]] = {"plain": {}, "nfc": {"nfc": True}, "untouched": {"trim": None}}


def ours(folder: Path, chats: list[Messages], *, prompt: bool = False) -> list[tuple[list[int], list[int]]]:
    """The ids of conversations and whether each is part of an answer."""
    with ChatEncoder(File(tokenizer_path=str(folder)).read()) as encoder:
        found = encoder.encode([Chat(chat, "here") for chat in chats], prompt=prompt)
        return [(one.ids.tolist(), one.answers.astype(int).tolist()) for one in found]


def theirs(folder: Path, chats: list[Messages], *, prompt: bool = False) -> list[tuple[list[int], list[int]]]:
    made = transformers.AutoTokenizer.from_pretrained(folder)
    settings: dict[str, Any] = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
    found = [made.apply_chat_template(chat, add_generation_prompt=prompt, **settings) for chat in chats]
    return [(one["input_ids"], one["assistant_masks"]) for one in found]


@pytest.mark.parametrize("template, kind", [*product(TEMPLATES, TOKENIZERS)])
def test_ids_and_answers_are_those_of_transformers(template: str, kind: str, tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path, TEMPLATES[template], tokenizer(**TOKENIZERS[kind]))
    chats = conversations(60)
    found, wanted = ours(folder, chats), theirs(folder, chats)
    assert found == wanted
    assert sum(sum(answers) for _, answers in found) > 500
    assert ours(folder, chats[:5], prompt=True) == theirs(folder, chats[:5], prompt=True)
