"""Samples of a set, as bytes -> a batch: a dict of arrays whose first dimension counts samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from mmu_pipeline.errors import BadInput
from mmu_pipeline.fields import Array
from mmu_pipeline.loader.buffers import Memory, aligned
from mmu_pipeline.loader.columns import scalar_arrays
from mmu_pipeline.loader.layout import Bytes, Choice, Layout, Member, scale_of
from mmu_pipeline.shards.narrow import widened

Batch = dict[str, Any]
"""`key` (list of text), `row` (int64), each member and each scalar by its name. What belongs to one of them has its name and a
suffix: `.mask`, `.offsets`, `.valid`. A null is NaN among floats, None among text; among integers and bools it is 0 where
`.valid` is False."""
Ragged = Literal["padded", "packed", "list"]
"""How arrays of varying length make a batch. padded: zeros after the end, and `.mask` (samples, longest) that is True where
there are values. packed: one after the other, and `.offsets` (samples + 1,). list: a list of arrays."""
RAGGED = ("padded", "packed", "list")


class Filling:
    """A batch on its way: arrays of a fixed shape are copied to their place at once, the rest waits until all are there."""

    def __init__(self, wanted: Layout, room: int, memory_of: Memory) -> None:
        self._wanted = wanted
        self._keys: list[str] = []
        self._rows: list[int] = []
        self._records: list[Mapping[str, Any]] = []
        self._fixed = [member for member in wanted.members if not member.is_ragged]
        self._ragged: list[tuple[Member, list[Array]]] = [(member, []) for member in wanted.members if member.is_ragged]
        memory = memory_of(sum(aligned(room * member.value_nbytes) for member in self._fixed))
        self._targets, begin = [], 0
        for member in self._fixed:
            self._targets.append(memory[begin : begin + room * member.value_nbytes].reshape(room, member.value_nbytes))
            begin += aligned(room * member.value_nbytes)

    def add(self, row: int, choice: Choice, sample: Bytes) -> None:
        """Put a sample at the end. Raises BrokenArtefact, and adds nothing, if it is not as its set declares."""
        name, fixed, ragged, scalars = choice.read(sample)
        place = len(self._rows)
        for member, target, content in zip(self._fixed, self._targets, fixed, strict=True):
            if member.is_narrowed:
                widened(content.view(member.dtype), scale_of(member, scalars), target[place].view(np.float32))
            else:
                target[place] = content
        for (member, arrays), content in zip(self._ragged, ragged, strict=True):
            arrays.append(member.values(content, scalars))
        self._keys.append(name)
        self._records.append(scalars)
        self._rows.append(row)

    def batch(self, ragged: Ragged) -> Batch:
        """What has been added."""
        count = len(self._rows)
        found: Batch = {"key": self._keys, "row": np.array(self._rows, np.int64)}
        arrays = {
            member.name: target[:count].view(member.gives).reshape(count, *member.row_shape)
            for member, target in zip(self._fixed, self._targets, strict=True)
        }
        varying = {member.name: (member, values) for member, values in self._ragged}
        for member in self._wanted.members:
            if member.name in arrays:
                found[member.name] = arrays[member.name]
            else:
                found |= joined(*varying[member.name], ragged)
        return found | scalar_arrays(self._records, self._wanted.columns)


def joined(member: Member, arrays: Sequence[Array], ragged: Ragged) -> Batch:
    """The arrays of a ragged member in a batch, copied. Raises BadInput for an unknown way to join them."""
    match ragged:
        case "list":
            return {member.name: [array.copy() for array in arrays]}
        case "packed":
            empty = np.zeros((0, *member.row_shape), member.gives)
            packed = np.concatenate([empty, *arrays])
            return {member.name: packed, f"{member.name}.offsets": np.cumsum([0, *map(len, arrays)], dtype=np.int64)}
        case "padded":
            lengths = np.array([len(array) for array in arrays], np.int64)
            mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
            padded = np.zeros((*mask.shape, *member.row_shape), member.gives)
            for target, array in zip(padded, arrays, strict=True):
                target[: len(array)] = array
            return {member.name: padded, f"{member.name}.mask": mask}
    raise BadInput(f"unknown way to join arrays of varying length {ragged!r}", hint=", ".join(RAGGED))
