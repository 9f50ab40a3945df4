"""Rotary positions that depend on how long a text becomes."""

import pytest
import torch

import blockformer as bf
from blockformer.conformance import BlockCase, checks_for
from blockformer.generation.session import DecodingSession

GROWING = [{"type": "dynamic", "factor": 2.0, "trained_length": 6}]
GROWING += [{"type": "longrope", "trained_length": 6, "long": (2.0, 4.0, 4.0, 8.0)}]


@pytest.mark.parametrize("scaling", GROWING, ids=lambda scaling: scaling["type"])
def test_a_text_that_outgrows_training_is_read_again_while_it_is_written(scaling: dict[str, object]) -> None:
    positions = {"type": "rotary", "scaling": scaling}
    model = bf.build("tiny_decoder", {"decoder.layer.mixer.positions": positions}).eval()
    prompts = [[1, 2, 3, 4], [5, 6]]
    with_cache, without = (DecodingSession(model, prompts, use_cache=use_cache) for use_cache in (True, False))
    torch.testing.assert_close(with_cache.begin(), without.begin())
    for token in range(10, 16):
        tokens = torch.tensor([token, token + 1])
        torch.testing.assert_close(with_cache.advance(tokens), without.advance(tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("scaling", GROWING, ids=lambda scaling: scaling["type"])
def test_each_text_is_stretched_by_its_own_length(scaling: dict[str, object]) -> None:
    block = {"type": "rotary", "scaling": scaling}
    for place in ("causal", "bidirectional"):
        case = BlockCase("attention_positions", "rotary", {"scaling": scaling}, place)
        for check in checks_for(case):
            if check.__name__ in ("check_ignores_padding", "check_ignores_padding_of_each_row"):
                check(case)
        mixer = BlockCase("mixer", "attention", {"positions": block, "heads": 4}, place)
        names = {check.__name__ for check in checks_for(mixer)}
        assert ("check_refuses_an_invalidated_cache" in names) == (place == "causal")
        for check in checks_for(mixer):
            if check.__name__ not in (
                "check_compiles_without_graph_breaks",
                "check_every_stored_setting_has_an_effect",
            ):
                check(mixer)
