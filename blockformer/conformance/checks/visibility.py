"""Which inputs an output depends on: future, window, order, padding, documents, memory."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from blockformer.conformance.block_case import BlockCase
from blockformer.conformance.checks.training import gradients_of
from blockformer.conformance.example import (
    COARSE,
    Example,
    assert_same,
    example,
    has_memory,
    memory_of,
    run,
)
from blockformer.conformance.influence import influence, pairs_in, sensitivity
from blockformer.conformance.variants import allowed
from blocks.attention.key_selector import KeySelector
from blocks.base import AttentionPositions, Component, InputPositions, Lookup, Mixer, Stack


def check_is_causal(case: BlockCase) -> None:
    """Outputs do not depend on later tokens: no bit changes, and the derivatives are exactly zero."""
    block, given = case.build_perturbed(), example(case)
    found = {"a change": influence(case, block, given)}
    if not case.reads_ids:
        found["the derivative"] = sensitivity(block, given)
    for how, table in found.items():
        leaks = pairs_in(table.triu(1))
        assert not leaks, f"by {how}, output {leaks[0][0]} depends on the later input {leaks[0][1]}"


def check_each_output_depends_on_its_own_token(case: BlockCase) -> None:
    """Each output depends on its own token."""
    table = influence(case, case.build_perturbed(), example(case))
    independent = [time for time in range(len(table)) if not table[time, time]]
    assert not independent, f"outputs {independent} do not depend on their own tokens"


def check_tokens_are_independent(case: BlockCase) -> None:
    """Each output depends on no other token than its own."""
    table = influence(case, case.build_perturbed(), example(case))
    others = pairs_in(table & ~torch.eye(len(table), dtype=torch.bool))
    assert not others, f"output {others[0][0]} depends on input {others[0][1]}"


def check_depends_on_every_memory_token(case: BlockCase) -> None:
    """The output depends on every token of the memory."""
    block, given = case.build_perturbed(), example(case)
    source, other = memory_of(given), memory_of(example(case, seed=1))
    before = run(block, given)
    for time in range(source.shape[1]):
        memory = source.clone()
        memory[:, time] = other[:, time]
        after = run(block, replace(given, memory=memory))
        assert not torch.equal(after, before), f"the output does not depend on token {time} of the memory"


def check_rows_are_independent(case: BlockCase) -> None:
    """A row gives the same output alone, in a batch, and in another order of rows."""
    block, given = case.build_perturbed(), example(case, batch=3)
    whole = run(block, given)
    for row in range(3):
        assert_same(run(block, given.rows([row])), whole[[row]], f"row {row} alone")
    assert_same(run(block, given.rows([2, 0, 1])), whole[[2, 0, 1]], "rows in another order")


LENGTH, WINDOW = 9, 3


def check_attends_exactly_its_window(case: BlockCase) -> None:
    """Layers with windows w attend sum(w - 1) tokens beyond the token itself; without a window, to all tokens.

    Checked as the block is, and with each ``window`` of its recipe set. Where keys are chosen, or are those of an
    earlier layer, to no others.
    """
    for seen in _windowed(case):
        block = seen.build_perturbed()
        table = influence(seen, block, example(seen, length=LENGTH))
        declared = _declared(seen, block)
        exact = not (_chooses(block) or _reuses(block) or _lookups(block))
        more, less = pairs_in(table & ~declared), pairs_in(declared & ~table) if exact else []
        where = f"{seen.params.get('window', '')} over {LENGTH} tokens".lstrip()
        assert not more, f"{where}: output {more[0][0]} depends on input {more[0][1]}, outside the window"
        assert not less, f"{where}: output {less[0][0]} does not depend on input {less[0][1]}, inside the window"


def _chooses(block: Component) -> bool:
    """Whether attention leaves out keys because of their content."""
    return any(isinstance(module, KeySelector) for module in block.modules())


def _reuses(block: Component) -> bool:
    """Whether a layer attends to keys of an earlier one, so that the windows of both do not add up."""
    return any(getattr(module, "reuse_kv", False) for module in block.modules())


def _lookups(block: Component) -> list[Lookup]:
    return [module for module in block.modules() if isinstance(module, Lookup)]


def _windowed(case: BlockCase) -> Iterator[BlockCase]:
    yield case
    changed = case
    for path in case.keys("window"):
        candidate = changed.put(path, WINDOW)
        changed = candidate if allowed(candidate) else changed
    if changed is not case:
        yield changed


def _declared(case: BlockCase, block: Component) -> Tensor:
    """(LENGTH, LENGTH) bool, as (output, input)."""
    index = torch.arange(LENGTH)
    distance = index[:, None] - index[None, :]
    causal = case.place != "bidirectional"
    reach = _reach(block, causal)
    near = distance.abs() <= (LENGTH if reach is None else reach)
    chunks = {mixer.chunk for mixer in _self_attentions(block, causal)}
    if not _lookups(block) and len(chunks) == 1 and (chunk := chunks.pop()) is not None:
        near = near & (index[:, None] // chunk == index // chunk)
    return near & (distance >= 0) if causal else near


def _self_attentions(block: Component, causal: bool) -> list[Mixer]:
    """Those of a block; mixers inside others are left out: the outer one has their window."""
    mixers = [module for module in block.modules() if isinstance(module, Mixer)]
    inner = {part for mixer in mixers for part in mixer.modules() if part is not mixer}
    return [mixer for mixer in mixers if mixer not in inner and _is_self_attention(mixer, causal)]


def _reach(block: Component, causal: bool) -> int | None:
    """The largest distance of a token that a block attends to; None: any."""
    repeats = [module.repeats for module in block.modules() if isinstance(module, Stack)]
    windows = [mixer.window for mixer in _self_attentions(block, causal)]
    found = [window for window in windows if window is not None]
    reach = sum(window - 1 for window in found) + sum(lookup.reach for lookup in _lookups(block))
    return None if len(found) < len(windows) else reach * max(repeats, default=1)


def _is_self_attention(mixer: Mixer, causal: bool) -> bool:
    """Whether it is self-attention of the stack that is tested, not cross-attention and not part of the encoder."""
    return mixer.site is not None and mixer.site.memory_dim is None and mixer.site.causal == causal


SHIFT = 7


def check_position_shift_has_the_declared_effect(case: BlockCase) -> None:
    """A shift of all positions changes the output if some positions are ``absolute``, and only then."""
    block, given = case.build_perturbed(), example(case)
    usual = torch.arange(given.x.shape[1])
    before, after = (run(block, _at(given, positions)) for positions in (usual, usual + SHIFT))
    kinds = (InputPositions, AttentionPositions, Mixer)
    absolute = [type(m).__name__ for m in block.modules() if isinstance(m, kinds) and m.absolute]
    if not absolute:
        assert_same(after, before, f"all positions shifted by {SHIFT}", 10 * COARSE)
        return
    changed = float((after - before).detach().abs().max())
    assert changed > COARSE, f"{absolute[0]} is absolute, but a shift of all positions changes nothing"


def check_token_order_matters_only_if_declared(case: BlockCase) -> None:
    """Without positions, permuted tokens give permuted outputs, unless a block declares the capability ``ordered``."""
    canonical = case
    for path in case.keys("positions"):
        canonical = canonical.put(path, {"type": "none"}) if case.at(path) else canonical
    for key, off in (("window", None), ("chunk", None), ("temperature", 0.0)):
        for path in case.keys(key):
            canonical = canonical.put(path, off)
    block, given = canonical.build_perturbed(), example(canonical)
    order = [3, 0, 4, 1, 2]
    shuffled = Example(given.x[:, order], memory=given.memory)
    after, before = run(block, shuffled), run(block, given)[:, order]
    ordered = [type(component).__name__ for _, component in block.components() if component.capabilities.ordered]
    if not ordered:
        assert_same(after, before, f"tokens in the order {order}")
        return
    changed = float((after - before).detach().abs().max())
    assert changed > COARSE, (
        f"{ordered[0]} declares ordered=True, but a permutation of the tokens only permutes the outputs"
    )


def _at(given: Example, positions: torch.Tensor) -> Example:
    return Example(given.x, memory=given.memory, positions=positions[None])


def check_ignores_padding(case: BlockCase) -> None:
    """Padding on the left, right or both sides, of random content, does not change the outputs of tokens and texts."""
    block, given, other = case.build_perturbed(), example(case), example(case, seed=1)
    length = given.x.shape[1]
    expected = run(block, given)
    for left, right in ((0, 3), (3, 0), (1, 2)):
        padded = run(block, given.padded(left, right, other))
        padded = padded if case.pools else padded[:, left : left + length]
        assert_same(padded, expected, f"{left} padding tokens before and {right} after")


def check_ignores_padding_of_each_row(case: BlockCase) -> None:
    """Rows of different lengths, padded to one batch, give what they give alone."""
    block, given, other = case.build_perturbed(), example(case, batch=3), example(case, seed=1, batch=3)
    rows = [given.rows([row]).span(0, 3 + row).padded(2 - row, 0, other.rows([row])) for row in range(3)]
    x = torch.cat([row.x for row in rows])
    masks = [row.mask for row in rows if row.mask is not None]
    whole = run(block, replace(given, x=x, mask=torch.cat(masks)))
    for row in range(3):
        alone = run(block, given.rows([row]).span(0, 3 + row))
        found = whole[[row]] if case.pools else whole[[row], 2 - row :]
        assert_same(found, alone, f"row {row}, which has {2 - row} padding tokens before")


def check_ignores_memory_padding(case: BlockCase) -> None:
    """Masked tokens of the memory, or of the source, change nothing, left or right."""
    block, given, other = case.build_perturbed(), example(case), example(case, seed=1)
    source, filler = memory_of(given), memory_of(other)
    expected, length = run(block, given), source.shape[1]
    for left, right in ((0, 2), (2, 0)):
        memory = torch.cat([filler[:, :left], source, filler[:, :right]], dim=1)
        mask = torch.zeros(memory.shape[:2], dtype=torch.bool)
        mask[:, left : left + length] = True
        y = run(block, replace(given, memory=memory, memory_mask=mask))
        assert_same(y, expected, f"{left} padding tokens before the memory and {right} after")


def check_rows_of_padding_give_finite_values(case: BlockCase) -> None:
    """A row of padding only gives finite values and gradients and does not change the other rows."""
    block, given = case.build_perturbed(), example(case)
    mask = torch.ones(given.x.shape[:2], dtype=torch.bool)
    mask[1] = False
    empty = replace(given, mask=mask)
    if has_memory(case) and given.memory is not None:
        empty = replace(empty, memory_mask=mask[:, :1].expand(given.memory.shape[:2]))
    y = run(block, empty)
    assert bool(torch.isfinite(y).all()), "a row of padding gives values that are not finite"
    assert_same(y[:1], run(block, given)[:1], "the row beside a row of padding")
    for name, gradient in gradients_of(block, empty).items():
        assert bool(torch.isfinite(gradient).all()), f"a row of padding makes the gradient of {name} not finite"


def check_packed_documents_are_independent(case: BlockCase) -> None:
    """Documents packed into one row give what they give in separate rows, with positions from 0 in each."""
    block, given = case.build_perturbed(), example(case, length=7)
    documents = torch.tensor([[4, 4, 4, 9, 9, 1, 1]]).expand(given.x.shape[:2])
    packed = run(block, replace(given, documents=documents))
    for start, stop in ((0, 3), (3, 5), (5, 7)):
        alone = run(block, Example(given.x[:, start:stop]))
        assert_same(packed[:, start:stop], alone, f"the document at {start}:{stop}")


def check_prefix_depends_on_all_of_itself(case: BlockCase) -> None:
    """With a prefix, its tokens depend on each other in both directions; on later tokens none depends still.

    Where keys are chosen, only that some tokens of the prefix depend on later ones.
    """
    block, given = case.build_perturbed(), example(case, length=6)
    prefix = torch.tensor([True, True, True, False, False, False]).expand(given.x.shape[:2])
    found = influence(case, block, replace(given, prefix=prefix))
    within = found[:3, :3]
    if _chooses(block):
        alone = _reach(block, causal=True) == 0  # a window of one token
        assert alone or bool(within.triu(1).any()), "no token of the prefix depends on a later one"
        within = within | within.T
    one_way = pairs_in(within != within.T)
    assert not one_way, f"within the prefix, of these (output, input) only one depends on the other: {one_way}"
    late = pairs_in(found.triu(1) & ~(prefix[0][:, None] & prefix[0]))
    assert not late, f"outputs depend on later inputs outside the prefix, as (output, input): {late}"
