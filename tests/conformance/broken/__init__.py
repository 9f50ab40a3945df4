"""Blocks with one defect each, and the checks that have to find it."""

from tests.conformance.broken import adapters, caching, construction, others, pooling, streams, training, visibility
from tests.conformance.broken.base import BROKEN, BidirectionalMean, Broken, CausalMean, Projection

MODULES = (adapters, caching, construction, others, pooling, streams, training, visibility)  # importing fills BROKEN

__all__ = ["BROKEN", "MODULES", "BidirectionalMean", "Broken", "CausalMean", "Projection"]
