"""A loader or a dataset in torch.utils.data.DataLoader: batches from its worker processes, and samples joined to batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset

from mmu_pipeline.loader.batches import Ragged, joined
from mmu_pipeline.loader.columns import scalar_arrays
from mmu_pipeline.loader.dataset import ShardDataset
from mmu_pipeline.loader.shard_loader import ShardLoader
from mmu_pipeline.loader.tensors import to_torch


class Batches(IterableDataset[Any]):  # type: ignore[misc]
    """The batches of a loader for `DataLoader(Batches(loader), batch_size=None, num_workers=n)`, in the loader's order.

    Worker processes do not share the loader: before each epoch call `loader.set_epoch`. To resume, load a state that
    the loader had in this process.
    """

    def __init__(self, loader: ShardLoader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)

    def __len__(self) -> int:
        return len(self.loader)


def collate(dataset: ShardDataset, ragged: Ragged = "padded") -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]:
    """A `collate_fn` for `DataLoader(dataset, ...)`: samples to a batch of tensors, as `ShardDataset.batch` joins them."""

    def joined_samples(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = {"key": [sample["key"] for sample in samples]}
        for member in dataset.wanted.members:
            arrays = [sample[member.name] for sample in samples]
            batch |= joined(member, arrays, ragged) if member.is_ragged else {member.name: np.stack(arrays)}
        return to_torch(batch | scalar_arrays(samples, dataset.wanted.columns))

    return joined_samples
