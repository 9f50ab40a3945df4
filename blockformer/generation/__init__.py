"""Decoding: from a model to text.

Greedy, sampled or by beam search where a model writes, blanks filled in where it reads.
"""

from blockformer.generation.beam import beam_search
from blockformer.generation.mask_filling import Blank, fill
from blockformer.generation.sampling import Choose, greedy, sampler
from blockformer.generation.search import Hypothesis, length_penalty
from blockformer.generation.streaming import Step, generate, stream

__all__ = [
    "Blank",
    "Choose",
    "Hypothesis",
    "Step",
    "beam_search",
    "fill",
    "generate",
    "greedy",
    "length_penalty",
    "sampler",
    "stream",
]
