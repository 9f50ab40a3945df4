"""Decoding with a trained model: greedy, sampling and beam search, and prediction of masked tokens."""

from blockformer.generation.beam_search import Hypothesis, beam_search, length_penalty
from blockformer.generation.mask_filling import FilledMask, fill_masks
from blockformer.generation.sampling import TokenChooser, greedy, sampler
from blockformer.generation.streaming import Step, generate, stream

__all__ = [
    "FilledMask",
    "Hypothesis",
    "Step",
    "TokenChooser",
    "beam_search",
    "fill_masks",
    "generate",
    "greedy",
    "length_penalty",
    "sampler",
    "stream",
]
