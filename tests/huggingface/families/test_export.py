"""An imported model can be exported again, with the same config and tensors."""

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from blockformer.huggingface import export_folder, read_folder
from tests.huggingface.families.cases import CASES, Case, by_cost
from tests.huggingface.families.originals import original, saved, without_parts

COMPUTED = (
    ".slope_rate",
    ".query_decay",
    ".key_decay",
    ".diagonal_decay",
)  # which an original stores although it computes them from its config


UNLIKE = ("luke",)  # the sizes of the tables of entities, which our model does not have, are in no recipe


@pytest.mark.parametrize("case", by_cost([case for case in CASES if case.name not in UNLIKE]))
def test_an_exported_model_is_the_original(case: Case, originals: Path, tmp_path: Path) -> None:
    source = saved(case, originals)
    imported = read_folder(source)
    given = (imported.family, imported.tokens, imported.unused)
    out = export_folder(imported.recipe, imported.parameters, tmp_path / "exported", *given)

    before, after = (without_parts(load_file(folder / "model.safetensors")) for folder in (source, out))
    assert {name for name in before if not name.endswith(COMPUTED)} == after.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())

    again = read_folder(out)
    assert again.recipe.hash == imported.recipe.hash
    assert all(torch.equal(again.parameters[name], tensor) for name, tensor in imported.parameters.items())

    theirs = getattr(transformers, case.model).from_pretrained(out, attn_implementation="eager").eval()
    inputs = {"input_ids": torch.randint(8, 70, (2, 24), generator=torch.Generator().manual_seed(2))}
    if theirs.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = inputs["input_ids"][:, :20]
    with torch.no_grad():
        expected = original(case)(**inputs).logits
        close = 1e-5 * expected.abs().max().item()  # the same weights elsewhere in memory are rounded differently
        torch.testing.assert_close(theirs(**inputs).logits, expected, rtol=0, atol=close)
