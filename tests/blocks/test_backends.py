"""Every backend of attention equals the eager one for every option, values and gradients, over several blocks."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_mask

from blocks.attention import backends, block_mask, query_blocks, tiles, varlen
from blocks.attention.backends import IMPLEMENTATIONS, fastest
from blocks.attention.eager import eager
from blocks.attention.scoring import Scoring
from blocks.attention.visibility import Visibility, document_ranges
from blocks.base import DistanceBias

CPU = torch.device("cpu")
B, H, T, PAST, MEMORY, REACH = 2, 4, 13, 7, 9, 3
INDEX = torch.arange(T)
DOCUMENTS = torch.tensor([[0] * 3 + [1] * 6 + [2] * 4, [5] * 2 + [4] + [5] * 4 + [9] * 6])
PADDING = torch.stack([INDEX >= 3, INDEX < 8])
EMPTY = torch.stack([INDEX >= 3, INDEX < 0])
PREFIX = torch.stack([INDEX < 7, (INDEX > 3) & (INDEX < 6)])
of = partial(Visibility, T, T, CPU)
VISIBLE = {
    "all": of(),
    "causal": of(causal=True),
    "window": of(causal=True, window=3),
    "window on both sides": of(window=3),
    "documents": of(causal=True, documents=DOCUMENTS),
    "bidirectional documents": of(documents=DOCUMENTS),
    "window in documents": of(causal=True, documents=DOCUMENTS, window=2),
    "padding": of(causal=True, padding=PADDING),
    "bidirectional padding": of(padding=PADDING),
    "a row of padding": of(causal=True, padding=EMPTY),
    "prefix": of(causal=True, prefix=PREFIX),
    "prefix and padding": of(causal=True, prefix=PREFIX, padding=PADDING),
    "prefix and window in documents": of(causal=True, prefix=PREFIX, documents=DOCUMENTS, window=4),
    "cached": Visibility(T, T + PAST, CPU, causal=True),
    "cached window": Visibility(T, T + PAST, CPU, causal=True, window=6),
    "memory": Visibility(T, MEMORY, CPU, padding=torch.arange(MEMORY) < torch.tensor([[5], [9]])),
}
SCORES = ("plain", "fixed bias", "learned bias", "bias with a reach", "sinks", "softcap", "high softcap", "all")
SHAPES = [(4, 8, 8), (2, 8, 4), (1, 4, 8)]
"""Key heads, width of queries and keys, width of values."""


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_blocks, "QUERIES", 4)
    monkeypatch.setattr(tiles, "SCORES", 64)
    monkeypatch.setattr(block_mask, "SIZE", 4)


def inputs(visible: Visibility, score: str, shape: tuple[int, int, int]) -> tuple[list[Tensor], Scoring, list[Tensor]]:
    """Queries, keys and values; options of the scores; and all that has a gradient."""
    draw = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=draw, dtype=torch.float64).requires_grad_()

    keys, (groups, width, values) = visible.keys, shape
    sizes = ((T, H, width), (keys, groups, width), (keys, groups, values))
    leaves = [normal(B, *size) for size in sizes]
    given = [leaf.transpose(1, 2) for leaf in leaves]
    options: dict[str, Any] = {}
    if score == "fixed bias":
        options["bias"] = DistanceBias(normal(1, H, T + keys - 1).detach())
    if score in ("learned bias", "all"):
        options["bias"] = DistanceBias(normal(1, H, T + keys - 1))
        leaves.append(options["bias"].values)
    if score == "bias with a reach":
        table, distance = normal(H, 2 * REACH + 1), torch.arange(1 - keys, T)
        options["bias"] = DistanceBias(table[None, :, distance.clamp(-REACH, REACH) + REACH], REACH)
        leaves.append(table)
    if score in ("sinks", "all", "bias with a reach"):
        options["sinks"] = normal(H)
        leaves.append(options["sinks"])
    if score in ("softcap", "all"):
        options["softcap"] = 2.0
    if score == "high softcap":
        options["softcap"] = 2 * tiles.BOUND
    return given, Scoring(0.5, **options), leaves


def without_gradients(scoring: Scoring, dtype: torch.dtype = torch.float64) -> Scoring:
    bias, sinks = scoring.bias, scoring.sinks
    bias = None if bias is None else bias._replace(values=bias.values.detach().to(dtype))
    return scoring._replace(bias=bias, sinks=None if sinks is None else sinks.detach().to(dtype))


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("name", VISIBLE)
@pytest.mark.parametrize("backend", ["blocked", "sdpa", pytest.param("flex", marks=pytest.mark.slow)])
def test_a_backend_equals_eager(backend: str, name: str, score: str) -> None:
    if backend == "sdpa" and ("softcap" in score or score == "all"):
        pytest.skip("sdpa has no softcap")
    visible = VISIBLE[name]
    for shape in SHAPES:
        given, scoring, leaves = inputs(visible, score, shape)
        expected = eager(*given, visible, scoring)
        if backend == "flex":  # which has no backward pass on a CPU
            given, scoring = [x.detach() for x in given], without_gradients(scoring)
            torch.testing.assert_close(
                IMPLEMENTATIONS[backend](*given, visible, scoring), expected, rtol=1e-9, atol=1e-9
            )
            continue
        y = IMPLEMENTATIONS[backend](*given, visible, scoring)
        torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
        slope = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).sin().view_as(y)
        found, right = (torch.autograd.grad(one, leaves, slope, retain_graph=True) for one in (y, expected))
        torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("score", ["plain", "sinks", "softcap"])
@pytest.mark.parametrize("backend", IMPLEMENTATIONS)
def test_queries_that_a_norm_has_left_in_float32_are_taken_in_autocast(backend: str, score: str) -> None:
    if backend == "sdpa" and score == "softcap":
        pytest.skip("sdpa has no softcap")
    visible = VISIBLE["documents"]
    given, scoring, _ = inputs(visible, score, (H, 8, 8))
    q, k, v = (x.detach().float() for x in given)
    expected = eager(q, k, v, visible, without_gradients(scoring, torch.float32))
    with torch.autocast("cpu", torch.bfloat16):
        y = IMPLEMENTATIONS[backend](q, k, v.bfloat16(), visible, without_gradients(scoring, torch.float32))
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.03, atol=0.03)


def documents_by_themselves(
    q: Tensor, k: Tensor, v: Tensor, borders: Tensor, others: Tensor, *longest: int, scale: float, window_size: Any
) -> Tensor:
    """What torch.nn.attention.varlen.varlen_attn is documented to compute; its kernel needs a GPU."""
    assert borders.dtype == torch.int32
    assert torch.equal(borders, others)
    assert borders[-1] == len(q)
    behind, ahead = (len(q) if size < 0 else size for size in window_size)
    assert max(longest) >= int(borders.diff().max())
    found: list[Tensor] = []
    for begin, end in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True):
        index = torch.arange(end - begin)
        later = index - index[:, None]
        parts = [x[begin:end].transpose(0, 1) for x in (q, k, v)]
        mask = (later <= ahead) & (-later <= behind)
        y = torch.nn.functional.scaled_dot_product_attention(*parts, mask, scale=scale, enable_gqa=True)
        found.append(y.transpose(0, 1))
    return torch.cat(found)


UNBROKEN = torch.tensor([[0] * 3 + [1] * 6 + [2] * 4, [5] + [4] * 10 + [9] * 2])
ONE_AFTER_ANOTHER = {
    "window": VISIBLE["window"],
    "window on both sides": VISIBLE["window on both sides"],
    "documents": of(causal=True, documents=UNBROKEN),
    "documents of the batch": of(causal=True, documents=UNBROKEN[1:]),
    "bidirectional documents": of(documents=UNBROKEN),
    "window in documents": of(causal=True, documents=UNBROKEN, window=2),
}


@pytest.mark.parametrize("name", ONE_AFTER_ANOTHER)
def test_documents_one_after_another_equal_eager(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    visible = ONE_AFTER_ANOTHER[name]
    assert bool(visible.gapless().all())
    monkeypatch.setattr(varlen, "_kernel", lambda: documents_by_themselves)
    for shape in SHAPES:
        given, scoring, leaves = inputs(visible, "plain", shape)
        y, expected = varlen.varlen(*given, visible, scoring), eager(*given, visible, scoring)
        torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
        found, right = (torch.autograd.grad(one.square().sum(), leaves, retain_graph=True) for one in (y, expected))
        torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-9)


def test_documents_one_after_another_are_for_16_bits_on_a_gpu_only() -> None:
    q, visible = torch.randn(B, H, T, 8, dtype=torch.bfloat16), VISIBLE["documents"]
    assert not varlen.fits_varlen(q, q, visible, Scoring(0.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("score", SCORES)
def test_blocks_are_as_exact_as_eager_in_other_precisions(score: str, dtype: torch.dtype) -> None:
    visible = VISIBLE["window in documents"]
    given, scoring, _ = inputs(visible, score, SHAPES[1])
    exact = eager(*given, visible, scoring)
    given = [x.detach().to(dtype) for x in given]
    found = IMPLEMENTATIONS["blocked"](*given, visible, without_gradients(scoring, torch.float32))
    assert found.dtype == dtype
    close = 1e-5 if dtype == torch.float32 else 0.03
    torch.testing.assert_close(found.double(), exact.detach(), rtol=close, atol=close)


def test_dropout_is_the_same_in_the_backward_pass_and_keeps_the_mean() -> None:
    visible = VISIBLE["causal"]
    given, scoring, leaves = inputs(visible, "plain", SHAPES[0])
    attend = partial(IMPLEMENTATIONS["blocked"], visible=visible, scoring=scoring._replace(dropout=0.5))
    torch.manual_seed(1)
    y = attend(*given)
    slope = torch.ones_like(y)
    found = torch.autograd.grad(y, leaves, slope)
    for leaf, one in zip(leaves, found, strict=True):  # against differences, with the same dropout
        step = torch.zeros_like(leaf)
        step[0, 2, 0, 0] = 1e-6
        with torch.no_grad():
            ends: list[Tensor] = []
            for sign in (1, -1):
                torch.manual_seed(1)
                moved = [x + sign * step if x is leaf else x for x in leaves]
                ends.append(attend(*(x.transpose(1, 2) for x in moved)).sum())
        torch.testing.assert_close((ends[0] - ends[1]) / 2e-6, one[0, 2, 0, 0], rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        mean = torch.stack([attend(*given) for _ in range(100)]).mean(0)
        torch.testing.assert_close(mean, eager(*given, visible, scoring), rtol=0.5, atol=0.5)


@pytest.mark.parametrize("name", VISIBLE)
def test_ranges_hold_every_visible_key(name: str) -> None:
    visible = VISIBLE[name]
    first, last = visible.ranges()
    keys = torch.arange(visible.keys)
    inside = ((keys >= first[..., None]) & (keys < last[..., None]))[:, None]
    mask = visible.mask()
    mask = torch.ones_like(inside) if mask is None else mask
    assert not bool((mask & ~inside).any())
    rows = visible.gapless().expand(max(len(inside), len(mask)), 1)[:, 0]
    assert torch.equal((mask & inside).expand(len(rows), -1, T, -1)[rows], inside.expand(len(rows), -1, -1, -1)[rows])


@pytest.mark.parametrize("name", [name for name in VISIBLE if name != "all"])
def test_a_block_mask_computes_the_visible_scores_and_skips_blocks_without_any(name: str) -> None:
    visible = VISIBLE[name]
    mask = visible.mask()
    assert mask is not None
    mask = mask.expand(B, 1, T, visible.keys)
    drawn = create_mask(block_mask.mask_mod(visible), B, 1, T, visible.keys, device="cpu")
    assert torch.equal(drawn, mask)
    some, whole = block_mask.seen_blocks(visible)
    found = block_mask.block_mask(visible)
    assert found is not None
    computed = found.to_dense() > 0
    assert torch.equal(computed.expand_as(some), some)
    for block, (seen, all_seen) in enumerate(zip(some.flatten(2).unbind(2), whole.flatten(2).unbind(2), strict=True)):
        i, j = divmod(block, some.shape[3])
        part = mask[:, 0, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
        assert bool((seen[:, 0] | ~part.flatten(1).any(1)).all())
        assert bool((~all_seen[:, 0] | part.flatten(1).all(1)).all())
    if name in ("causal", "window", "documents"):
        assert float(some.float().mean()) < 0.8


@pytest.mark.parametrize("score", ["plain", "learned bias", "sinks", "softcap"])
@pytest.mark.parametrize("rows", [0, 2])
def test_blocks_accept_empty_inputs(rows: int, score: str) -> None:
    tokens = 0 if rows else T
    q, k, v = (torch.randn(rows, H, tokens, 8, requires_grad=True) for _ in "qkv")
    bias = DistanceBias(torch.randn(1, H, max(2 * tokens - 1, 0))) if "bias" in score else None
    sinks = torch.randn(H, requires_grad=True) if score == "sinks" else None
    scoring = Scoring(0.3, 0.0, 2.0 if score == "softcap" else None, bias, sinks)
    y = IMPLEMENTATIONS["blocked"](q, k, v, Visibility(tokens, tokens, CPU, causal=True), scoring)
    y.sum().backward()
    assert y.shape == q.shape
    assert q.grad is not None


def test_documents_that_share_a_number_share_a_range() -> None:
    first, last = document_ranges(DOCUMENTS)
    assert first[1].tolist() == [0, 0, 2, 0, 0, 0, 0] + [7] * 6
    assert last[1].tolist() == [7, 7, 3, 7, 7, 7, 7] + [13] * 6


def test_rows_that_see_different_keys_are_computed_one_by_one() -> None:
    together = list(query_blocks.query_blocks(VISIBLE["causal"], B))
    apart = list(query_blocks.query_blocks(VISIBLE["documents"], B))
    assert all(block.rows == slice(0, B) for block in together)
    assert len(together) == -(-T // (2 * query_blocks.QUERIES))
    assert any(block.rows == slice(1, 2) for block in apart)
    assert len({block.queries for block in apart}) == -(-T // query_blocks.QUERIES)


@pytest.mark.parametrize("score", SCORES)
def test_no_tensor_of_a_long_sequence_grows_with_its_square(score: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_blocks, "QUERIES", 16)
    monkeypatch.setattr(tiles, "SCORES", 2**12)
    largest: dict[int, int] = {}
    for length in (256, 512):
        draw = torch.randn(3, 1, H, length, 8)
        q, k, v = (x.requires_grad_() for x in draw.unbind())
        options: dict[str, Any] = {}
        if "bias" in score or score == "all":
            reach = REACH if "reach" in score else None
            options["bias"] = DistanceBias(torch.randn(1, H, 2 * length - 1, requires_grad="fixed" not in score), reach)
        if score in ("sinks", "all"):
            options["sinks"] = torch.randn(H)
        if "softcap" in score or score == "all":
            options["softcap"] = 5.0
        kept: dict[int, int] = {}

        def pack(x: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        visible = Visibility(length, length, CPU, causal=True, window=200)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            IMPLEMENTATIONS["blocked"](q, k, v, visible, Scoring(0.3, **options))
        largest[length] = sum(kept.values())
    assert largest[512] <= 2.1 * largest[256]


@pytest.mark.parametrize("score", ["plain", "learned bias", "softcap"])
def test_auto_takes_blocks_where_scores_are_many(score: str, monkeypatch: pytest.MonkeyPatch) -> None:
    visible = VISIBLE["window"]
    given, scoring, _ = inputs(visible, score, SHAPES[1])
    few = fastest(*given, visible, scoring)
    called: list[str] = []
    blocked = IMPLEMENTATIONS["blocked"]

    def noted(*options: Any) -> Tensor:
        called.append("blocked")
        return blocked(*options)

    monkeypatch.setitem(IMPLEMENTATIONS, "blocked", noted)
    assert not called
    monkeypatch.setattr("blocks.attention.backends.FEW_SCORES", 4)
    torch.testing.assert_close(fastest(*given, visible, scoring), few, rtol=1e-9, atol=1e-9)
    assert called == ["blocked"]


def on_a_gpu(length: int, dropout: float = 0.0, **options: Any) -> str:
    """What auto takes on a GPU with Triton for causal attention of float32 heads of 64 channels."""
    q, visible = torch.empty(1, 1, length, 64, device="meta"), Visibility(length, length, CPU, causal=True)
    bias = DistanceBias(torch.empty(1, 1, 2 * length - 1, device="meta"))
    scores = {"bias": {"bias": bias}, "softcap": {"softcap": 30.0}, "sinks": {"sinks": torch.zeros(1)}}
    visible = replace(visible, **{k: v for k, v in options.items() if k != "score"})
    return backends._on_a_gpu(q, q, visible, Scoring(0.1, dropout, **scores.get(options.get("score", ""), {})))


def test_auto_takes_flex_on_a_gpu_where_all_scores_would_be_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "TRITON", True)
    assert on_a_gpu(8192) == "sdpa"
    assert [on_a_gpu(length, score="bias") for length in (2048, 8192)] == ["sdpa", "flex"]
    assert [on_a_gpu(length, score="softcap") for length in (128, 512)] == ["eager", "flex"]
    assert [on_a_gpu(length, score="sinks") for length in (128, 512)] == ["sdpa", "flex"]
    assert [on_a_gpu(length, window=100) for length in (2048, 8192)] == ["sdpa", "flex"]
    assert on_a_gpu(8192, window=100, dropout=0.1) == "sdpa", "flex has no dropout"
    monkeypatch.setattr(backends, "TRITON", False)
    assert on_a_gpu(8192, score="softcap") == "eager"


def test_what_auto_takes_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    backends._log_once.cache_clear()
    given, scoring, _ = inputs(VISIBLE["causal"], "plain", SHAPES[0])
    with caplog.at_level("INFO", logger=backends.logger.name):
        for _ in range(3):
            fastest(*given, VISIBLE["causal"], scoring)
    assert [record.getMessage() for record in caplog.records] == [
        "attention in torch.float64 on cpu: backend auto takes sdpa"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("score", ["fixed bias", "bias with a reach", "softcap"])
def test_blocks_compile_without_breaks_for_all_lengths(score: str) -> None:
    graphs: list[int] = []

    def counting(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(1)
        return graph.forward

    torch.compiler.reset()
    attend = IMPLEMENTATIONS["blocked"]

    def run(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, softcap: float | None) -> Tensor:
        visible = Visibility(q.shape[2], k.shape[2], q.device, causal=True, window=3)
        return attend(q, k, v, visible, Scoring(0.5, 0.0, softcap, None if bias is None else DistanceBias(bias)))

    compiled = torch.compile(run, backend=counting, fullgraph=True)
    for length in (5, 9, 14, 23):
        q, k, v = torch.randn(3, B, H, length, 8).unbind()
        bias = torch.randn(1, H, 2 * length - 1) if "bias" in score else None
        softcap = 2.0 if score == "softcap" else None
        torch.testing.assert_close(compiled(q, k, v, bias, softcap), run(q, k, v, bias, softcap))
    assert len(graphs) <= 2
