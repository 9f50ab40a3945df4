"""Training on several processes of which none holds the whole model."""

from training.parallel.shards import Shards
from training.parallel.strategy import ShardedStrategy, verify_known

__all__ = ["ShardedStrategy", "Shards", "verify_known"]
