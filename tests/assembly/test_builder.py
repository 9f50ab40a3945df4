"""Builds on the meta device and with values."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from blockformer import build, check, load_recipe
from blockformer.assembly.builder import SkipMetaInit
from blockformer.assembly.free_memory import TooLargeError
from blocks.base import FeedForward, Site


class WithConstants(FeedForward):
    """Scale each channel by a constant that the constructor computes on the CPU."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        halves = torch.empty(site.dim, device="cpu").fill_(3.0)
        halves[site.dim // 2 :].zero_()
        nn.init.constant_(halves[:1], 5.0)
        self.register_buffer("factors", halves, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.get_buffer("factors")


class WithoutValues(FeedForward):
    """The same on the default device, which is meta during a build."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.register_buffer("factors", torch.ones(site.dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.get_buffer("factors")


def recipe(feedforward: str) -> dict[str, Any]:
    decoder = {"depth": 1, "layer": {"feedforward": feedforward}}
    return {"type": "decoder_only", "dim": 8, "vocab_size": 11, "max_length": 8, "decoder": decoder}


def test_constants_computed_on_the_cpu_keep_their_values(registry_of_a_test: Callable[..., Any]) -> None:
    registry_of_a_test("with_constants")(WithConstants)
    model = build(recipe("with_constants"))
    factors = model.get_buffer("decoder.layers.0.feedforward.factors")
    assert factors.tolist() == [5.0, 3.0, 3.0, 3.0, 0.0, 0.0, 0.0, 0.0]


def test_a_buffer_without_values_is_rejected_by_name(registry_of_a_test: Callable[..., Any]) -> None:
    registry_of_a_test("without_values")(WithoutValues)
    with pytest.raises(ValueError, match=r"^decoder\.layers\.0\.feedforward\.factors: .*device='cpu'"):
        build(recipe("without_values"))
    build(recipe("without_values"), device="meta")


def test_only_meta_tensors_skip_their_initialisation() -> None:
    with SkipMetaInit():
        real = torch.zeros(3).fill_(2.0)
        assert nn.init.ones_(torch.empty(3, device="meta")).is_meta
        assert torch.nn.init.constant_(tensor=torch.zeros(2), val=4.0).tolist() == [4.0, 4.0]
    assert real.tolist() == [2.0, 2.0, 2.0]


def test_a_model_larger_than_the_free_memory_is_refused() -> None:
    with pytest.raises(TooLargeError, match=r"768,000,.* parameters takes 2,861,.* GiB, but .* GiB are free"):
        build("gpt2", {"vocab_size": 10**12})


def test_check_takes_what_build_takes() -> None:
    assert check("tiny_decoder", {"dim": 64}).dim == 64
    assert check(load_recipe(recipe("mlp"))).dim == 8
    with pytest.raises(ValueError, match="loaded already; give the overrides to load_recipe"):
        check(load_recipe(recipe("mlp")), {"dim": 64})
