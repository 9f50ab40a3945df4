"""Sharded training: FSDP2 and tensor parallelism."""

from blockformer.training.parallel.shards import Shards

__all__ = ["Shards"]
