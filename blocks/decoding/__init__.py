"""Decoding: from a model to text.

Greedy, sampled or by beam search where a model writes, blanks filled in where it reads.
"""

from blocks.decoding.beam import beam_search
from blocks.decoding.choosing import Choose, greedy, sampler
from blocks.decoding.filling import Blank, fill
from blocks.decoding.search import Hypothesis, length_penalty
from blocks.decoding.streaming import Step, generate, stream

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
