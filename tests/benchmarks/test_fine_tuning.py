"""A published model is imported and fine-tuned by one command each."""

from pathlib import Path

import numpy as np
import pytest

from blockformer.data.datasets.base import UNSCORED
from blockformer.data.randomness import Draws

pytestmark = pytest.mark.usefixtures("registry_of_a_test")  # the benchmark registers a dataset and an objective


def test_the_masked_product_is_the_ester_of_the_acid_and_the_alcohol() -> None:
    from benchmarks.reactions import FIXED, IDS, Esters

    symbols = {number: symbol for symbol, number in IDS.items()}
    length = FIXED + 12
    tokens, targets = Esters().rows(Draws(0, "rows", np.arange(20), 0, 0), length, length)
    for row, answers in zip(tokens, targets, strict=True):
        text = "".join(symbols[number] for number in row if number not in (IDS["[CLS]"], IDS["[SEP]"], IDS["[MASK]"]))
        acid, alcohol = text.removesuffix(">>").split(".")
        product = "".join(symbols[number] for number in answers if number != UNSCORED)
        assert acid.endswith("C(=O)O")
        assert product == acid + alcohol.removeprefix("O")
        assert ((row == IDS["[MASK]"]) == (answers != UNSCORED)).all()


@pytest.mark.slow
def test_a_published_model_is_fine_tuned_in_adapters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import fine_tuning

    try:
        found = fine_tuning.main(["--steps", "40", "--folder", str(tmp_path)])
    except fine_tuning.DownloadError as error:
        pytest.skip(str(error))
    assert found["adapters"]["trained"] < found["all parameters"]["trained"] / 20
    assert found["adapters"]["accuracy"] > found["from nothing"]["accuracy"] + 0.1
    assert "adapters: 28,672 trained" in capsys.readouterr().out
