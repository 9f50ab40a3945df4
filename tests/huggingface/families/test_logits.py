"""Every family reproduces the logits and the hidden states of the original."""

from pathlib import Path

import pytest

from blockformer.huggingface import families, read_folder, verify
from tests.huggingface.families.cases import CASES, Case
from tests.huggingface.families.originals import saved


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_imported_model_has_the_logits_of_the_original(case: Case, originals: Path) -> None:
    imported = read_folder(saved(case, originals))
    starts = [tensor.data_ptr() for tensor in imported.parameters.values() if tensor.numel()]
    assert len(set(starts)) == len(starts), "parameters share memory"
    result = verify(imported, length=24)
    assert result.logits <= 2e-5
    assert result.layers, "the original returned no hidden states"
    assert result.first_difference is None, result.layers


def test_every_installed_family_is_tested() -> None:
    tested = {case.model_type for case in CASES}
    assert [model for family in families() for model in family.model_types if model not in tested] == []
