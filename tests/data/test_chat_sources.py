"""Conversations from Parquet and Arrow, with tools, and in mixtures."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import transformers
from pyarrow import parquet

from blockformer.data.chat_tokens import ChatEncoder
from blockformer.data.corpora.chats import messages_of
from blockformer.data.corpora.corpus import Chat
from blockformer.data.module import TextData
from blockformer.data.tokenizers.file import File
from blockformer.errors import DataError
from blockformer.training.objectives import CausalLM
from tests.data.chats import CHATML, SYSTEM, Messages, write_chats, write_tokenizer
from tests.data.test_chat import chats, data

TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "add", "parameters": {"properties": {"a": {"type": "integer"}}}}},
    {"type": "function", "function": {"name": "now", "description": "The time 🙂"}},
]
CALLS: Messages = [
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": {"a": 2}}}]},
    {"role": "tool", "content": "4"},
    {"role": "assistant", "content": "It is 4."},
]
WITH_TOOLS = """\
{%- if tools %}{{ 'Tools: ' + (tools | tojson) + '<|im_end|>' }}{% endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' %}
{%- generation %}
{%- if message.content %}{{ message.content }}{% endif %}
{%- if message.tool_calls %}{{ message.tool_calls | tojson }}{% endif %}
{{- '<|im_end|>' }}
{%- endgeneration %}
{%- else %}{{ message.content + '<|im_end|>' }}{% endif %}
{%- endfor %}
"""


def write_table(path: Path, columns: dict[str, Any]) -> Path:
    table = pyarrow.table(columns)
    if path.suffix == ".parquet":
        parquet.write_table(table, path)
    else:
        with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    return path


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_tables_give_the_conversations_of_json_lines(ending: str, tmp_path: Path) -> None:
    said = [*chats(20), [{"role": "system", "content": "Be brief."}, *chats(21)[20]]]
    table = write_table(tmp_path / f"c.{ending}", {"id": [*range(21)], "talk": said})
    of_table = data(table, column="talk")
    of_lines = data(write_chats(tmp_path / "c.jsonl", said))
    assert of_table.facts()["sha256"] == of_lines.facts()["sha256"]
    assert of_table.facts()["train"] == of_lines.facts()["train"]
    with pytest.raises(DataError, match=rf"c\.{ending}: there is no column 'messages'"):
        data(table).facts()
    named = [[{"from": "human", "value": str(n)}, {"from": "gpt", "value": "x", "weight": n}] for n in range(9)]
    shared = data(write_table(tmp_path / f"s.{ending}", {"messages": named}))
    assert shared.facts()["train"]["conversations"] == 7
    wrong = write_table(tmp_path / f"w.{ending}", {"messages": [*said[:3], None]})
    with pytest.raises(DataError, match=rf"w\.{ending}, row 4: messages must be a list of messages .*, not NoneType"):
        data(wrong).facts()


@pytest.mark.parametrize("silent", [{}, {"content": None}], ids=["without content", "content null"])
def test_tools_and_calls_reach_the_template_as_in_transformers(silent: dict[str, Any], tmp_path: Path) -> None:
    said = messages_of([CALLS[0], CALLS[1] | silent, *CALLS[2:]], "here", "messages")
    assert said[1].items() >= silent.items()
    folder = write_tokenizer(tmp_path / "tokenizer", WITH_TOOLS)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    with ChatEncoder(File(tokenizer_path=str(folder)).read()) as encoder:
        for tools in (TOOLS, [], None):
            (found,) = encoder.encode([Chat(said, "here", tools)])
            wanted = theirs.apply_chat_template(
                said, tools=tools, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
            )
            assert found.ids.tolist() == wanted["input_ids"]
            assert found.answers.astype(int).tolist() == wanted["assistant_masks"]
            assert ('"name": "now"' in found.text) == bool(tools)


@pytest.mark.parametrize("value", [datetime(2026, 1, 2), b"x"], ids=["date", "bytes"])
def test_a_value_that_json_does_not_have_is_refused_in_one_line(value: Any, tmp_path: Path) -> None:
    path = write_table(tmp_path / "c.parquet", {"messages": [[CALLS[0] | {"more": value}, CALLS[3]]] * 4})
    with pytest.raises(DataError, match=r"c\.parquet, row 1: messages has a value that JSON does not have"):
        data(path, CHATML).facts()


def test_the_column_of_tools_is_read_from_lines_and_tables_and_as_text(tmp_path: Path) -> None:
    given = [(CALLS, TOOLS), (CALLS[:1] + CALLS[3:], TOOLS[1:]), (CALLS[:1] + CALLS[3:], None)] * 4
    said, tools = [messages for messages, _ in given], [one for _, one in given]
    (lines := tmp_path / "c.jsonl").write_text(
        "".join(
            json.dumps({"messages": messages} | ({} if one is None else {"tools": one})) + "\n"
            for messages, one in given
        )
    )
    text = write_table(
        tmp_path / "t.parquet", {"messages": said, "functions": [one and json.dumps(one) for one in tools]}
    )
    nested = write_table(tmp_path / "n.parquet", {"messages": said, "tools": tools})
    settings: dict[str, Any] = {"validation": 0.0, "test": 0.0}
    made = data(lines, WITH_TOOLS, **settings)
    hashes = {made.facts()["sha256"], data(nested, WITH_TOOLS, **settings).facts()["sha256"]}
    hashes.add(data(text, WITH_TOOLS, tools_column="functions", **settings).facts()["sha256"])
    assert len(hashes) == 1
    without = data(lines, WITH_TOOLS, tools_column=None, **settings)
    assert made.facts()["train"]["tokens"] > without.facts()["train"]["tokens"]
    assert made.facts()["train"]["targets"] == without.facts()["train"]["targets"]


def test_tools_that_cannot_be_passed_on_are_refused_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    for tools, said in (
        (TOOLS, "the conversation has tools, which the chat template of "),
        ({"name": "f"}, "tools must be a list of objects"),
        (["f"], "tools must be a list of objects"),
        ("[", "tools is a text, but not the JSON of a list of tools"),
        ([{"name": "\ud800"}], "tools has an unpaired surrogate"),
    ):
        path.write_text(json.dumps({"messages": CALLS[:1] + CALLS[3:], "tools": tools}) + "\n")
        with pytest.raises(DataError) as found:
            data(path, CHATML, validation=0.0, test=0.0).facts()
        assert str(found.value).startswith(f"{path}:1: {said}")
    with pytest.raises(DataError, match=r"c\.jsonl:1: there is no column 'functions'"):
        data(path, CHATML, tools_column="functions").facts()
    with pytest.raises(DataError, match=r"data\.tools_column 'messages' is the column of messages too"):
        data(path, CHATML, tools_column="messages")


def mixed(tmp_path: Path, tokenizer: str = "file", **more: Any) -> TextData:
    lines = write_chats(tmp_path / "a.jsonl", chats(30))
    table = write_table(tmp_path / "b.parquet", {"messages": [[*one, *one] for one in chats(50)[30:]]})
    sources = {name: {"dataset": "chat", "files": str(path)} for name, path in (("a", lines), ("b", table))}
    for name, own in more.pop("own", {}).items():
        sources[name] |= own
    given = {"length": 32, "batch_size": 4, "tokenizer": tokenizer, "sources": sources, "objective": CausalLM()}
    if tokenizer == "file":
        given["tokenizer_path"] = str(write_tokenizer(tmp_path / "tokenizer", CHATML))
    return TextData("mixture", **given | more)


def test_conversations_are_sources_of_a_mixture_and_only_answers_are_targets(tmp_path: Path) -> None:
    made = mixed(tmp_path, objective=CausalLM(packing="best_fit"), own={"b": {"weight": 2}})
    alone = data(tmp_path / "b.parquet")
    facts = made.facts()
    assert facts["sources"]["b"]["train"] == alone.facts()["train"]
    for kind in ("conversations", "targets", "tokens"):
        assert facts["train"][kind] == sum(facts["sources"][name]["train"][kind] for name in "ab")
    rows = made.samples("train").parts[1]  # type: ignore[attr-defined]
    batch = rows.batch(np.arange(len(rows)), 0)
    assert (batch["targets"] != -100).sum() == alone.facts()["train"]["targets"]
    first = made.loader("train").batch(0)
    assert {"documents", "targets", "bytes"} <= first.keys()


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_the_sources_of_a_mixture_share_a_template(tokenizer: str, tmp_path: Path) -> None:
    (own := tmp_path / "own.jinja").write_text(SYSTEM, encoding="utf-8")
    given = {"chat_template": str(own)}
    made = mixed(tmp_path, tokenizer, own={"a": given, "b": given})
    assert made.tokenizer is not None
    assert made.tokenizer.chat is not None
    assert made.tokenizer.chat.text == SYSTEM
    with pytest.raises(DataError, match=r"data\.sources: a and b do not name the same chat template"):
        mixed(tmp_path, tokenizer, own={"a": given}).facts()
    with pytest.raises(DataError, match=r"data\.sources\.a: the tokenizer has no chat template, .* of each source"):
        mixed(tmp_path, tokenizer).facts()
    with pytest.raises(DataError, match="a has documents and b has conversations; a mixture has either pairs, "):
        mixed(tmp_path, tokenizer, own={"a": {"dataset": "table"}})
