"""What ``import blocks`` reports of a module that cannot be imported."""

from importlib import import_module
from pathlib import Path

import pytest

import blocks
from registry import RegistrationError


def test_a_module_that_cannot_be_imported_is_named_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = tmp_path / "norms" / "wrong.py"
    wrong.parent.mkdir()
    wrong.touch()
    monkeypatch.setattr(blocks, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(ImportError, match="wrong") as caught:
        blocks._register_all()
    assert str(caught.value) == f"{wrong}: ModuleNotFoundError: No module named 'blocks.norms.wrong'"


WRONG = """
from blocks.base import Norm, Site
from registry import register

@register("wrong")
class Wrong(Norm):
    def __init__(self, site: Site, *, eps: float) -> None: ...
"""


def test_a_block_that_breaks_the_contract_is_named_by_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = tmp_path / "norms" / "wrong.py"
    wrong.parent.mkdir()
    wrong.write_text(WRONG)
    monkeypatch.syspath_prepend(str(wrong.parent))
    monkeypatch.setattr(blocks, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(blocks, "import_module", lambda module: import_module(module.rpartition(".")[2]))
    with pytest.raises(RegistrationError) as caught:
        blocks._register_all()
    assert str(caught.value) == f"{wrong}:5: Wrong.__init__: recipe parameter 'eps' must have a default"
