"""Activations and expert load against sums over the outputs."""

from typing import Any

import pytest
import torch
from torch import Tensor

import blockformer as bf
from blockformer.training.watch.recorder import Recorder
from blocks.base import Layer, Router


def recorded(recipe: str, mask: Tensor | None) -> tuple[dict[str, float], dict[str, Any]]:
    """The figures of two passes, and all outputs of layers and choices of routers by path."""
    torch.manual_seed(0)
    model = bf.build(recipe).eval()
    outputs: dict[str, Any] = {}
    for path, part in model.named_modules():
        if isinstance(part, Layer):
            part.register_forward_hook(lambda _, given, output, path=path: outputs.setdefault(path, []).append(output))
        if isinstance(part, Router):
            part.register_forward_hook(lambda _, given, out, path=path: outputs.setdefault(path, []).append(out[1]))
    recorder = Recorder(model)
    with recorder.recording():
        for _ in range(2):
            model(torch.randint(200, (3, 8)), attention_mask=mask)
    model(torch.randint(200, (3, 8)), attention_mask=mask)  # not recorded
    return recorder.figures(lambda sums: sums), {path: found[:2] for path, found in outputs.items()}


@pytest.mark.parametrize("padded", [False, True])
def test_activations_are_means_over_tokens_without_padding(padded: bool) -> None:
    mask = torch.ones(3, 8, dtype=torch.bool)
    if padded:
        mask[0, 5:] = mask[2, 1:] = False
    figures, outputs = recorded("tiny_encoder", mask if padded else None)
    assert figures.keys() == {f"activation_rms/{path}" for path in outputs}
    for path, found in outputs.items():
        expected = torch.cat([output[mask] for output in found]).square().mean().sqrt()
        assert figures[f"activation_rms/{path}"] == pytest.approx(expected.item(), rel=1e-5)


def test_load_is_relative_to_an_even_one() -> None:
    mask = torch.ones(3, 8, dtype=torch.bool)
    mask[1, 2:] = False
    figures, outputs = recorded("tiny_experts", mask)
    routers = [path for path in outputs if path.endswith("router")]
    assert routers
    for path in routers:
        chosen = torch.cat([choice.view(3, 8, -1)[mask] for choice in outputs[path]])
        experts = bf.build("tiny_experts").get_submodule(path).site.experts  # type: ignore[union-attr]
        counts = torch.bincount(chosen.flatten(), minlength=experts).float()
        block = path.removesuffix(".router")
        assert figures[f"expert_load_max/{block}"] == pytest.approx((counts.max() / counts.mean()).item())
        assert figures[f"expert_load_min/{block}"] == pytest.approx((counts.min() / counts.mean()).item())
