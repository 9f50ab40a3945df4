"""Sharded training: FSDP2 and tensor parallelism."""

from blockformer.training.parallel.shards import Shards
from blockformer.training.parallel.strategy import ShardedStrategy, plan_for

__all__ = ["ShardedStrategy", "Shards", "plan_for"]
