"""What ``import blocks`` reports of a module that cannot be imported."""

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


def test_a_block_that_breaks_the_contract_is_named_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = tmp_path / "norms" / "wrong.py"
    wrong.parent.mkdir()
    wrong.touch()

    def refuse(module: str) -> None:
        raise RegistrationError("Wrong.__init__: recipe parameter 'eps' must have a default")

    monkeypatch.setattr(blocks, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(blocks, "import_module", refuse)
    with pytest.raises(RegistrationError) as caught:
        blocks._register_all()
    assert str(caught.value) == f"{wrong}: Wrong.__init__: recipe parameter 'eps' must have a default"
