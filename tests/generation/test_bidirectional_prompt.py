"""Prompts that are read in both directions, as models of the objective prefix_lm read them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import blockformer as bf
from blockformer.generation import beam_search, generate
from blockformer.generation.text_model import TextModel
from blocks.models.base import Model

PROMPTS = [[5, 6, 7, 8, 9], [11, 12], [3, 200, 41]]


@pytest.fixture(scope="module")
def model() -> Model:
    return bf.build("tiny_decoder", {"decoder.layer.mixer.window": 6, "init.std": 0.4}, seed=3).eval()


def greedily(model: Model, prompt: list[int], count: int) -> list[int]:
    """The continuation of one prompt by whole forward passes."""
    tokens = list(prompt)
    for _ in range(count):
        prefix = torch.arange(len(tokens))[None] < len(prompt)
        tokens.append(int(model(torch.tensor([tokens]), prefix=prefix)[0, -1].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("use_cache", [True, False])
def test_each_prompt_of_a_batch_is_continued_as_by_whole_passes(use_cache: bool, model: Model) -> None:
    wanted = [greedily(model, prompt, 8) for prompt in PROMPTS]
    found = generate(model, PROMPTS, max_new_tokens=8, use_cache=use_cache, bidirectional_prompt=True)
    assert found == wanted
    one_way = generate(model, PROMPTS, max_new_tokens=8, use_cache=use_cache)
    assert found != one_way
    beams = beam_search(model, PROMPTS, max_new_tokens=8, beams=1, use_cache=use_cache, bidirectional_prompt=True)
    assert [list(best.tokens) for best, *_ in beams] == wanted


@pytest.mark.parametrize("recipe", ["tiny_hybrid", "tiny_encoder_decoder"])
def test_a_model_that_cannot_read_a_prompt_so_says_it(recipe: str) -> None:
    sources = [[1, 2]] if recipe == "tiny_encoder_decoder" else None
    with pytest.raises(ValueError, match="the model's blocks do not support a prefix"):
        generate(bf.build(recipe).eval(), [[1]], sources=sources, max_new_tokens=1, bidirectional_prompt=True)


@pytest.mark.parametrize("objective", ["prefix_lm", "causal_lm"])
def test_a_checkpoint_says_how_its_prompts_are_read(objective: str, fit: Callable[..., Path]) -> None:
    folder = fit("--objective.type", objective, "--trainer.max_steps", "1", name=f"prompts-of-{objective}")
    loaded = TextModel.load(folder)
    assert loaded.bidirectional_prompt == (objective == "prefix_lm")
    tokens = loaded.encode("the quick brown")
    wanted = greedily(loaded.model, tokens, 3) if objective == "prefix_lm" else None
    found = "".join(loaded.stream("the quick brown", max_new_tokens=3))
    assert wanted is None or found == loaded.tokenizer.decode(wanted)
