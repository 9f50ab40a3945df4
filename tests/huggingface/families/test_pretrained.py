"""An imported published checkpoint performs the task that it was trained for."""

import re
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from torch import Tensor

import blockformer as bf
from blockformer.huggingface import read_folder, verify, write_folder
from blocks.models.base import Model

PACKAGE = (
    "rxnmapper==0.4.3"  # MIT; Schwaller et al., 2021, Science Advances 7(15): an ALBERT trained on chemical reactions
)
INSIDE = "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k/"
SYMBOL = re.compile(r"\[[^\]]+\]|Br|Cl|>>|%\d\d|.")
REACTIONS = [
    "CC(=O)O.CCO>>CC(=O)OCC",  # an ester
    "CC(=O)Cl.NCc1ccccc1>>CC(=O)NCc1ccccc1",  # an amide
    "Brc1ccccc1.OB(O)c1ccccc1>>c1ccc(-c2ccccc2)cc1",  # Suzuki
    "CC(C)=O.[BH4-].[Na+]>>CC(C)O",  # a reduction
    "CI.Oc1ccccc1.O=C([O-])[O-].[K+].[K+]>>COc1ccccc1",  # an ether
]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the checkpoint, from the package that contains it."""
    place = tmp_path_factory.mktemp("published")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(place)]
    answer = subprocess.run([*pip, PACKAGE], capture_output=True, text=True, check=False)
    if answer.returncode:
        pytest.skip(f"{PACKAGE} cannot be downloaded: {answer.stderr.strip().splitlines()[-1]}")
    with ZipFile(next(place.glob("*.whl"))) as wheel:
        wheel.extractall(place, [name for name in wheel.namelist() if name.startswith(INSIDE)])
    return place / INSIDE


def restored(model: Model, reactions: list[Tensor], mask: int) -> float:
    """Share of the symbols that the model predicts, with one masked at a time."""
    right = [torch.tensor([])]
    for reaction in reactions:
        places = torch.arange(1, len(reaction) - 1)  # without [CLS] and [SEP]
        rows = torch.arange(len(places))
        masked = reaction.repeat(len(places), 1)
        masked[rows, places] = mask
        with torch.no_grad():
            guesses = model(masked)[rows, places].argmax(-1)
        right.append((guesses == reaction[places]).float())
    return torch.cat(right).mean().item()


@pytest.mark.slow
def test_an_imported_model_of_reactions_fills_masked_symbols(published: Path, tmp_path: Path) -> None:
    imported = read_folder(published)
    assert verify(imported).logits <= 2e-5

    ids = {symbol: place for place, symbol in enumerate((published / "vocab.txt").read_text().splitlines())}
    reactions = [torch.tensor([ids[s] for s in ["[CLS]", *SYMBOL.findall(r), "[SEP]"]]) for r in REACTIONS]
    untrained = bf.build(imported.recipe, seed=0).eval()
    assert restored(untrained, reactions, ids["[MASK]"]) < 0.2
    assert restored(bf.load(write_folder(imported, tmp_path / "out")), reactions, ids["[MASK]"]) > 0.9
