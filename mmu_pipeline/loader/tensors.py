"""A batch of arrays -> a batch of torch tensors that share their memory: pinned where there is CUDA, so that copies overlap."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mmu_pipeline.fields import Array
from mmu_pipeline.loader.batches import Batch
from mmu_pipeline.loader.buffers import Buffers, Memory


def tensor_memory(buffers: Buffers) -> Memory:
    """Memory for batches that become tensors: of these buffers, but with CUDA it is pinned.

    Torch's own allocator keeps pinned memory for the next batch. Unlike `Buffers`, it waits for copies to the device that
    are still under way when a batch is dropped.
    """
    return _pinned if torch.cuda.is_available() else buffers.take


def _pinned(nbytes: int) -> npt.NDArray[np.uint8]:
    return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True).numpy()  # type: ignore[no-any-return]


def to_torch(batch: Batch) -> dict[str, Any]:
    """The same batch, with tensors for arrays; lists of arrays become lists of tensors, text stays as it is."""
    return {name: _converted(value) for name, value in batch.items()}


def _converted(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return tensor_of(value)
    if isinstance(value, list) and value and isinstance(value[0], np.ndarray):
        return [tensor_of(array) for array in value]
    return value


def tensor_of(array: Array) -> torch.Tensor:
    """An array as a tensor. One in the memory of a tensor becomes a part of that tensor: torch then knows that it is pinned."""
    owner = array.base.base if isinstance(array.base, np.ndarray) else None
    if not isinstance(owner, torch.Tensor):
        return torch.from_numpy(array)
    begin = array.ctypes.data - owner.data_ptr()
    part = owner.view(torch.uint8)[begin : begin + array.nbytes]
    return part.view(torch.from_numpy(np.empty(0, array.dtype)).dtype).view(array.shape)
