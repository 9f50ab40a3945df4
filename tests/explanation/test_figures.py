"""Figures: the characters of tokens, also where the usual font lacks them."""

import warnings
from dataclasses import replace
from pathlib import Path

import pytest

import blockformer as bf
from blockformer.cli.main import main
from blockformer.data.tokenizers.bpe import BPE
from blockformer.explanation import Explanation, explain, figures
from blockformer.explanation.fonts import Fonts, fonts_for

TEXT = "猫吃鱼"


@pytest.fixture(scope="module")
def chinese() -> Explanation:
    """The attention weights and the probabilities of a model whose tokens are Chinese words."""
    tokenizer = BPE(vocab_size=300).learn(lambda: [TEXT, "狗吃肉", "牛吃草"])
    model = bf.build("tiny_decoder", {"vocab_size": tokenizer.vocab_size})
    explanation = explain(model, TEXT, tokenizer=tokenizer)
    shown = [step for step in explanation.steps if step.name in ("weights", "probabilities")]
    return replace(explanation, steps=tuple(shown[-2:]))


def test_chinese_tokens_are_drawn_with_a_font_that_has_them(chinese: Explanation, tmp_path: Path) -> None:
    if fonts_for([TEXT]).missing:
        pytest.skip("needs a font with Chinese characters, such as Noto Sans CJK")
    assert any("猫" in token.text for token in chinese.texts[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of each character that it draws as a box
        count, missing = figures.draw_figures(tmp_path, chinese)
    assert (count, missing) == (2, frozenset())
    assert len(list(tmp_path.glob("*.png"))) == 2


def test_the_usual_font_is_tried_first_and_alone_where_it_has_everything() -> None:
    from matplotlib import rcParams

    assert fonts_for(["cat", "␣Käse", "\n"]) == Fonts(list(rcParams["font.family"]), frozenset())


def test_a_character_that_no_font_has_is_drawn_as_its_code_point(
    chinese: Explanation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = fonts_for([TEXT], files=[])
    assert found.missing == set(TEXT)
    assert found.written("␣猫\x1f") == "␣\\u732b\\x1f"
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", list)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, missing = figures.draw_figures(tmp_path, chinese)
    assert missing >= set(TEXT)


def test_missing_characters_are_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figures, "draw_figures", lambda folder, explanation: (51, frozenset(TEXT)))
    out = ["--out", str(tmp_path / "page.html"), "--figures", str(tmp_path)]
    assert main(["explain", "tiny_decoder", "--text", "cat", *out]) == 0
    error = capsys.readouterr().err
    assert error.startswith("note: no installed font has 吃猫鱼: figures show code points; install one")
    assert error.count("\n") == 1
