"""Tokenizers from elsewhere: their ids, their special tokens, and what of them is refused."""

import base64
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library

from blockformer.data.hub_tokenizer import SAMPLES
from blockformer.data.module import TextData
from blockformer.data.options import DATA
from blockformer.data.tokenizers.file import File, FileTokenizer
from blockformer.data.tokenizers.pattern_check import pattern_problem
from blockformer.data.tokenizers.stored import from_dump
from blockformer.errors import DataError
from blockformer.training.objectives.causal_lm import CausalLM
from blockformer.training.objectives.masked_lm import MaskedLM
from tests.data.published import LLAMA3, PUBLISHED, TEXTS, write_published
from tests.faults.damage import damaged_values

ODD = [
    *SAMPLES,
    *TEXTS[:3],
    "",
    " ",
    "  a  b ",
    "\n",
    "a\r\n\tb",
    "ﬁ Å Ａ ½",
    "▁x▁",
    "e\u0301",
    "</s> <|endoftext|> <s>",
]
each = pytest.mark.parametrize("name", PUBLISHED)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("published")
    return {name: write_published(name, root / name) for name in PUBLISHED}


@pytest.fixture(scope="module")
def read(folders: dict[str, Path]) -> dict[str, FileTokenizer]:
    return {name: File(tokenizer_path=str(folder)).read() for name, folder in folders.items()}


def plain_text(text: str) -> str:
    """A text in which the library finds no special token either."""
    return text.replace("<", "‹").replace("[", "(")


def refused(path: Path, **said: str) -> str:
    with pytest.raises(DataError) as caught:
        File(tokenizer_path=str(path), **said).read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@each
def test_ids_are_those_of_the_library_and_of_transformers(
    name: str, folders: dict[str, Path], read: dict[str, FileTokenizer]
) -> None:
    made = read[name]
    library = Library.from_file(str(folders[name] / "tokenizer.json"))
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folders[name] / "tokenizer.json"))
    for text in ODD:
        plain = plain_text(text)
        before, after = made.around("encoder_only")
        assert [*before, *made.encode(plain), *after] == library.encode(plain).ids == theirs(plain)["input_ids"], text
    many = [plain_text(text) for text in ODD]
    assert [ids.tolist() for ids in made.encode_many(many)] == [made.encode(text) for text in many]


@each
def test_no_text_spells_a_special_token(name: str, read: dict[str, FileTokenizer]) -> None:
    made = read[name]
    names = " ".join(made.names[token] for token in {*asdict(made.special).values()} - {None})
    for text in (names, names.replace(" ", ""), *ODD):
        assert not set(made.encode(text)) & ({*asdict(made.special).values()} - {None})


@each
def test_special_tokens_are_those_of_the_files_or_stand_in_for_them(name: str, read: dict[str, FileTokenizer]) -> None:
    made = read[name]
    names = {role: None if one is None else made.names[one] for role, one in asdict(made.special).items()}
    wanted = {
        "gpt2": ("<|endoftext|>", "<|endoftext|>", "<|endoftext|>", None),
        "llama3": ("<|end_of_text|>", "<|begin_of_text|>", "<|end_of_text|>", None),
        "llama2": ("</s>", "<s>", "</s>", None),
        "bert": ("[PAD]", "[CLS]", "[SEP]", "[MASK]"),
        "t5": ("<pad>", "<pad>", "</s>", None),
    }[name]
    assert tuple(names[role] for role in ("pad", "bos", "eos", "mask")) == wanted
    assert not made.is_ordinary[[one for one in asdict(made.special).values() if one is not None]].any()


@each
def test_a_stored_tokenizer_is_the_same(name: str, read: dict[str, FileTokenizer]) -> None:
    made = read[name]
    again = from_dump(json.loads(json.dumps(made.dump())))
    assert isinstance(again, FileTokenizer)
    assert again.dump() == made.dump()
    assert again.special == made.special
    assert [again.encode(text) for text in ODD] == [made.encode(text) for text in ODD]
    assert again.around("decoder_only") == made.around("decoder_only")


@pytest.mark.parametrize("name", ["gpt2", "llama2"])
@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁<")))
def test_a_lossless_tokenizer_gives_any_text_back(name: str, text: str, read: dict[str, FileTokenizer]) -> None:
    assert read[name].decode(read[name].encode(text)) == text


@each
@settings(max_examples=40, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])), split=st.integers(0, 9))
def test_a_stream_gives_what_decoding_gives(name: str, text: str, split: int, read: dict[str, FileTokenizer]) -> None:
    made = read[name]
    ids = made.encode(text)
    first, rest = [made.bos, *ids[:split]], ids[split:]
    whole, beginning = made.decode([*first, *rest]), made.decode(first)
    if name == "bert" or not whole.startswith(beginning) or "\ufffd" in whole + beginning:
        return  # BERT's decoder removes spaces before punctuation that comes later
    stream = made.stream(first)
    assert "".join([*map(stream.feed, rest), stream.end()]) == whole[len(beginning) :]


def test_a_stream_holds_back_an_unfinished_character_and_writes_spaces_between_words(
    read: dict[str, FileTokenizer],
) -> None:
    made = read["llama2"]
    ids = made.encode("cat ß🙂 mat")
    stream = made.stream([made.bos])
    parts = [stream.feed(token) for token in ids]
    assert "".join(parts) == "cat ß🙂 mat"
    assert "" in parts
    assert not any("\ufffd" in part for part in parts)
    after = made.stream([made.bos, *made.encode("the cat")])
    assert "".join(map(after.feed, made.encode("mat"))) == " mat"


@each
def test_bytes_are_those_of_the_text_or_are_left_out(
    name: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLOCKFORMER_CACHE", str(tmp_path / "cache"))

    def data(text: str) -> TextData:
        (tmp_path / "text.txt").write_text(text)
        file = {"tokenizer": "file", "tokenizer_path": str(folders[name])}
        made = {"length": 16, "batch_size": 2, "objective": CausalLM()}
        return TextData("text", files=str(tmp_path / "text.txt"), **made, **file)

    plain = "\n".join(f"The cat {number} sat on the mat." for number in range(60))
    made, exact = data(plain), name in ("gpt2", "llama3")
    size = sum(int(batch.get("bytes", batch["index"] * 0).sum()) for batch in made.loader("validation"))
    assert size == (made.facts()["validation"]["bytes"] if exact else 0)
    assert any("bits per byte are left out" in note for note in made.notes("validation")) != exact
    changed = data(plain + "\nCafe\u0301 " * 60)
    assert ("bytes" in changed.loader("validation").batch(0) if exact else False) == (name == "gpt2")


@pytest.mark.parametrize("objective", [CausalLM(), MaskedLM()], ids=["causal_lm", "masked_lm"])
def test_a_tokenizer_without_a_mask_is_refused_for_masking_alone(
    objective: Any, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLOCKFORMER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("The cat sat on the mat.\n" * 60)
    file = {"tokenizer": "file", "tokenizer_path": str(folders["gpt2"]), "objective": objective}
    loader = TextData("text", files=str(tmp_path / "text.txt"), length=16, batch_size=2, **file).loader("train")
    if isinstance(objective, CausalLM):
        assert loader.batch(0)["tokens"].shape == (2, 16)
        return
    with pytest.raises(DataError, match=r"no mask token, which masked .* name a token .* by --data\.mask_token"):
        loader.batch(0)


def test_special_tokens_can_be_named(folders: dict[str, Path]) -> None:
    made = File(tokenizer_path=str(folders["t5"] / "tokenizer.json"), mask_token="<extra_id_0>").read()
    assert made.names[made.mask] == "<extra_id_0>"
    said = refused(folders["t5"], mask_token="<blank>")
    assert 'data.mask_token "<blank>" is no token of the tokenizer; its special tokens are "</s>", ' in said


def test_a_file_without_special_tokens_is_refused_with_the_remedy(tmp_path: Path) -> None:
    content = json.loads(PUBLISHED["gpt2"]()[0].to_str()) | {"added_tokens": []}
    (tmp_path / "mine.json").write_text(json.dumps(content))
    assert "has no token that ends a text: name one by --data.eos_token" in refused(tmp_path / "mine.json")
    made = File(tokenizer_path=str(tmp_path / "mine.json"), eos_token="<|endoftext|>").read()
    assert made.bos == made.eos == made.pad == 0


def test_a_text_that_spells_a_token_that_is_not_apart_is_refused(folders: dict[str, Path]) -> None:
    made = File(tokenizer_path=str(folders["gpt2"]), pad_token="!").read()
    assert made.encode("no mark")
    with pytest.raises(DataError, match="a text has '!', which the tokenizer encodes as the special token"):
        made.encode("a mark!")


def test_padding_and_truncation_of_a_file_are_not_used(tmp_path: Path) -> None:
    made, _ = PUBLISHED["gpt2"]()
    made.enable_padding(length=10**9)
    made.enable_truncation(3)
    made.save(str(tmp_path / "tokenizer.json"))
    assert len(File(tokenizer_path=str(tmp_path)).read().encode("The cat sat on the mat")) > 3


def nested(content: dict[str, Any], *path: Any) -> Any:
    for key in path:
        content = content[key]
    return content


def charsmap(replacements: bytes) -> str:
    """A map of SentencePiece that has these replacements, with an empty trie."""
    return base64.b64encode((1024).to_bytes(4, "little") + bytes(1024) + replacements + b"\0").decode()


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "id": (lambda c: c["model"]["vocab"].update(a=10**9), "has the token id 1000000000; ids are whole numbers below"),
    "added": (lambda c: c["added_tokens"].append({"content": "x", "id": -1}), "has the token id -1"),
    "bomb": (
        lambda c: c.update(pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+b"}, "behavior": "Isolated"}),
        'pre_tokenizer has the pattern "(a+)+b", which repeats a repetition',
    ),
    "inner bomb": (
        lambda c: c.update(
            normalizer={
                "type": "Sequence",
                "normalizers": [{"type": "Replace", "pattern": {"Regex": r"(a)\1*"}, "content": ""}],
            }
        ),
        "which refers to an earlier group",
    ),
    "growth": (
        lambda c: c.update(
            normalizer={
                "type": "Sequence",
                "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aaa"}] * 5,
            }
        ),
        "makes 243 characters of one",
    ),
    "prepend": (lambda c: c.update(normalizer={"type": "Prepend", "prepend": "x" * 100}), "makes 100 characters"),
    "charsmap": (
        lambda c: c.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "////"}),
        "map of characters that cannot be read",
    ),
    "growth of a map": (
        lambda c: c.update(normalizer={"type": "Precompiled", "precompiled_charsmap": charsmap(b"x" * 100)}),
        "makes 100 characters of one; at most 64 are allowed",
    ),
    "growth of two maps": (
        lambda c: c.update(
            normalizer={
                "type": "Sequence",
                "normalizers": [{"type": "Precompiled", "precompiled_charsmap": charsmap(b"b\0" + b"x" * 18)}] * 2,
            }
        ),
        "makes 324 characters of one; at most 64 are allowed",
    ),
    "prefix": (
        lambda c: c["model"].update(continuing_subword_prefix="#" * 65),
        "has a continuing_subword_prefix of 65 characters; at most 64 are allowed",
    ),
    "no length": (lambda c: c.update(pre_tokenizer={"type": "FixedLength", "length": 0}), "cannot encode a text"),
    "dropout": (lambda c: c["model"].update(dropout=0.1), "encodes at random"),
    "model": (lambda c: c["model"].update(type="Magic"), 'has a model of type "Magic"; known: BPE'),
    "no model": (lambda c: c.pop("model"), "has no model"),
    "no vocabulary": (lambda c: c["model"].update(vocab=None), "has no vocabulary"),
    "merges": (lambda c: c["model"]["merges"].append(["never", "seen"]), "cannot be read by the library"),
    "unknown step": (lambda c: c.update(normalizer={"type": "Magic"}), "cannot be read by the library"),
}


@pytest.mark.parametrize(("change", "said"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_tokenizer_is_refused_before_it_is_used(
    change: Callable[[dict[str, Any]], object], said: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    content = json.loads((folders["gpt2"] / "tokenizer.json").read_text())
    change(content)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    message = refused(tmp_path, eos_token="<|endoftext|>")
    assert message.startswith(f"{tmp_path / 'tokenizer.json'}: ")
    assert said in message
    stored = {"format": "blockformer tokenizer 2", "kind": "file", "library": json.dumps(content)}
    with pytest.raises(DataError):
        from_dump(stored | {"special": {"pad": 0, "bos": 0, "eos": 0, "mask": None}})


GOOD = (
    LLAMA3,
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{M}]*[\p{Ll}\p{M}]+(?i:'s|'t)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+",
    r" ?[^(\s|[.,!?…。，、।۔،])]+",
    " {2,}",
    r"(?=(\d{3})+(?!\d))",
    r"[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    r"(?i:[sdmt]|ll|ve|re)|(?:ab){2}c{2}?(?:d|e)?",
)
BAD = (
    r"(a*)*",
    r"(?:a{2}?a{2}?)+b",
    "a{2}?" * 24 + "b",
    r"(a|a+){2,}",
    r"(?:a+|b)+",
    r"((a+)|b)*",
    "a{100000}",
    "a*a*a*a*a*b",
    "(?~ab)",
    "a)",
    "\\",
    r"(?<x>a)\g<x>",
    r"(?x)a{0,50} {0,50}b",
    r"(?:a|a)*b",
    r"(?:a|b|ab)+c",
    r"(?:a|a){30}b",
    r"(?:a?a?)*b",
    r"(?:ab?)+c",
    r"(?:(?:a|a)b)+c",
    "a?*b",
    "a**b",
    "a{0,50}{0,50}b",
    "a{1,3}+b",  # in this library no possessive quantifier, but `(?:a{1,3})+`
    "a?" * 24 + "b",
    "(?:a|a)" * 24 + "b",
)


@pytest.mark.parametrize("pattern", GOOD)
def test_patterns_of_published_tokenizers_are_used(pattern: str) -> None:
    assert pattern_problem(pattern) is None


@pytest.mark.parametrize("pattern", BAD)
def test_patterns_that_may_take_any_time_are_not(pattern: str) -> None:
    assert pattern_problem(pattern) is not None


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, '{"model": NaN}', "null", '{"model": {}}', "\ud800"])
def test_what_is_no_tokenizer_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content.encode(errors="surrogatepass"))
    refused(tmp_path)


def test_what_is_no_file_is_refused_in_one_line(tmp_path: Path, folders: dict[str, Path]) -> None:
    assert "has no tokenizer.json" in refused(tmp_path)
    assert "cannot be read" in refused(tmp_path / "nothing.json")
    (tmp_path / "secret").write_text("the canary sings")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "tokenizer.json").symlink_to(tmp_path / "secret")
    said = refused(tmp_path / "linked")
    assert "points outside the folder" in said
    assert "sings" not in said
    with pytest.raises(DataError, match=r"needs a file: name it in data\.tokenizer_path"):
        DATA.make({"tokenizer": "file"}, {})["tokenizer"].read()


def refusal_of(content: str) -> str | None:
    """Why a tokenizer is refused; None: it encodes a text."""
    try:
        made = FileTokenizer(content, hints={"bos": 0, "eos": 1})
        made.decode(made.encode("the cat sat"))
    except DataError as error:
        return str(error)
    return None


@each
def test_any_damage_of_a_tokenizer_is_refused_in_one_line_or_it_encodes(name: str, folders: dict[str, Path]) -> None:
    content = json.loads((folders[name] / "tokenizer.json").read_text())
    for number in range(60):
        what, changed = damaged_values(content, Random(number))
        refusal = refusal_of(json.dumps(changed, default=str))
        assert refusal is None or "\n" not in refusal, what


@each
def test_a_target_ends_with_the_end_of_text_and_only_once(name: str, read: dict[str, FileTokenizer]) -> None:
    made = read[name]
    before, after = made.around("encoder_decoder")
    assert after == (made.eos,)
    assert made.eos not in before or made.bos == made.eos
