"""Tables of n-grams: against another implementation, and what their rows depend on."""

from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from blocks.base import Cache, Context, Site
from blocks.lookups.hashing import primes
from registry import parse

NORM = {"type": "rms", "eps": 1e-2, "offset": 1.0}
SETTINGS = {
    "type": "ngram",
    "longest": 3,
    "heads": 2,
    "width": 24,
    "rows": 50,
    "multiple": 8,
    "kernel": 3,
    "norm": NORM,
}
X = torch.randn(2, 9, 3, 16, generator=torch.Generator().manual_seed(0))
IDS = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(1))


def lookup(**settings: Any) -> Any:
    block: Any = parse("lookup", {**SETTINGS, "boundary": 2, **settings})(Site(dim=16), 3)
    for number, parameter in enumerate(block.parameters()):
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    return block.eval()


@torch.no_grad()
def run(block: Any, x: Tensor, ids: Tensor, **given: Any) -> Tensor:
    context = replace(Context.of(x, **given), tokens=ids)
    block.prepare(context)
    y = block(x, context)
    if context.cache is not None:
        context.cache.advance(x.shape[1])
    return y


@pytest.mark.parametrize("number", [0, 1])
@torch.no_grad()
def test_it_equals_that_of_qwen4_exp(number: int) -> None:
    pytest.importorskip("transformers")
    where = "transformers.models.qwen4_exp"
    config: Any = import_module(f"{where}.configuration_qwen4_exp")
    module: Any = import_module(f"{where}.modeling_qwen4_exp")
    made = config.Qwen4ExpTextConfig(
        vocab_size=60,
        hidden_size=16,
        hc_count=3,
        ple_embed_dim=24,
        ple_conv_kernel_size=3,
        ngram_size=3,
        heads_per_ngram=2,
        ngram_vocab_size_base=50,
        make_ngram_vocab_size_divisible_by=8,
        rms_norm_eps=1e-2,
        eos_token_id=2,
        seed=7,
    )
    theirs = module.Qwen4ExpTextPLELayer(made, 0, number)
    block = lookup(number=number, seed=7, token_ids=60)
    names = {"k.weight": "key_proj", "v.weight": "value_proj", "table.weight": "ple_embedding.ngram_embedding"}
    names |= {"k_norm.weight": "norm_key", "stream_norm.weight": "norm_query", "convolution_norm.weight": "norm_conv"}
    for ours, other in {**names, "convolution": "conv1d"}.items():
        parameter = theirs.get_parameter(f"{other}.weight")
        parameter.copy_(block.get_parameter(ours).view(parameter.shape))
    ids = IDS.clone()
    ids[0, 3] = 2  # n-grams do not reach beyond it
    expected = theirs(X.flatten(-2), ids, None).view(X.shape)
    torch.testing.assert_close(run(block, X, ids), expected)


@pytest.mark.parametrize("parts", [[1] * 9, [4, 1, 4]])
@pytest.mark.parametrize("boundary", [2, None])
def test_decoding_gives_the_same(parts: list[int], boundary: int | None) -> None:
    block, cache = lookup(boundary=boundary), Cache(1)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[0, :2] = False
    pieces = zip(X.split(parts, 1), IDS.split(parts, 1), mask.split(parts, 1), strict=True)
    found = torch.cat([run(block, x, ids, attention_mask=seen, cache=cache) for x, ids, seen in pieces], dim=1)
    torch.testing.assert_close(found[mask], run(block, X, IDS, attention_mask=mask)[mask])
    torch.testing.assert_close(found[:1, 2:], run(block, X[:1, 2:], IDS[:1, 2:]))  # padding counts as nothing


def test_documents_and_texts_end_ngrams() -> None:
    block = lookup()
    documents = torch.tensor([[0] * 4 + [1] * 5]).expand(2, -1)
    found = run(block, X, IDS, documents=documents)
    torch.testing.assert_close(found[:, :4], run(block, X[:, :4], IDS[:, :4]))
    torch.testing.assert_close(found[:, 4:], run(block, X[:, 4:], IDS[:, 4:]))


def test_it_reads_the_last_tokens_only() -> None:
    block = lookup()
    assert block.reach == 2 + 2 * 3
    for place in range(9):
        other = IDS.clone()
        other[:, place] = 1
        changed = (run(block, X, other) != run(block, X, IDS)).flatten(2).any(-1).any(0)
        assert not bool(changed[:place].any())
        assert bool(changed[place])
        assert not bool(changed[place + block.reach + 1 :].any())


def test_tables_have_different_primes() -> None:
    assert primes(50, 0, 4) == [53, 59, 61, 67]
    assert primes(50, 4, 2) == [71, 73]
    assert primes(2, 0, 3) == [2, 3, 5]
    assert lookup().table.num_embeddings == 240
    assert lookup(multiple=7).table.num_embeddings == 245


def test_it_needs_ids_and_a_width_that_its_tables_share() -> None:
    with pytest.raises(ValueError, match="lookup ngram reads token ids, but the model was given vectors"):
        lookup()(X, Context.of(X))
    with pytest.raises(ValueError, match="width=25 is not a multiple of the 4 tables"):
        lookup(width=25)
