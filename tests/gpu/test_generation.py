"""Models write the same on a GPU as on a CPU, with and without a cache."""

from collections.abc import Callable

import pytest
import torch

from blockformer.generation import beam_search, generate, sampler
from blocks.models.base import Model
from tests.generation.conftest import make  # noqa: F401  (a fixture)
from tests.generation.test_every_mixer import BEAM, CAUSAL, POSITIONS, PROMPTS, model
from tests.gpu.comparison import GPU

pytestmark = pytest.mark.gpu
SOURCES = [[4, 3], [9, 9, 9, 2], [1], [6, 5, 4, 3, 2]]
MIXERS = [{"type": name} for name in CAUSAL]
MIXERS += [{"type": "attention", "heads": 2, "positions": name} for name in POSITIONS]


@pytest.mark.parametrize("mixer", MIXERS, ids=lambda mixer: f"{mixer['type']} {mixer.get('positions', '')}".strip())
def test_every_mixer_writes_what_it_writes_on_a_cpu(mixer: dict[str, object]) -> None:
    writer = model(mixer)
    expected = generate(writer, PROMPTS, max_new_tokens=10)
    searched = beam_search(writer, PROMPTS, **BEAM)
    writer = writer.to(GPU)
    assert generate(writer, PROMPTS, max_new_tokens=10) == expected
    assert generate(writer, PROMPTS, max_new_tokens=10, use_cache=False) == expected
    found = beam_search(writer, PROMPTS, **BEAM)
    assert [[one.tokens for one in row] for row in found] == [[one.tokens for one in row] for row in searched]


def test_a_translator_writes_what_it_writes_on_a_cpu(make: Callable[..., Model]) -> None:  # noqa: F811
    translator, prompts = make("translator"), [[1]] * len(SOURCES)
    expected = generate(translator, prompts, sources=SOURCES, max_new_tokens=10)
    assert generate(translator.to(GPU), prompts, sources=SOURCES, max_new_tokens=10) == expected


def test_half_precision_writes_the_same_with_and_without_a_cache(make: Callable[..., Model]) -> None:  # noqa: F811
    writer = make("rotary").to(GPU, torch.bfloat16)
    cached, whole = (generate(writer, PROMPTS, max_new_tokens=8, use_cache=use) for use in (True, False))
    agreeing = sum(one == other for one, other in zip(cached, whole, strict=True))
    assert agreeing >= len(PROMPTS) - 1  # rounding may turn a near tie


def test_samples_on_a_gpu_are_repeated_by_their_seed(make: Callable[..., Model]) -> None:  # noqa: F811
    writer = make("learned").to(GPU)

    def drawn(seed: int) -> list[list[int]]:
        generator = torch.Generator(GPU).manual_seed(seed)
        return generate(writer, PROMPTS, max_new_tokens=12, choose=sampler(generator=generator))

    assert drawn(1) == drawn(1) != drawn(2)
