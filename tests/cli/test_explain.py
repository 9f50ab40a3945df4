"""`blockformer explain`."""

from pathlib import Path

import pytest

from blockformer.assembly import free_memory
from blockformer.cli.main import main


def test_a_recipe_is_explained_on_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    assert main(["explain", "tiny_decoder", "--text", "cat eats fish", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"51 steps of tiny_decoder: {out}\n"
    assert out.read_text().startswith("<!doctype html>")


def test_without_a_file_the_page_has_the_name_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["explain", "tiny_encoder", "--text", "c_t", "--language", "zh", "--compare", "tiny_encoder"]) == 0
    assert 'lang="zh"' in (tmp_path / "tiny_encoder.html").read_text()


@pytest.mark.slow  # dozens of figures
def test_each_step_is_drawn_as_a_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, figures = tmp_path / "page.html", tmp_path / "figures"
    assert main(["explain", "tiny_experts", "--text", "cat", "--out", str(out), "--figures", str(figures)]) == 0
    names = sorted(path.name for path in figures.iterdir())
    assert f"{len(names)} figures: {figures}\n" in capsys.readouterr().out
    assert names[0] == "000-embedding.vectors.png"
    assert "decoder.layers.0.mixer.weights.png" in "".join(names)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tiny_decoder", "--text", ""], "the text is empty"),
        (["tiny_decoder", "--text", "x" * 100], "max_length is 64; shorten it"),
        (["tiny_decoder", "--text", "x", "--source", "y"], "leave the source out"),
        (["no_such_recipe", "--text", "x"], "no_such_recipe"),
        (["tiny_decoder", "--text", "\udcff"], "--text is not valid UTF-8"),
        (["tiny_decoder", "--text", "x", "--compare", "nowhere"], "nowhere"),
        (["tiny_decoder", "--text", "x", "--out", "/proc/x.html"], "--out /proc/x.html: No such file"),
    ],
)
def test_what_cannot_be_explained_ends_in_one_line_and_status_2(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["explain", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_text_whose_scores_exceed_the_free_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("long.yaml").write_text("extends: tiny_decoder\nmax_length: 1000000\nembedding: {positions: none}\n")
    monkeypatch.setattr(free_memory, "free_memory", lambda device: 2**28)
    assert main(["explain", "long.yaml", "--text", "x" * 100]) == 0
    capsys.readouterr()
    assert main(["explain", "long.yaml", "--text", "x" * 10_000]) == 2
    assert capsys.readouterr().err == (
        "explaining 10,001 tokens takes 9.0 GiB, but 0.2 GiB are free on cpu; shorten the text\n"
    )
