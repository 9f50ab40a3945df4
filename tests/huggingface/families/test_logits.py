"""Every family gives the original's logits from the original's weights, layer by layer."""

from pathlib import Path

import pytest

from blockformer.huggingface import families, read_folder, verify
from tests.huggingface.families.cases import CASES, Case
from tests.huggingface.families.originals import saved


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_imported_model_gives_what_the_original_gives(case: Case, originals: Path) -> None:
    result = verify(read_folder(saved(case, originals)), length=24)
    assert result.logits <= 2e-5
    assert result.layers, "the original gave no hidden states"
    assert result.first is None, result.layers


def test_every_installed_family_is_tested() -> None:
    tested = {case.model_type for case in CASES}
    assert [model for family in families() for model in family.models if model not in tested] == []
