import io
import itertools
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import blockformer as bf
from blockformer.assembly.checkpoint import FORMAT, METADATA
from blockformer.cli.main import main
from blockformer.data.tokenizers.bpe import BPE
from blockformer.data.tokenizers.bytes import ByteTokenizer
from blockformer.generation.text_model import TextModel

RECIPES = {
    "decoder_only": {"type": "decoder_only", "embedding": {"positions": "none"}, "decoder": {"depth": 1}},
    "encoder_decoder": {"type": "encoder_decoder", "encoder": {"depth": 1}, "decoder": {"depth": 1}},
    "encoder_only": {"type": "encoder_only", "encoder": {"depth": 1}},
}
SIZES = {"dim": 16, "vocab_size": 260, "max_length": 48, "head": "own", "init": {"type": "normal", "std": 0.3}}
Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes a checkpoint as `fit` does, of an untrained model that reads and writes bytes."""

    def saved(
        kind: str, *, tokenizer: bool = True, name: str = "model.ckpt", bias: dict[int, float] | None = None
    ) -> Path:
        recipe = RECIPES[kind] | SIZES | ({"head": {"type": "own", "bias": True}} if bias else {})
        model = bf.build(recipe, seed=1)
        for token, value in (bias or {}).items():
            model.head.project.bias.data[token] = value
        metadata = {"format": FORMAT, "recipe": recipe, "tokenizer": ByteTokenizer().dump() if tokenizer else None}
        state = {f"model.{name}": value for name, value in model.state_dict().items()}
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"state_dict": state, METADATA: metadata}, path)
        return path

    return saved


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["generate", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def complaint(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    try:
        status = main(["generate", *map(str, arguments)])
    except SystemExit as leaving:  # argparse
        status = leaving.code
    assert status == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_decoder_continues_the_prompt_greedily_as_in_python(save, capsys) -> None:
    path = save("decoder_only")
    out = answer(capsys, path, "--prompt", "ab", "--greedy", "--max-new-tokens", 9)
    written = "".join(TextModel.load(path).stream("ab", max_new_tokens=9))
    assert out == f"ab{written}\n"
    assert written


def test_the_same_seed_writes_the_same_text_and_samples_differ(save, capsys) -> None:
    path = save("decoder_only")
    asked = (path, "--prompt", "x", "--max-new-tokens", 12, "--temperature", 2, "--top-k", 100, "--top-p", 0.99)
    first, again, other = (answer(capsys, *asked, "--seed", seed) for seed in (1, 1, 2))
    assert first == again != other
    two = answer(capsys, *asked, "--samples", 2).split("--- ")[1:]
    assert [sample[:3] for sample in two] == ["1\nx", "2\nx"]
    assert two[0][3:] != two[1][3:]


def test_text_appears_while_it_is_made(save, monkeypatch) -> None:
    seen = []

    class Watched(io.StringIO):
        def flush(self) -> None:
            seen.append(self.getvalue())

    monkeypatch.setattr(sys, "stdout", Watched())
    assert main(["generate", str(save("decoder_only")), "--prompt", "ab", "--max-new-tokens", "6", "--greedy"]) == 0
    growing = list(dict.fromkeys(seen))
    assert len(growing) > 3
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(growing))


def test_a_character_is_held_back_until_its_last_byte_is_there(save) -> None:
    first, second = (byte + 4 for byte in "é".encode())
    model = TextModel.load(save("decoder_only"))
    turn = iter([first, second] * 2 + [first])
    pieces = list(model.stream("", max_new_tokens=5, choose=lambda logits: torch.tensor([next(turn)])))
    assert pieces == ["", "é", "", "é", "", "\N{REPLACEMENT CHARACTER}"]


def test_an_encoder_decoder_translates_each_line(save, capsys) -> None:
    path = save("encoder_decoder", bias={ByteTokenizer().eos: -50.0})
    out = answer(capsys, path, "--prompt", "one\ntwo three", "--max-new-tokens", 7)
    found = TextModel.load(path).search(["", ""], sources=["one", "two three"], max_new_tokens=7)
    assert out == "".join(f"{row[0][0]}\n" for row in found)
    assert found[0][0][0] != found[1][0][0]
    three = answer(capsys, path, "--prompt", "one", "--max-new-tokens", 7, "--beams", 3, "--samples", 3)
    (found,) = TextModel.load(path).search([""], sources=["one"], max_new_tokens=7, beams=3, best=3)
    assert three == "".join(f"{score:.3f}\t{text}\n" for text, score in found)
    greedy = answer(capsys, path, "--prompt", "one", "--greedy", "--max-new-tokens", 7)
    assert greedy == "".join(TextModel.load(path).stream("", source="one", max_new_tokens=7)) + "\n"


def test_an_encoder_fills_the_blanks_and_lists_candidates(save, capsys) -> None:
    path = save("encoder_only", bias={ord("k") + 4: 30.0})
    assert answer(capsys, path, "--prompt", "loo_ ta_e").splitlines()[0] == "look take"
    filled, *blanks = answer(capsys, path, "--prompt", "a[MASK]_c", "--blank", "[MASK]").splitlines()
    assert filled == "ak_c"
    (blank,) = blanks
    assert blank.startswith("  blank 1: 'k' 100.0%")


def test_the_prompt_can_come_from_standard_input(save, capsys, monkeypatch) -> None:
    path = save("decoder_only")
    monkeypatch.setattr(sys, "stdin", Namespace(buffer=io.BytesIO("größer\n".encode())))
    piped = answer(capsys, path, "--prompt", "-", "--greedy", "--max-new-tokens", 4)
    assert piped == answer(capsys, path, "--prompt", "größer", "--greedy", "--max-new-tokens", 4)
    monkeypatch.setattr(sys, "stdin", Namespace(buffer=io.BytesIO(b"a\n\xff")))
    assert "the prompt: not UTF-8 (byte 0xff at offset 2), on line 2;" in complaint(capsys, path, "--prompt", "-")
    monkeypatch.setattr(sys, "stdin", Namespace(buffer=io.BytesIO("ab".encode("utf-16-le"))))
    assert "the prompt: is in UTF-16LE without a byte-order mark" in complaint(capsys, path, "--prompt", "-")


def test_several_prompts_are_continued_like_each_alone(save, tmp_path, capsys) -> None:
    path = save("decoder_only")
    options, texts = (path, "--greedy", "--max-new-tokens", 9), ["ab", "", "a longer one"]
    alone = [answer(capsys, *options, "--prompt", text) for text in texts]
    assert len(set(alone)) == 3
    expected = "".join(f"--- {number}\n{text}" for number, text in enumerate(alone, start=1))
    given = [part for text in texts for part in ("--prompt", text)]
    assert answer(capsys, *options, *given) == expected
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(texts[1:]) + "\n")
    assert answer(capsys, *options, "--prompt", "ab", "--prompts", file) == expected
    assert answer(capsys, *options, *given, "--prompt-chunk", 2) == expected
    searched = answer(capsys, path, *given, "--beams", 2, "--max-new-tokens", 4)
    found = TextModel.load(path).search(texts, max_new_tokens=4, beams=2)
    rows = zip(texts, found, strict=True)
    assert searched == "".join(f"--- {n}\n{text}{row[0][0]}\n" for n, (text, row) in enumerate(rows, start=1))


def test_samples_of_several_prompts_are_numbered(save, capsys) -> None:
    asked = (save("decoder_only"), "--prompt", "a", "--prompt", "b", "--max-new-tokens", 6, "--samples", 2)
    first, again, other = (answer(capsys, *asked, "--seed", seed) for seed in (1, 1, 2))
    assert first == again != other
    assert [part[:6] for part in first.split("--- ")[1:]] == ["1, 1\na", "1, 2\na", "2, 1\nb", "2, 2\nb"]


def test_several_prompts_of_an_encoder_are_filled_in_each(save, capsys) -> None:
    path = save("encoder_only", bias={ord("k") + 4: 30.0})
    found = answer(capsys, path, "--prompt", "loo_", "--prompt", "ta_e").splitlines()
    assert [found[0], found[1], found[3], found[4]] == ["--- 1", "look", "--- 2", "take"]


def test_drafts_change_no_greedy_text_and_their_share_is_reported(save, capsys) -> None:
    path, draft = save("decoder_only"), save("decoder_only", name="draft.ckpt", bias={ord("b") + 4: 1.0})
    asked = (path, "--prompt", "ab", "--prompt", "xyz", "--max-new-tokens", 12)
    expected = answer(capsys, *asked, "--greedy")
    for other, tokens in ((draft, 3), (path, 2)):
        assert (
            main(["generate", *map(str, asked), "--greedy", "--draft", str(other), "--draft-tokens", str(tokens)]) == 0
        )
        captured = capsys.readouterr()
        assert captured.out == expected
        assert "drafted tokens were accepted (" in captured.err
    assert "(100%)" in captured.err
    drawn = [answer(capsys, *asked, "--draft", draft, "--seed", seed) for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_draft_with_another_tokenizer_is_refused_in_one_line(save, capsys) -> None:
    path, draft = save("decoder_only"), save("decoder_only", name="draft.ckpt")
    content = torch.load(draft, weights_only=True)
    content[METADATA]["tokenizer"] = BPE(vocab_size=260).learn(lambda: iter(["some text"])).dump()
    torch.save(content, draft)
    assert "the draft has another tokenizer" in complaint(capsys, path, "--prompt", "a", "--draft", draft)


@pytest.mark.parametrize("way", [(), ("--greedy",), ("--seed", 1)])
def test_each_line_of_standard_input_has_one_line_of_output(save, capsys, monkeypatch, way: tuple) -> None:
    path = save("encoder_decoder", bias={ByteTokenizer().eos: -50.0})
    lines = ["one", " one\r", "", "t\u2028wo\x0c\x85", "\t", "three\tfour"]
    options = (path, "--max-new-tokens", 7, *way)
    alone = [answer(capsys, *options, "--prompt", line.strip()) if line.strip() else "\n" for line in lines]
    for mark, end in (("", ""), ("\ufeff", "\n")):
        piped = io.BytesIO((mark + "\n".join(lines) + end).encode())
        monkeypatch.setattr(sys, "stdin", Namespace(buffer=piped))
        if way[:1] != ("--seed",):  # one sequence of random numbers for all lines
            assert answer(capsys, *options, "--prompt", "-") == "".join(alone)
        else:
            assert len(answer(capsys, *options, "--prompt", "-").splitlines()) == len(lines)


def test_a_line_end_that_the_model_writes_does_not_end_the_line(save, capsys) -> None:
    path = save("encoder_decoder", bias={ord("\n") + 4: 50.0})
    for way in ((), ("--greedy",), ("--seed", 1)):
        assert answer(capsys, path, "--prompt", "a", "--max-new-tokens", 3, *way) == "   \n"


def test_a_line_that_is_too_long_is_named_before_any_is_translated(save, capsys) -> None:
    found = complaint(capsys, save("encoder_decoder"), "--prompt", "a\n" + "b" * 60)
    assert "line 2 of the prompt has 61 tokens, but the model's max_length is 48" in found


def test_writing_ends_with_the_models_max_length_and_says_so_if_more_was_asked_for(save, capsys) -> None:
    path = save("decoder_only", bias={ord("z") + 4: 50.0})
    assert main(["generate", str(path), "--prompt", "abc", "--max-new-tokens", "100"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "abc" + "z" * 45 + "\n"  # 48 tokens are read: a start token, abc, and 44 of these
    assert captured.err == "the model's max_length of 48 leaves room for 45 tokens\n"


def test_a_run_folder_means_its_best_checkpoint_or_else_its_last(save, tmp_path, capsys) -> None:
    save("decoder_only", name="run/checkpoints/last.ckpt", bias={ord("l") + 4: 50.0})
    asked = (tmp_path / "run", "--prompt", "a", "--max-new-tokens", 3)
    assert answer(capsys, *asked) == "alll\n"
    save("decoder_only", name="run/checkpoints/best.ckpt", bias={ord("b") + 4: 50.0})
    assert answer(capsys, *asked) == "abbb\n"


def test_what_would_control_a_terminal_is_not_sent_to_one(save, monkeypatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    path = save("decoder_only", bias={27 + 4: 50.0})
    assert main(["generate", str(path), "--prompt", "a\tb", "--max-new-tokens", "2"]) == 0
    assert terminal.getvalue() == "a\tb\\x1b\\x1b\n"


@pytest.mark.parametrize(
    ("kind", "arguments", "reason"),
    [
        ("decoder_only", ["--prompt", "a" * 48], "a prompt has 49 tokens, but the model's max_length is 48"),
        ("decoder_only", ["--temperature", "0"], "temperature=0.0 must be above 0"),
        ("decoder_only", ["--top-p", "2"], "top_p=2.0"),
        ("decoder_only", ["--max-new-tokens", "0"], "max_new_tokens=0 must be at least 1"),
        ("decoder_only", ["--samples", "0"], "--samples 0 must be at least 1"),
        ("decoder_only", ["--greedy", "--top-k", "3"], "--top-k has no effect with greedy decoding"),
        ("decoder_only", ["--beams", "3", "--seed", "3"], "--seed has no effect with beam search"),
        ("decoder_only", ["--blank", "?"], "--blank has no effect with sampling"),
        ("decoder_only", ["--prompt", "-", "--prompt", "-"], "standard input can be read once only"),
        ("decoder_only", ["--prompts", "missing.txt"], "missing.txt: No such file"),
        ("decoder_only", ["--prompt-chunk", "0"], "prompt_chunk=0 must be at least 1"),
        ("decoder_only", ["--draft-tokens", "3"], "--draft-tokens has no effect without --draft"),
        ("decoder_only", ["--draft", "x", "--compile"], "--compile has no effect with --draft"),
        ("decoder_only", ["--beams", "2", "--draft", "x"], "--draft has no effect with beam search"),
        ("decoder_only", ["--prompt", "\udcff"], "the prompt is not valid UTF-8"),
        ("decoder_only", ["--device", "abacus"], "--device abacus cannot be used"),
        ("decoder_only", ["--beams", "many"], "invalid int value: 'many'"),
        ("encoder_decoder", [], "there is no text to translate"),
        (
            "encoder_decoder",
            ["--prompt", "a", "--beams", "2", "--samples", "3"],
            "2 beams cannot find 3 texts",
        ),
        ("encoder_decoder", ["--prompt", "a" * 60], "a source has 61 tokens"),
        ("encoder_only", ["--prompt", "no blank"], "write _ for each missing token"),
        ("encoder_only", ["--prompt", "a_", "--greedy"], "--greedy has no effect with filling in blanks"),
        ("encoder_only", ["--prompt", "_" * 49], "the sequence has 49 tokens"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(save, capsys, kind, arguments, reason) -> None:
    assert reason in complaint(capsys, save(kind), *arguments)


def test_what_is_no_checkpoint_is_said_in_one_line(save, tmp_path, capsys) -> None:
    assert "no such file" in complaint(capsys, tmp_path / "missing.ckpt")
    assert "not a run's folder" in complaint(capsys, tmp_path)
    (tmp_path / "text.ckpt").write_text("hello")
    assert "text.ckpt" in complaint(capsys, tmp_path / "text.ckpt")
    assert "has no tokenizer" in complaint(capsys, save("decoder_only", tokenizer=False))


@pytest.mark.parametrize("device", ["meta", "nowhere", "", "cuda:99", "cpu:x"])
def test_a_device_that_cannot_compute_is_refused_in_one_line(
    device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", str(tmp_path), "--device", device]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"--device {device or repr(device)} cannot be used: ")


@pytest.mark.parametrize(
    ("kind", "value"),
    [*itertools.product(RECIPES, [float("nan"), float("inf")]), ("decoder_only", 1e38), ("encoder_decoder", 1e38)],
)
def test_weights_that_give_no_text_are_refused_in_one_line(kind, value, save, capsys) -> None:
    path = save(kind)
    content = torch.load(path, weights_only=True)
    # A constant would be multiplied with the sum of a normalised vector, which is 0 but for rounding.
    signs = torch.randn(content["state_dict"]["model.head.project.weight"].shape, generator=torch.Generator()).sign()
    content["state_dict"]["model.head.project.weight"].copy_(signs * value)
    torch.save(content, path)
    reason = "head.project.weight is not finite" if value > 1e38 or value != value else "output is not finite"
    ways = [[]] if kind == "encoder_only" else [["--greedy"], ["--beams", 2], ["--temperature", 0.5]]
    for way in ways:
        assert reason in complaint(capsys, path, "--prompt", "a_b", *way)


@pytest.mark.parametrize("seed", ["-1", str(2**64)])
def test_a_seed_has_a_range(seed, save, capsys) -> None:
    assert f"--seed {seed} must be" in complaint(capsys, save("decoder_only"), "--seed", seed)
