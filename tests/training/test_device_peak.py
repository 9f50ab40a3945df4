"""The share of the device's operations that a run uses."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import blockformer as bf
from blockformer.training.callbacks import metrics
from blockformer.training.device_peak import compute_dtype, peak_flops
from blockformer.training.json_lines import read_rows

CPU = torch.device("cpu")


def test_a_peak_is_measured_once_and_draws_no_numbers() -> None:
    before = torch.get_rng_state()
    peak = peak_flops(CPU, torch.float32)
    assert 1e8 < peak < 1e14
    assert peak_flops(CPU, torch.float32) == peak
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("32-true", torch.float32),
        ("bf16-mixed", torch.bfloat16),
        ("bf16-true", torch.bfloat16),
        ("16-mixed", torch.half),
    ],
)
def test_products_have_the_type_of_the_precision(precision: str, dtype: torch.dtype) -> None:
    assert compute_dtype(precision) == dtype


def test_a_known_gpu_has_the_peak_of_its_maker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    assert peak_flops(torch.device("cuda", 0), torch.bfloat16) == pytest.approx(989e12, rel=0.01)


def test_a_row_has_the_share_of_the_peak(fit: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "peak_flops", lambda device, dtype: 1e12)
    rows = read_rows(fit("--trainer.max_steps", "2", name="share") / "metrics.jsonl")
    model = bf.build("tiny_decoder", {"decoder.depth": 1}, device="meta")
    (row, *_) = (row for row in rows if "mfu" in row)
    assert row["mfu"] == pytest.approx(row["tokens_per_second"] * 3 * model.flops_per_token(32) / 1e12)
