"""Decoding with a trained model: greedy, sampling and beam search, and prediction of masked tokens."""

from blockformer.generation.beam_search import Hypothesis, beam_search, length_penalty
from blockformer.generation.mask_filling import FilledMask, fill_masks
from blockformer.generation.sampling import Sampler, TokenChooser, greedy, sampler
from blockformer.generation.speculative import Drafting, speculate
from blockformer.generation.streaming import Step, generate, stream

__all__ = [
    "Drafting",
    "FilledMask",
    "Hypothesis",
    "Sampler",
    "Step",
    "TokenChooser",
    "beam_search",
    "fill_masks",
    "generate",
    "greedy",
    "length_penalty",
    "sampler",
    "speculate",
    "stream",
]
