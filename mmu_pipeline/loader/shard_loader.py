"""A dataset and an order -> batches, filled ahead by threads of this process, from any point of any epoch on."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

import numpy as np

from mmu_pipeline.errors import BadInput
from mmu_pipeline.loader.batches import Batch, Ragged
from mmu_pipeline.loader.buffers import Buffers, Memory
from mmu_pipeline.loader.dataset import ShardDataset
from mmu_pipeline.loader.deal import Deal, Last, Progress, progress_of
from mmu_pipeline.loader.faults import Faults
from mmu_pipeline.loader.order import Order, Shuffle, order_of
from mmu_pipeline.shards.ustar import file_of
from mmu_pipeline.sky import Int

PLANNED = 8192
"""Positions whose rows are worked out at a time."""


class ShardLoader:
    """The batches of one rank. Each pass over it is an epoch; the next pass is the next epoch.

    `batch_size` is per rank. `rank` and `world` are those of torch.distributed where it is initialised, else 0 of 1.
    `shuffle` is "global", "block" (bounded memory: `block` neighbouring samples are read together, `window` blocks are
    mixed) or None; `order` takes its place with an order of one's own. `last` says what becomes of an end that does not
    fill a batch on every rank, see `Deal`; with pad, `batch["padding"]` is True for repeats. `threads` fill `ahead`
    batches beyond the one in use. `transform` is applied to each batch in these threads. Up to `most_faults` broken
    samples are left out of their batches and listed in `faults`; one more is an error, and by default the first.
    """

    def __init__(
        self,
        dataset: ShardDataset,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int | None = None,
        world: int | None = None,
        shuffle: Shuffle = "global",
        block: int = 256,
        window: int = 32,
        order: Order | None = None,
        last: Last = "share",
        ragged: Ragged = "padded",
        output: Literal["numpy", "torch"] = "numpy",
        transform: Callable[[Batch], Any] | None = None,
        threads: int = 2,
        ahead: int = 2,
        most_faults: int = 0,
    ) -> None:
        self.dataset, self.batch_size, self.last = dataset, batch_size, last
        self.rank, self.world = ranks(rank, world)
        self.order = order or order_of(shuffle, len(dataset), seed, block, window)
        self.ragged, self.output, self.transform = ragged, output, transform
        self.threads, self.ahead = threads, ahead
        self.faults = Faults(most_faults)
        self._buffers = Buffers()
        self._identity = {"order": repr(self.order), "data": dataset.identity}
        self._start, self._progress = Progress(), Progress()
        self._deal(self._start)  # says what is wrong now, not at the first batch

    @property
    def epoch(self) -> int:
        """The epoch that the next pass is, or goes on with."""
        return self._start.epoch

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass be the whole of this epoch."""
        self._start = self._progress = Progress(epoch)

    def state_dict(self) -> dict[str, Any]:
        """How far the pass has come: plain values, the same on every rank after as many batches."""
        return self._progress.state(**self._identity)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass go on where `state_dict` was taken, with any number of ranks and any batch size.

        Raises BadInput if the state belongs to other samples, another seed or another shuffle.
        """
        self._start = self._progress = progress_of(state, **self._identity)

    def __len__(self) -> int:
        """Batches of the next pass, on each rank."""
        return self._deal(self._start).steps

    def __iter__(self) -> Iterator[Any]:
        """The batches of an epoch, or of what is left of it after `load_state_dict`.

        In a worker of PyTorch's DataLoader (see `torch_data.Batches`) every so-many-th of them.
        """
        return self._pass(self._batch)

    def samples(self) -> Iterator[dict[str, Any]]:
        """The same pass sample by sample, as webdataset gives them decoded: a source for `wds.DataPipeline(loader.samples, ...)`.

        Each is a dict of `__key__`, `__url__`, `<survey>.<field>.npy` (`<survey>.jpg` for pixels) and `json`. `transform` is not
        applied.
        """
        for samples in self._pass(self._samples):
            yield from samples

    def _pass(self, fill: Callable[[Int, Int], Any]) -> Iterator[Any]:
        begun, (worker, workers) = self._start, worker_of()
        deal = self._deal(begun)
        self._start, self._progress = Progress(begun.epoch), begun
        waiting: deque[tuple[int, Future[Any]]] = deque()
        with ThreadPoolExecutor(self.threads, thread_name_prefix="shards") as pool:
            try:
                for step, positions, rows in self._plans(deal, begun.epoch, range(worker, deal.steps, workers)):
                    waiting.append((step, pool.submit(fill, positions, rows)))
                    if len(waiting) > self.ahead:
                        yield self._taken(*waiting.popleft(), begun, deal)
                while waiting:
                    yield self._taken(*waiting.popleft(), begun, deal)
            finally:
                for _, future in waiting:
                    future.cancel()
        self._start = self._progress = Progress(begun.epoch + 1)

    def _taken(self, step: int, future: Future[Any], begun: Progress, deal: Deal) -> Any:
        filled = future.result()
        self._progress = begun.after(deal, step + 1)
        return filled

    def _plans(self, deal: Deal, epoch: int, steps: range) -> Iterator[tuple[int, Int, Int]]:
        """Step, positions and rows of one batch after the other, worked out for many at a time."""
        several = max(1, PLANNED // self.batch_size)
        for first in range(0, len(steps), several):
            chosen = steps[first : first + several]
            positions = [deal.positions(step, self.rank) for step in chosen]
            rows = self.order.rows(epoch, np.concatenate(positions) % max(deal.samples, 1))
            parts = np.split(rows, np.cumsum([len(part) for part in positions])[:-1])
            yield from zip(chosen, positions, parts, strict=True)

    def _batch(self, positions: Int, rows: Int) -> Any:
        memory: Memory = self._buffers.take
        if self.output == "torch":
            from mmu_pipeline.loader.tensors import tensor_memory, to_torch

            memory = tensor_memory(self._buffers)
        batch = self.dataset.batch(rows, ragged=self.ragged, memory=memory, faults=self.faults)
        if self.last == "pad":
            read = np.isin(rows, batch["row"]) if len(batch["row"]) < len(rows) else slice(None)
            batch["padding"] = (positions >= self.order.samples)[read]
        if self.output == "torch":
            batch = to_torch(batch)
        return batch if self.transform is None else self.transform(batch)

    def _samples(self, positions: Int, rows: Int) -> list[dict[str, Any]]:
        columns = [column.name for column in self.dataset.wanted.columns]
        members = [member.name for member in self.dataset.wanted.members]
        return [
            {
                "__key__": sample["key"],
                "__url__": self.dataset.parts[0].folder.url,
                **{file_of(name): sample[name] for name in members},
                "json": {name: sample[name] for name in columns},
            }
            for sample in self.dataset.samples(rows, faults=self.faults)
        ]

    def _deal(self, progress: Progress) -> Deal:
        return Deal(self.order.samples, self.batch_size, self.world, self.last, progress.dealt)


def ranks(rank: int | None, world: int | None) -> tuple[int, int]:
    """Rank and number of ranks: as given, else those of torch.distributed, else 0 of 1. Raises BadInput if they do not fit."""
    if (rank is None) != (world is None):
        raise BadInput("rank and world go together", rank=rank, world=world)
    if rank is None or world is None:
        torch = sys.modules.get("torch")
        started = torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()
        return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if torch and started else (0, 1)
    if not 0 <= rank < world:
        raise BadInput("no such rank", rank=rank, world=world)
    return rank, world


def worker_of() -> tuple[int, int]:
    """Which worker of a DataLoader this process is, of how many."""
    torch = sys.modules.get("torch")
    info = torch.utils.data.get_worker_info() if torch is not None else None
    return (info.id, info.num_workers) if info is not None else (0, 1)
