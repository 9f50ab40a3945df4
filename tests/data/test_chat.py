"""The dataset of conversations: its rows, its splits, and its errors with file and line."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blockformer.data.chat_tokens import ChatEncoder
from blockformer.data.corpora.corpus import Chat
from blockformer.data.module import TextData
from blockformer.data.tokenizers.stored import from_dump
from blockformer.errors import DataError
from blockformer.training.objectives import CausalLM, MaskedLM
from tests.data.chats import CHATML, SYSTEM, Messages, conversations, write_chats, write_tokenizer

QUESTION, ANSWER = {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}


def chats(count: int = 40) -> list[Messages]:
    return [
        [{"role": "user", "content": f"{n} + 1?"}, {"role": "assistant", "content": f"{n + 1}"}] for n in range(count)
    ]


def data(path: Path, template: str | None = CHATML, **settings: Any) -> TextData:
    folder = write_tokenizer(path.parent / "tokenizer", template)
    given = {"length": 32, "batch_size": 2, "tokenizer": "file", "tokenizer_path": str(folder), "files": str(path)}
    return TextData("chat", **{"objective": CausalLM(), **given, **settings})


@pytest.mark.parametrize("packing", ["concatenate", "best_fit"])
def test_each_token_of_an_answer_is_predicted_once_and_nothing_else(packing: str, tmp_path: Path) -> None:
    said = conversations(30)
    objective = CausalLM(packing=packing)  # type: ignore[arg-type]
    made = data(write_chats(tmp_path / "c.jsonl", said), validation=0.0, test=0.0, objective=objective)
    with ChatEncoder(made.tokenizer) as encoder:  # type: ignore[arg-type]
        wanted = [*encoder.encode([Chat(one, "") for one in said])]
    batch = (samples := made.samples("train")).batch(np.arange(len(samples)), 0)
    tokens, targets, documents = (batch[key].numpy() for key in ("tokens", "targets", "documents"))
    scored = targets != -100
    assert Counter(targets[scored]) == Counter(np.concatenate([one.ids[one.answers] for one in wanted]))
    within = scored[:, :-1] & (documents[:, 1:] == documents[:, :-1])
    assert (targets[:, :-1] == tokens[:, 1:])[within].all()
    assert scored.sum() == made.facts()["train"]["targets"]
    assert sum(made.tokenizer.byte_lengths[targets[scored]]) == batch["bytes"].sum() == made.facts()["train"]["bytes"]  # type: ignore[index]
    real = documents <= 32
    sizes = Counter(zip(np.nonzero(real)[0].tolist(), documents[real].tolist(), strict=True))
    assert sum(sizes.values()) == made.facts()["train"]["tokens"] == sum(len(one.ids) for one in wanted)
    if packing == "best_fit":
        assert Counter(sizes.values()) == Counter(
            size for one in wanted for size in (*[32] * (len(one.ids) // 32), len(one.ids) % 32) if size
        )
        assert made.facts()["packing"]["train"]["documents_cut"] == sum(len(one.ids) > 32 for one in wanted)
    else:
        assert tokens[real].tolist() == np.concatenate([one.ids for one in wanted]).tolist()


def test_the_first_token_of_a_conversation_is_never_predicted(tmp_path: Path) -> None:
    template = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    made = data(write_chats(tmp_path / "c.jsonl", chats()), template, validation=0.0, test=0.0)
    counts = made.facts()["train"]
    assert counts["targets"] == counts["tokens"] - counts["conversations"]


def test_conversations_with_the_same_question_are_in_one_split(tmp_path: Path) -> None:
    said = [[QUESTION | {"content": f"{n % 20}?"}, ANSWER | {"content": str(n)}] for n in range(60)]
    made = data(write_chats(tmp_path / "c.jsonl", said), validation=0.2, test=0.1)
    assert [made.facts()[split]["conversations"] for split in ("train", "validation", "test")] == [42, 12, 6]


def test_conversations_without_an_answer_are_left_out_and_counted(tmp_path: Path) -> None:
    path = write_chats(tmp_path / "c.jsonl", [*chats(9), [QUESTION], [QUESTION | {"content": "more"}]])
    made = data(path, validation=0.0, test=0.0)
    assert made.facts()["train"] | {"tokens": 0, "bytes": 0, "targets": 0} == {
        "conversations": 9,
        "unanswered": 2,
        "tokens": 0,
        "targets": 0,
        "bytes": 0,
    }
    assert made.notes("train") == ["2 training conversations have no answer and are left out"]
    write_chats(path, [[QUESTION]])
    with pytest.raises(DataError, match="none of the 1 conversations to train on has an answer"):
        data(path, validation=0.0, test=0.0).facts()


def test_messages_of_sharegpt_are_read(tmp_path: Path) -> None:
    named = [
        [{"from": "human", "value": one[0]["content"]}, {"from": "gpt", "value": one[1]["content"]}] for one in chats()
    ]
    theirs = data(write_chats(tmp_path / "c.jsonl", named, "conversations"), column="conversations")
    assert theirs.facts()["sha256"] == data(write_chats(tmp_path / "d.jsonl", chats())).facts()["sha256"]


LINES: dict[str, tuple[str, str]] = {
    "no JSON": ("{", "is not JSON: "),
    "no object": ("[1]", "is not a JSON object"),
    "no column": ('{"message": []}', "there is no column 'messages'; did you mean 'message'?"),
    "no list": ('{"messages": "hi"}', 'messages must be a list of messages such as {"role": "user", '),
    "no message": ('{"messages": []}', "not an empty list"),
    "no object in the list": ('{"messages": ["hi"]}', "message 1 of messages must be an object with role"),
    "no role": (json.dumps({"messages": [QUESTION, {"content": "4"}]}), "message 2 of messages has no role"),
    "no content": (json.dumps({"messages": [QUESTION | {"content": None}]}), "message 1 of messages has no content"),
    "role": (json.dumps({"messages": [QUESTION | {"role": 3}]}), "message 1 of messages: role must be text, not int"),
    "content": (json.dumps({"messages": [QUESTION | {"content": [1]}]}), "message 1 of messages: content must be text"),
    "surrogate": ('{"messages": [{"role": "user", "content": "\\ud800"}]}', "content has an unpaired surrogate"),
    "deep surrogate": (json.dumps({"messages": [QUESTION | {"tool": ["\ud800"]}]}), "has an unpaired surrogate"),
    "depth of a tool": (
        f'{{"messages": [{{"role": "user", "content": "", "tool": {"[" * 200}{"]" * 200}}}]}}',
        "messages has more than 100 levels of lists and objects",
    ),
    "order": (
        json.dumps({"messages": [QUESTION, QUESTION]}),
        "tokenizer_config.json cannot render the conversation: Roles must alternate: user, assistant, user, ...",
    ),
}


@pytest.mark.parametrize("line", LINES)
def test_a_wrong_line_is_named(line: str, tmp_path: Path) -> None:
    path = write_chats(tmp_path / "c.jsonl", chats(4))
    path.write_text(path.read_text() + LINES[line][0] + "\n")
    with pytest.raises(DataError) as found:
        data(path, SYSTEM).facts()
    assert str(found.value).startswith(f"{path}:5: ")
    assert LINES[line][1] in str(found.value)
    assert str(found.value).isprintable()


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = write_chats(tmp_path / "c.jsonl", chats())
    with pytest.raises(DataError, match=r"has no chat template, .*: name a file by --data\.chat_template"):
        data(path, None).facts()
    with pytest.raises(DataError, match=r"tokenizer_config\.json marks no answers, .*--data\.chat_template"):
        data(path, "{{ messages[0].content }}").facts()
    with pytest.raises(DataError, match=r"none\.jinja: cannot be read: No such file"):
        data(path, chat_template=str(tmp_path / "none.jinja")).facts()
    with pytest.raises(DataError, match=r"c\.csv: CSV has no lists of messages: write"):
        data(write_chats(tmp_path / "c.csv", chats())).facts()
    with pytest.raises(DataError, match="objective masked_lm cannot use dataset chat: choose "):
        data(path, objective=MaskedLM())


def test_a_template_of_ones_own_takes_the_place_of_the_tokenizers_and_stays_with_it(tmp_path: Path) -> None:
    path = write_chats(tmp_path / "c.jsonl", chats())
    (own := tmp_path / "own.jinja").write_text(SYSTEM, encoding="utf-8")
    replaced, before = data(path, chat_template=str(own)), data(path)
    assert replaced.facts()["sha256"] != before.facts()["sha256"]
    for made in (replaced, data(path, None, chat_template=str(own))):
        again = from_dump(json.loads(json.dumps(made.tokenizer.dump())))  # type: ignore[union-attr]
        assert again.chat is not None
        assert (again.chat.text, again.chat.tokens["eos_token"]) == (SYSTEM, "</s>")
        assert again.dump() == made.tokenizer.dump()  # type: ignore[union-attr]
    assert replaced.tokenizer.encodes_as(before.tokenizer)  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_other_tokenizers_take_a_template_from_a_file(kind: str, tmp_path: Path) -> None:
    path = write_chats(tmp_path / "c.jsonl", chats())
    (own := tmp_path / "own.jinja").write_text(SYSTEM, encoding="utf-8")
    settings = {"tokenizer": kind, "length": 32, "batch_size": 2, "files": str(path), "objective": CausalLM()}
    made = TextData("chat", chat_template=str(own), **settings)
    assert made.tokenizer is not None
    tokens = made.samples("train").batch(np.arange(1), 0)["tokens"][0].tolist()
    assert tokens[0] == made.tokenizer.bos
    assert made.tokenizer.eos in tokens
    again = from_dump(json.loads(json.dumps(made.tokenizer.dump())))
    assert again.chat == made.tokenizer.chat
    with pytest.raises(DataError, match="has no chat template"):
        TextData("chat", **settings).facts()


def test_a_stored_template_is_checked(tmp_path: Path) -> None:
    stored = data(write_chats(tmp_path / "c.jsonl", chats())).tokenizer.dump()  # type: ignore[union-attr]
    for wrong in (None, {"template": 1, "tokens": {}}, {"template": "", "tokens": {"eos_token": 1}}):
        with pytest.raises(DataError, match="chat template"):
            from_dump(stored | {"chat": wrong})
