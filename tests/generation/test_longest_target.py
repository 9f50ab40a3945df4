"""A source and a target that may have different lengths: what is written stays within the target's, in every way."""

from typing import Any

import pytest
import torch

import blockformer as bf
from blockformer.generation import beam_search, generate
from blockformer.generation.speculative import Drafting, speculate
from blocks.models.base import Model
from tests.generation.conftest import BUILDERS
from tests.generation.test_compiled import step

LONGEST = 5
SOURCE = [[2, 7, 1, 8, 2, 8, 1, 8]]


@pytest.fixture
def translator() -> Model:
    """Reads 12 tokens and writes 5, whose positions have a table each."""
    sizes = {"dim": 16, "vocab_size": 11, "max_length": 12, "target_max_length": LONGEST, "head": "own"}
    recipe = BUILDERS["translator"] | sizes | {"embedding": {"positions": "learned"}}
    return bf.build(recipe, seed=1, dtype=torch.float64).eval()


@pytest.mark.parametrize("options", [{}, {"compiled": True}, {"use_cache": False}])
def test_writing_ends_with_the_longest_target(
    translator: Model, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blockformer.generation.session.compiled_step", lambda: step)
    (written,) = generate(translator, [[1]], sources=SOURCE, max_new_tokens=100, **options)
    assert len(written) == LONGEST
    assert written == generate(translator, [[1]], sources=SOURCE, max_new_tokens=LONGEST)[0]


def test_a_search_and_drafts_end_with_it_too(translator: Model) -> None:
    (found,) = beam_search(translator, [[1]], sources=SOURCE, max_new_tokens=100, beams=2)
    assert [len(one.tokens) for one in found] == [LONGEST, LONGEST]
    greedy = generate(translator, [[1]], sources=SOURCE, max_new_tokens=100)
    drafted = list(speculate(translator, Drafting(translator, 4), [1], source=SOURCE[0], max_new_tokens=100))
    assert [drafted] == greedy


def test_each_length_has_its_own_limit(translator: Model) -> None:
    with pytest.raises(ValueError, match="a prompt has 6 tokens, but the model's target_max_length is 5"):
        generate(translator, [[1] * 6], sources=SOURCE, max_new_tokens=1)
    with pytest.raises(ValueError, match="a source has 13 tokens, but the model's max_length is 12"):
        generate(translator, [[1]], sources=[[2] * 13], max_new_tokens=1)
