"""`blockformer generate --messages`: the prompts are those of transformers, and answers end where the template says."""

import io
import json
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import blockformer as bf
from blockformer.assembly.checkpoint import FORMAT, METADATA
from blockformer.cli.main import main
from blockformer.data.corpora.corpus import Chat
from blockformer.data.tokenizer import Tokenizer
from blockformer.data.tokenizers.bytes import ByteTokenizer
from blockformer.data.tokenizers.file import File
from blockformer.generation.text_model import TextModel
from tests.data.chats import CHATML, PLAIN, SYSTEM, TEMPLATES, Messages, write_chats, write_tokenizer

ASKED: list[Messages] = [
    [{"role": "user", "content": "Hello 🙂"}],
    [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "And\ntwo?"},
    ],
]
WRITES, ENDS, LATER = "a", "<|im_end|>", "b"
Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes a checkpoint of a model that prefers the tokens of `likes`, the first one most."""

    def saved(tokenizer: Tokenizer, likes: dict[int, float] | None = None, kind: str = "decoder_only") -> Path:
        part = {"encoder_only": "encoder", "encoder_decoder": "decoder"}.get(kind, "decoder")
        both = {"encoder": {"depth": 1}} if kind == "encoder_decoder" else {}
        recipe: dict[str, Any] = {"type": kind, "dim": 16, "vocab_size": tokenizer.vocab_size, "max_length": 256}
        recipe |= {part: {"depth": 1}, **both, "head": {"type": "own", "bias": True}}
        model = bf.build(recipe, seed=1)
        with torch.no_grad():
            for token, value in (likes or {}).items():
                model.head.project.bias[token] = value
        metadata = {"format": FORMAT, "recipe": recipe, "tokenizer": tokenizer.dump()}
        torch.save(
            {"state_dict": {f"model.{name}": one for name, one in model.state_dict().items()}, METADATA: metadata},
            tmp_path / "model.ckpt",
        )
        return tmp_path / "model.ckpt"

    return saved


def chatty(folder: Path, template: str | None = CHATML) -> Tokenizer:
    return File(tokenizer_path=str(write_tokenizer(folder / "tokenizer", template))).read()


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["generate", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def complaint(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["generate", *map(str, arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("template", TEMPLATES)
def test_prompts_are_those_of_transformers(template: str, tmp_path: Path, save: Save) -> None:
    made = chatty(tmp_path, TEMPLATES[template])
    prompts, ends = TextModel.load(save(made)).chat_prompts([Chat(one, "here") for one in ASKED])
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert prompts == [theirs.apply_chat_template(one, add_generation_prompt=True)["input_ids"] for one in ASKED]
    after = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "system": "</s>", "plain": "</s>"}[template]
    assert sorted(ends) == sorted({made.eos, theirs.convert_tokens_to_ids(after)})


def test_an_answer_ends_with_the_token_that_the_template_puts_after_it(tmp_path: Path, save: Save, capsys) -> None:
    made, files = chatty(tmp_path), write_chats(tmp_path / "asked.jsonl", ASKED[:1])
    written, ends = made.encode(WRITES)[0], made.special_token(ENDS)
    assert ends not in (None, made.eos)
    given = ("--messages", files, "--max-new-tokens", 3)
    path = save(made, {written: 50.0})
    assert answer(capsys, path, *given, "--greedy") == answer(capsys, path, *given) == "aaa\n"
    path = save(made, {ends: 50.0, written: 49.0})
    assert answer(capsys, path, *given, "--greedy") == "\n"
    assert answer(capsys, path, *given, "--beams", 2).strip("a") == "\n"
    model = TextModel.load(path)
    prompts, eos = model.chat_prompts([Chat(ASKED[0], "here")])
    assert bf.generate(model.model, prompts, max_new_tokens=3, eos=eos) == [[]]
    assert bf.generate(model.model, prompts, max_new_tokens=3, eos=made.eos) == [[ends] * 3]


def test_several_conversations_have_a_line_before_each_and_come_from_standard_input_too(
    tmp_path: Path, save: Save, capsys, monkeypatch
) -> None:
    made, files = chatty(tmp_path), write_chats(tmp_path / "asked.jsonl", ASKED, "conversation")
    path = save(made, {made.encode(WRITES)[0]: 50.0})
    given = ("--column", "conversation", "--max-new-tokens", 2, "--greedy")
    assert answer(capsys, path, "--messages", files, *given) == f"--- {files}:1\naa\n--- {files}:2\naa\n"
    monkeypatch.setattr(sys, "stdin", Namespace(buffer=io.BytesIO(files.read_bytes())))
    found = answer(capsys, path, "--messages", "-", *given)
    assert found == "--- standard input:1\naa\n--- standard input:2\naa\n"
    given = ("--messages", files, "--column", "conversation", "--max-new-tokens", 1, "--samples", 2)
    assert answer(capsys, path, *given).startswith(f"--- {files}:1, 1\na\n--- {files}:1, 2\na\n--- {files}:2, 1\n")
    assert answer(capsys, path, *given, "--beams", 2).startswith(f"--- {files}:1\n0.")


@pytest.mark.slow
def test_what_cannot_be_answered_is_refused_in_one_line(tmp_path: Path, save: Save, capsys) -> None:
    files = write_chats(tmp_path / "asked.jsonl", ASKED)
    path = save(ByteTokenizer())
    assert "has no chat template, which messages need" in complaint(capsys, path, "--messages", files)
    assert "--prompt has no effect with --messages" in complaint(capsys, path, "--messages", files, "--prompt", "a")
    assert "--column has no effect without --messages" in complaint(capsys, path, "--column", "a")
    assert "none.jsonl" in complaint(capsys, path, "--messages", tmp_path / "none.jsonl")
    (empty := tmp_path / "empty.jsonl").write_text("\n")
    assert "there is no conversation" in complaint(capsys, path, "--messages", empty)
    path = save(chatty(tmp_path, SYSTEM))
    for messages, said in (
        ([*ASKED[0], {"role": "assistant", "content": "Hi"}], "the last message is the assistant's: remove it"),
        ([*ASKED[0], *ASKED[0]], "cannot render the conversation: Roles must alternate"),
        ([{"role": "user", "content": "a" * 300}], " tokens, but the model's max_length is 256"),
    ):
        asked = write_chats(tmp_path / "wrong.jsonl", [ASKED[0], messages])
        assert (found := complaint(capsys, path, "--messages", asked)).startswith(f"{asked}:2: ")
        assert said in found
    (tmp_path / "wrong.jsonl").write_text(json.dumps({"messages": ASKED[0], "tools": [{"name": "f"}]}))
    assert "has tools, which" in complaint(capsys, path, "--messages", tmp_path / "wrong.jsonl")
    for kind in ("encoder_only", "encoder_decoder"):
        path = save(chatty(tmp_path, PLAIN), kind=kind)
        assert f"a model of kind {kind} does not answer messages" in complaint(capsys, path, "--messages", files)
