"""`blockformer show --format diagram` and `--format svg`."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import blockformer as bf
import registry
from blockformer.cli.main import main
from blockformer.inspection.diagram import diagram
from blockformer.inspection.rendering import as_svg, as_text
from blockformer.inspection.wiring import Merge, Step, Wiring, wiring_of
from registry import entry_of, spec_of

SMALL = [name for name in registry.builtin_recipes() if name.startswith(("tiny_", "demo_"))]
KNOWN = [*SMALL, "gpt2", "bert_base", "transformer", "llama3_8b"]


def drawn(name: str, overrides: dict[str, Any] | None = None) -> str:
    recipe = registry.load_recipe(name, overrides or {})
    return as_text(diagram(recipe, bf.check(recipe)))


def types_in(name: str) -> set[str]:
    model = bf.check(registry.load_recipe(name))
    return {entry_of(type(block)).name for _, block in model.components() if spec_of(block) is not None}


@pytest.mark.parametrize("name", KNOWN)
def test_a_drawing_is_valid_and_names_every_block(name: str) -> None:
    recipe = registry.load_recipe(name)
    root = ElementTree.fromstring(as_svg(diagram(recipe, bf.check(recipe)), "title & <more>", "what it shows"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.findtext("{*}title") == "title & <more>"
    assert root.findtext("{*}desc") == "what it shows"
    assert root.get("role") == "img"
    words = set(" ".join(root.itertext()).replace(",", " ").replace(":", " ").split())
    assert types_in(name) <= words


@pytest.mark.parametrize("name", KNOWN)
def test_a_diagram_fits_into_100_columns_and_names_every_block(name: str) -> None:
    shown = drawn(name)
    assert max(map(len, shown.splitlines())) <= 100
    assert types_in(name) <= set(shown.replace(",", " ").replace(":", " ").split())


@pytest.mark.parametrize(
    ("residual", "ways"),
    [
        ("pre", ["+ [norm mixer]", "+ [norm feedforward]"]),
        ("post", ["+ [mixer]", "norm", "+ [feedforward]", "norm"]),
        ("deepnorm", ["+ [mixer]", "norm", "+ [feedforward]", "norm"]),
        ("sandwich", ["+ [norm mixer after]", "+ [norm feedforward after]"]),
        ("output", ["+ [mixer norm]", "+ [feedforward norm]"]),
        ("layerscale", ["+ [norm mixer]", "+ [norm feedforward]"]),
    ],
)
def test_norms_are_where_the_residual_applies_them(residual: str, ways: list[str]) -> None:
    assert wired("tiny_decoder", {"decoder.layer.residual": residual}) == ways


def test_parallel_sublayers_are_one_sum() -> None:
    assert wired("tiny_decoder", {"decoder.layer": "parallel"}) == ["+ [norm mixer] [norm feedforward]"]
    assert "(the same) norm" in drawn("tiny_decoder", {"decoder.layer": "parallel"})


def wired(name: str, overrides: dict[str, Any]) -> list[str]:
    model: Any = bf.check(registry.load_recipe(name, overrides))
    wiring = wiring_of(model.decoder.layers[0])
    assert wiring is not None
    return [described(step) for step in wiring]


def described(step: Step | Merge) -> str:
    if isinstance(step, Step):
        return step.name.rpartition(".")[2]
    branches: list[Wiring] = [branch for branch in step.branches if branch]
    assert len(branches) == len(step.branches) - 1  # one skip connection
    return " ".join([step.operation, *(f"[{' '.join(map(described, branch))}]" for branch in branches)])


def test_layers_that_repeat_are_drawn_once() -> None:
    shown = drawn("tiny_local_global")
    assert shown.count("mixer: attention") == 2
    assert "2 x (2 x local, global)" in shown
    assert "layers 0-1, 3-4" in shown


def test_a_layer_that_cannot_be_traced_shows_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from blocks.layers.sequential import SequentialLayer

    def forward(self: Any, x: Any, context: Any) -> Any:
        return x if x.sum() > 0 else -x

    monkeypatch.setattr(SequentialLayer, "forward", forward)
    shown = drawn("tiny_decoder")
    assert "wiring not known" in shown
    assert "mixer: attention" in shown


def test_a_line_leads_from_the_encoder_to_the_decoder() -> None:
    lines = drawn("tiny_encoder_decoder").splitlines()
    (arrow,) = [line for line in lines if ">" in line]
    assert arrow.index(">") > len(arrow) // 3
    assert "shares the token table of" in drawn("tiny_encoder_decoder")


def test_out_writes_the_same_svg_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "tiny_decoder", "--format", "svg", "--out", str(tmp_path / "tiny.svg")]) == 0
    assert capsys.readouterr().out == ""
    assert main(["show", "tiny_decoder", "--format", "svg"]) == 0
    assert (tmp_path / "tiny.svg").read_text() == capsys.readouterr().out
    (tmp_path / "folder.svg").mkdir()
    assert main(["show", "tiny_decoder", "--format", "svg", "--out", str(tmp_path / "folder.svg")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert main(["show", "tiny_decoder", "--out", "x.svg"]) == 2
    assert "--out requires --format svg" in capsys.readouterr().err
