"""The results of tasks that are not run now."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from blockformer.studies.api import _other_tasks


def test_damaged_results_of_another_task_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study: Any = SimpleNamespace(name="mine", file=SimpleNamespace(tasks={"text": {}, "copy": {}}))
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "results.json").write_text('{"verdicts": 3}')
    assert _other_tasks(study, tmp_path) == {}
    told = capsys.readouterr().err
    assert (
        told
        == f"note: {tmp_path / 'copy' / 'results.json'}: is damaged and left out of the table; run task copy again\n"
    )
