"""The trainer's side: a set of shards -> batches of arrays, in an order that any run can resume on any number of ranks."""

from mmu_pipeline.loader.dataset import ShardDataset
from mmu_pipeline.loader.shard_loader import ShardLoader

__all__ = ["ShardDataset", "ShardLoader"]
