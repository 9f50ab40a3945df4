"""Training on several processes of which none holds the whole model."""

from training.parallel.shards import Shards
from training.parallel.strategy import ShardedStrategy, plan_for

__all__ = ["ShardedStrategy", "Shards", "plan_for"]
