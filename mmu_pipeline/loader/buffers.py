"""Sizes of batches -> memory for them, used again once no array of the batch is left: fresh memory costs more than the copy."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

ALIGNMENT = 64
Memory = Callable[[int], npt.NDArray[np.uint8]]
"""What gives memory for a batch: so many bytes, with any content."""


@dataclass(frozen=True)
class Buffers:
    """Blocks of memory. May be used by several threads."""

    free: list[npt.NDArray[np.uint8]] = field(default_factory=list, repr=False)

    def __reduce__(self) -> tuple[type[Buffers], tuple[()]]:
        return Buffers, ()

    def take(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """Bytes with any content, shape (nbytes,). They come back by themselves when the last view of them is gone."""
        block = self._free_block(nbytes)
        lease = np.frombuffer(block.data, np.uint8)  # has no ndarray as base, so views of it keep it, not the block
        weakref.finalize(lease, self.free.append, block).atexit = False
        return lease[:nbytes]

    def _free_block(self, nbytes: int) -> npt.NDArray[np.uint8]:
        try:
            block = self.free.pop()
        except IndexError:
            return np.empty(nbytes, np.uint8)
        return block if len(block) >= nbytes else np.empty(nbytes, np.uint8)


def aligned(nbytes: int) -> int:
    """Room that an array takes in a block, so that the next one starts well."""
    return nbytes + -nbytes % ALIGNMENT
