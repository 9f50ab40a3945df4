"""Softmax attention without projections, so that what is a part of attention has an output to be tested by."""

from torch import Tensor

from blockformer.conformance.block_case import HEADS
from blocks.attention.eager import eager
from blocks.attention.key_selector import KeySelector
from blocks.attention.scoring import Scoring
from blocks.attention.visibility import Visibility, visibility
from blocks.base import AttentionPositions, Component, Context, KeyValues


def attention_with_positions(positions: AttentionPositions, x: Tensor, context: Context) -> Tensor:
    """(B, T, D) -> (B, T, D): attention of the vectors to each other with positions."""
    positions.prepare(context)
    heads = _heads(x)
    turned = positions.rotate(heads, context)
    keys, values = _with_earlier(turned, heads, context)
    y = eager(turned, keys, values, _visible(positions, context), Scoring(0.3, bias=positions.bias(context)))
    return y.transpose(1, 2).flatten(2)


def attention_to_chosen_keys(selector: KeySelector, x: Tensor, context: Context) -> Tensor:
    """(B, T, D) -> (B, T, D): attention of each vector to those that are chosen for it."""
    selector.prepare(context)
    heads, visible, scoring = _heads(x), _visible(selector, context), Scoring(0.3)
    keys, values = _with_earlier(heads, heads, context)
    choice = selector(x, x, visible, context)
    selector.learn(choice, heads, keys, visible, scoring)
    y = eager(heads, keys, values, visible.among(choice.keys), scoring)
    return y.transpose(1, 2).flatten(2)


def _heads(x: Tensor) -> Tensor:
    """(B, T, D) -> (B, H, T, K)"""
    return x.view(*x.shape[:2], HEADS, x.shape[2] // HEADS).transpose(1, 2)


def _with_earlier(keys: Tensor, values: Tensor, context: Context) -> tuple[Tensor, Tensor]:
    state = context.state("mixer", KeyValues)
    return (keys, values) if state is None else state.append(keys, values)


def _visible(block: Component, context: Context) -> Visibility:
    return visibility(context, causal=block.site is None or block.site.causal)
