"""Compiled steps write what steps that are not compiled write, without a program for each length."""

import pytest
import torch
from torch._dynamo.utils import counters

from blockformer.generation import generate
from blockformer.generation.compiled_step import step
from blockformer.generation.session import DecodingSession
from tests.generation.test_every_mixer import PROMPTS, model
from tests.generation.test_speculative import MIXERS, named


@pytest.mark.parametrize("mixer", MIXERS, ids=named)
def test_steps_in_buffers_of_fixed_size_are_those_in_growing_ones(
    mixer: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not compiled, so that this takes no minutes."""
    monkeypatch.setattr("blockformer.generation.session.compiled_step", lambda: step)
    writer = model(mixer)
    expected = generate(writer, PROMPTS, max_new_tokens=12, eos=2)
    assert generate(writer, PROMPTS, max_new_tokens=12, eos=2, compiled=True) == expected
    with torch.inference_mode():
        ours, fixed = DecodingSession(writer, PROMPTS), DecodingSession(writer, PROMPTS, compile_for=5)
        torch.testing.assert_close(fixed.begin(), ours.begin())
        for tokens in torch.randint(11, (4, 4), generator=torch.Generator().manual_seed(0)):
            torch.testing.assert_close(fixed.advance(tokens), ours.advance(tokens))


def test_translations_in_buffers_of_fixed_size_are_the_same(make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockformer.generation.session.compiled_step", lambda: step)
    writer, given = make("translator"), {"sources": [[2, 7, 1, 8], [6], [2, 8]], "max_new_tokens": 9}
    assert generate(writer, [[1]] * 3, compiled=True, **given) == generate(writer, [[1]] * 3, **given)


def test_a_text_may_fill_all_that_the_model_reads(make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockformer.generation.session.compiled_step", lambda: step)
    writer = make("learned", max_length=8)
    expected = generate(writer, PROMPTS, max_new_tokens=100)
    assert generate(writer, PROMPTS, max_new_tokens=100, compiled=True) == expected
    assert generate(writer, [[1] * 8], max_new_tokens=9, compiled=True) == generate(writer, [[1] * 8], max_new_tokens=9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["learned", "rotary"])
def test_one_program_serves_all_lengths(make, name: str) -> None:
    torch._dynamo.reset()
    counters.clear()
    writer = make(name)
    for prompt in ([1, 2], [3, 1, 4, 1, 5]):
        expected = generate(writer, [prompt], max_new_tokens=10)
        assert generate(writer, [prompt], max_new_tokens=10, compiled=True) == expected
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_what_cannot_be_compiled_is_refused(make) -> None:
    scaled = {"type": "rotary", "scaling": {"type": "dynamic", "factor": 2.0, "trained_length": 4}}
    writer = model({"type": "attention", "heads": 2, "positions": scaled})
    with pytest.raises(ValueError, match="its RoPE scaling depends on the length"):
        generate(writer, [[1]], max_new_tokens=2, compiled=True)
    with pytest.raises(ValueError, match="it has no cache"):
        generate(make("rotary"), [[1]], max_new_tokens=2, compiled=True, use_cache=False)
