"""Decoding: from a model to text. Greedy, sampled and beam search for models that write, blanks filled in by those that read."""

from blocks.decoding.beam import Hypothesis, beam_search, length_penalty
from blocks.decoding.choosing import Choose, greedy, sampler
from blocks.decoding.filling import Blank, fill
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
