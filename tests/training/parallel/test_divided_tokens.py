"""Blocks that read more than their input, where each process keeps a part of the tokens between sublayers."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import blockformer as bf
from blockformer.training.parallel.sequence import between_sublayers, divide_tokens

ATTENTION: dict[str, Any] = {"type": "attention", "heads": 4, "positions": "rotary"}
OWN_TABLE: dict[str, Any] = {"type": "per_layer_embedding", "vocab_size": 300}
LAYERS = {
    "own": {"mixer": ATTENTION, "lookup": {"type": "ngram", "rows": 64}, "last_mixer": OWN_TABLE},
    "reusing": {"mixer": {**ATTENTION, "reuse_kv": True}, "last_mixer": OWN_TABLE},
}
RECIPE: dict[str, Any] = {
    "type": "decoder_only",
    "dim": 32,
    "vocab_size": 300,
    "max_length": 32,
    "decoder": {"depth": 2, "layers": LAYERS, "pattern": ["own", "reusing"]},
}


def compare(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    whole = bf.build(RECIPE, seed=1).double()
    for number, parameter in enumerate(whole.parameters()):
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
        parameter.data += 0.05 * noise
    divided, tokens = copy.deepcopy(whole), torch.randint(300, (2, 9), generator=torch.Generator().manual_seed(1))
    assert dist.group.WORLD is not None
    divide_tokens(divided, dist.group.WORLD)
    found, expected = divided(tokens), whole(tokens)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    partial, others = set(between_sublayers(divided)), dict(whole.named_parameters())
    for name, parameter in divided.named_parameters():
        if parameter.grad is not None and name in partial:
            dist.all_reduce(parameter.grad)
        torch.testing.assert_close(parameter.grad, others[name].grad, msg=lambda text, name=name: f"{name}: {text}")
    dist.destroy_process_group()


@pytest.mark.slow
def test_lookups_and_token_vectors_of_layers_get_all_tokens(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(compare, (str(tmp_path),), nprocs=2)
