"""Conversations in tokens: the same ids and the same answers as in transformers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from blockformer.data import hub_tokenizer
from blockformer.data.chat_tokens import ChatEncoder, ChatTokens
from blockformer.data.corpora.corpus import Chat
from blockformer.data.tokenizers.bytes import ByteTokenizer
from blockformer.data.tokenizers.file import File
from blockformer.huggingface.folder import copy_tokenizer
from tests.data.chats import CHATML, SYSTEM, TEMPLATES, Messages, conversations, tokenizer, write_tokenizer

KINDS: dict[str, dict[str, Any]] = {
    "chatml": {},
    "llama3": {"nfc": True, "trim": True},
    "system": {"nfc": True},
    "plain": {"trim": None},
}


def encoded(folder: Path, chats: list[Messages], *, prompt: bool = False) -> list[ChatTokens]:
    with ChatEncoder(File(tokenizer_path=str(folder)).read()) as encoder:
        return [*encoder.encode([Chat(chat, "here") for chat in chats], prompt=prompt)]


def ours(folder: Path, chats: list[Messages], *, prompt: bool = False) -> list[tuple[list[int], list[int]]]:
    """The ids of conversations and whether each is part of an answer."""
    return [(one.ids.tolist(), one.answers.astype(int).tolist()) for one in encoded(folder, chats, prompt=prompt)]


def theirs(folder: Path, chats: list[Messages], *, prompt: bool = False) -> list[tuple[list[int], list[int]]]:
    made = transformers.AutoTokenizer.from_pretrained(folder)
    settings: dict[str, Any] = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
    found = [made.apply_chat_template(chat, add_generation_prompt=prompt, **settings) for chat in chats]
    return [(one["input_ids"], one["assistant_masks"]) for one in found]


@pytest.mark.parametrize("template", TEMPLATES)
def test_ids_and_answers_are_those_of_transformers(template: str, tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path, TEMPLATES[template], tokenizer(**KINDS[template]))
    chats = conversations(60)
    found = ours(folder, chats)
    assert found == theirs(folder, chats)
    assert sum(sum(answers) for _, answers in found) > 500
    assert ours(folder, chats[:5], prompt=True) == theirs(folder, chats[:5], prompt=True)


def test_a_template_file_beside_the_tokenizer_comes_first_and_a_list_has_a_default(tmp_path: Path) -> None:
    chats = conversations(3)
    folder = write_tokenizer(tmp_path / "file", "{{ 1 / 0 }}")
    (folder / "chat_template.jinja").write_text(SYSTEM, encoding="utf-8")
    listed: Any = [{"name": "tool_use", "template": "{{ 1 / 0 }}"}, {"name": "default", "template": CHATML}]
    for one in (folder, write_tokenizer(tmp_path / "list", listed)):
        assert ours(one, chats[1:]) == theirs(one, chats[1:])


def test_characters_that_no_token_has_do_not_move_the_ends_of_answers(tmp_path: Path) -> None:
    chat = [{"role": role, "content": said} for role, said in (("user", "a"), ("assistant", " cafe\u0301"))] * 2
    for kind in ({"nfc": True}, {"nfc": True, "trim": True}):
        folder = write_tokenizer(tmp_path / str(kind), SYSTEM, tokenizer(**kind))
        (one,) = encoded(folder, [chat])
        made = File(tokenizer_path=str(folder)).read()
        begins = np.flatnonzero(np.diff(one.answers.astype(int), prepend=0) == 1)
        assert len(begins) == 2
        assert made.decode(one.ids[one.answers]) == " café café"
        assert not one.answers[one.ids == made.eos].any()


def test_special_tokens_are_those_of_the_text_alone(tmp_path: Path) -> None:
    (one,) = encoded(write_tokenizer(tmp_path, TEMPLATES["llama3"]), [[{"role": "user", "content": "hi"}]])
    assert one.text.startswith("<s><|start_header_id|>user")
    assert (one.ids == 1).sum() == 1  # the tokenizer would put another one before it
    assert not one.answers.any()


def test_transformers_renders_an_exported_tokenizer_as_it_was_trained(tmp_path: Path) -> None:
    for name, made in (
        ("file", File(tokenizer_path=str(write_tokenizer(tmp_path / "f", CHATML))).read()),
        ("own", ByteTokenizer()),
    ):
        if made.chat is None:
            made.use_template(SYSTEM, "own.jinja")
        (out := tmp_path / name).mkdir()
        hub_tokenizer.write(made, "decoder_only", 64, out)
        chats = conversations(6)[1:]
        with ChatEncoder(made) as encoder:
            found = [*encoder.encode([Chat(chat, "here") for chat in chats])]
        assert [(one.ids.tolist(), one.answers.tolist()) for one in found] == theirs(out, chats)


def test_an_import_takes_the_template_along(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path / "from", None)
    (folder / "chat_template.jinja").write_text(SYSTEM, encoding="utf-8")
    (tmp_path / "to").mkdir()
    copy_tokenizer(folder, tmp_path / "to")
    chats = conversations(3)[1:]
    assert ours(tmp_path / "to", chats) == ours(folder, chats)
