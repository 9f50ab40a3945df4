"""A prompt that is read in parts gives what it gives at once, and a window's cache stays as small as the window."""

import pytest
import torch

from blockformer.generation import generate
from blockformer.generation.session import DecodingSession
from blocks.base import KeyValues
from tests.generation.test_every_mixer import PROMPTS, model
from tests.generation.test_speculative import MIXERS, named

WINDOWS = [{"type": "attention", "heads": 2, "positions": name} for name in ("none", "rotary", "alibi", "t5")]
WINDOWS += [{"type": "latent", "heads": 2}]


@pytest.mark.parametrize("mixer", MIXERS, ids=named)
def test_logits_are_those_of_the_prompt_at_once_with_every_mixer(mixer: dict[str, object]) -> None:
    writer = model(mixer)
    with torch.inference_mode():
        at_once = DecodingSession(writer, PROMPTS, use_cache=False).begin()
        for chunk in (1, 2, 4):
            torch.testing.assert_close(DecodingSession(writer, PROMPTS, prompt_chunk=chunk).begin(), at_once)
    expected = generate(writer, PROMPTS, max_new_tokens=8, use_cache=False)
    assert generate(writer, PROMPTS, max_new_tokens=8, prompt_chunk=2) == expected


@pytest.mark.parametrize("mixer", WINDOWS, ids=named)
def test_a_window_keeps_no_more_keys_than_it_and_a_chunk(mixer: dict[str, object]) -> None:
    window, chunk = 5, 3
    writer = model({**mixer, "window": window})
    widths: list[int] = []
    with torch.inference_mode():
        session = DecodingSession(writer, [[1, 2, 3] * 9], prompt_chunk=chunk)
        whole = DecodingSession(writer, [[1, 2, 3] * 9], use_cache=False)
        torch.testing.assert_close(session.begin(), whole.begin())
        for token in (4, 5, 6, 7, 8):
            torch.testing.assert_close(session.advance(torch.tensor([token])), whole.advance(torch.tensor([token])))
            widths += [keys.shape[2] for keys in kept_keys(session)]
    assert max(widths) <= 2 * window
    at_once = DecodingSession(writer, [[1, 2, 3] * 9])
    at_once.begin()
    assert {keys.shape[2] for keys in kept_keys(at_once)} == {window}


@pytest.mark.parametrize(("new", "returned"), [(1, 5), (3, 7), (9, 13)])
def test_keys_that_no_query_sees_are_left_out(new: int, returned: int) -> None:
    state, every = KeyValues(window=5), torch.randn(1, 1, 30, 2)
    for start in range(0, 20, 2):
        state.append(every[:, :, start : start + 2], -every[:, :, start : start + 2])
    keys, values = state.append(every[:, :, 20 : 20 + new], -every[:, :, 20 : 20 + new])
    assert torch.equal(keys, every[:, :, 20 + new - returned : 20 + new])
    assert torch.equal(values, -keys)


def kept_keys(session: DecodingSession) -> list[torch.Tensor]:
    assert session.cache is not None
    found = [state.keys for layer in session.cache.layers for state in layer.values() if isinstance(state, KeyValues)]
    return [keys for keys in found if keys is not None]


def test_the_model_reads_at_most_a_chunk_at_once(make) -> None:
    writer, widths = make("rotary"), []
    writer.register_forward_pre_hook(lambda _, args: widths.append(args[0].shape[1]))
    generate(writer, [[1] * 7], max_new_tokens=2, prompt_chunk=3)
    assert widths == [3, 3, 1, 1]


def test_prompts_that_must_be_read_at_once_are_refused_in_parts(make) -> None:
    scaled = {"type": "rotary", "scaling": {"type": "dynamic", "factor": 2.0, "trained_length": 4}}
    for writer, options, reason in (
        (make("rotary"), {"prompt_chunk": 0}, "prompt_chunk=0 must be at least 1"),
        (make("rotary"), {"prompt_chunk": 2, "use_cache": False}, "without a cache cannot be read in parts"),
        (make("rotary"), {"prompt_chunk": 2, "bidirectional_prompt": True}, "in both directions cannot be read in"),
        (
            model({"type": "attention", "heads": 2, "positions": scaled}),
            {"prompt_chunk": 2},
            "of 6 tokens, at which the RoPE scal",
        ),
    ):
        with pytest.raises(ValueError, match=reason):
            generate(writer, [[1] * 6], max_new_tokens=2, **options)
