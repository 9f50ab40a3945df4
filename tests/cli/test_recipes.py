"""`blockformer recipes`."""

import json
from pathlib import Path

import pytest

import registry
from blockformer.cli.main import main
from registry.recipe import recipes_folder


def test_lists_every_recipe_with_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(registry.builtin_recipes())
    assert all(len(line) <= 110 for line in lines)
    assert any(line.startswith("gpt2_xl ") and "GPT-2 XL: Radford et al., 2019" in line for line in lines)


def test_a_word_chooses_by_name_or_description(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "deepseek", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"deepseek_v2_lite", "deepseek_v3"}
    assert found["deepseek_v3"].startswith("DeepSeek-V3")
    assert "extends" not in found["deepseek_v3"]


def test_a_word_that_none_has_ends_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["recipes", "gtp2"])
    assert left.value.code == 2
    assert "no recipe mentions 'gtp2'; did you mean 'gpt2'?" in capsys.readouterr().err


def test_a_page_that_cannot_be_written_ends_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "builtin_recipes", lambda: {"tiny_decoder": registry.find_recipe("tiny_decoder")})
    monkeypatch.setattr("blockformer.cli.recipes.page", lambda sizes: f"{sizes}")
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as left:
        main(["recipes", "--page", str(tmp_path / "file" / "models.md")])
    assert left.value.code == 2
    assert "cannot write" in capsys.readouterr().err


def test_a_name_that_is_like_no_other_is_not_answered_with_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "zzz"]) == 2
    assert f"`blockformer recipes` lists all {len(registry.builtin_recipes())}" in capsys.readouterr().err


def test_no_two_recipes_share_a_name() -> None:
    assert len(list(recipes_folder().rglob("*.yaml"))) == len(registry.builtin_recipes())


def test_a_page_is_of_all_recipes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["recipes", "gpt2", "--page", str(tmp_path / "models.md")])
    assert stop.value.code == 2
    assert "--page lists all recipes; leave 'gpt2' out" in capsys.readouterr().err
