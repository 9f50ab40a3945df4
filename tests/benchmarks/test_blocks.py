"""The measurement of all blocks, at toy sizes."""

import json

import pytest

import registry
from benchmarks import blocks as benchmark
from registry import spec_of
from tests.docs.snippets import ROOT


@pytest.mark.parametrize(("slot", "name"), [("mixer", "linear"), ("norm", "rms"), ("router", "sparse_mixer")])
def test_a_block_is_measured_against_the_usual_one(slot: str, name: str) -> None:
    own, usual = (
        {spec.entry.name for _, spec in made.walk()} for made in map(spec_of, benchmark.models(slot, name, 32, 16))
    )
    assert name in own - usual
    assert benchmark.USUAL[slot] in usual
    found = benchmark.measure(slot, name, 32, 16, turns=1)
    assert found["milliseconds"] > 0
    assert found["kept_mib"] > 0


def test_the_stored_results_are_of_blocks_that_exist() -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "blocks.json").read_text())["measured"]
    assert len(found) > 40
    assert all(one["block"] in registry.entries(one["slot"]) for one in found)
