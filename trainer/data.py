"""The joined cache as batches on one device: whole in memory where it fits, else streamed shard by shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pipeline.cache import Joined, Selection, Store, join
from pipeline.cache.selection import reasons
from pipeline.errors import CacheError

TARGET = "audiomae"
# Of the free memory, what the cached features may take: the model and its optimizer need the rest.
_SHARE = 0.5


@dataclass(frozen=True)
class Batch:
    """One process's part of a global batch.

    ``clip_ids`` are those of the whole global batch; ``arrays`` map a stage to this process's rows,
    float32 (rows, steps, width). A process without a row gets one that ``weight`` 0 leaves out.
    """

    clip_ids: Sequence[str]
    arrays: Mapping[str, Tensor]
    weight: float

    @property
    def visual(self) -> dict[str, Tensor]:
        return {name: array for name, array in self.arrays.items() if name != TARGET}

    @property
    def target(self) -> Tensor:
        return self.arrays[TARGET]


class Data(Protocol):
    """Where batches come from. The order of an epoch follows from seed and epoch alone."""

    how: str
    left_out: str
    provenance: Mapping[str, Mapping[str, Any]]
    shapes: Mapping[str, tuple[int, int]]

    def count(self, split: str) -> int: ...

    def batches(self, split: str, size: int, order: int | None, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Global batches of ``size``, the last one short; ``order`` seeds the shuffle, None keeps the order."""
        ...


def _mine(rows: Tensor, rank: int, world: int) -> tuple[Tensor, float]:
    part = rows[rank::world]
    return (part, 1.0) if len(part) else (rows[:1], 0.0)


def epoch_order(seed: int, epoch: int) -> int:
    """The shuffle seed of one epoch."""
    return seed * 1_000_003 + epoch


class TensorData:
    """The whole joined cache as one tensor a stage, in the cache's own precision, rows taken by index."""

    def __init__(self, joined: Joined, device: str | torch.device):
        self.joined = joined
        self.arrays = {name: torch.from_numpy(array).to(device) for name, array in joined.arrays.items()}
        self.left_out = joined.left_out_reasons()
        self.provenance: Mapping[str, Mapping[str, Any]] = joined.provenance
        self.shapes: Mapping[str, tuple[int, int]] = joined.shapes
        self.how = f"in memory on {device}"

    def rows(self, split: str) -> Tensor:
        return torch.tensor([row for row, name in enumerate(self.joined.splits) if name == split], dtype=torch.long)

    def count(self, split: str) -> int:
        return sum(name == split for name in self.joined.splits)

    def batches(self, split: str, size: int, order: int | None, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        rows = self.rows(split)
        if order is not None:
            rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(order))]
        device = next(iter(self.arrays.values())).device
        ids = self.joined.clip_ids
        for whole in rows.split(size):
            mine, weight = _mine(whole, rank, world)
            index = mine.to(device, non_blocking=True)
            arrays = {name: array[index].float() for name, array in self.arrays.items()}
            yield Batch([ids[row] for row in whole.tolist()], arrays, weight)


class StreamData:
    """Shard by shard through a shuffle buffer, for caches larger than the memory.

    Shards come in a shuffled order and their rows leave the buffer at random; every process reads every
    shard and keeps its own rows, so that the global batches are the same whatever the number of processes.
    """

    def __init__(self, store: Store, stages: Sequence[str], device: str | torch.device, buffer: int = 8192):
        self.store, self.stages, self.device, self.buffer = store, list(stages), device, buffer
        self.selection = Selection(store, self.stages)
        self.shards: list[int] = []  # with at least one usable clip
        self._counts: Counter[str] = Counter()
        left_out = self.selection.not_extracted()
        for shard in self.selection.shards:  # headers only
            headers = {stage: store.header(stage, shard) for stage in self.selection.stages_of(shard)}
            rows = self.selection.rows(shard, headers)
            self._counts.update(rows.splits)
            left_out |= rows.left_out
            if rows.clip_ids:
                self.shards.append(shard)
        if not self.shards:
            raise CacheError(f"no clip in {store.files.root} has all of {', '.join(stages)}: {reasons(left_out)}")
        self.provenance: Mapping[str, Mapping[str, Any]] = self.selection.provenance
        self.shapes: Mapping[str, tuple[int, int]] = self._join(self.shards[0]).shapes
        self.left_out = reasons(left_out)
        self.how = f"streamed, {len(self.shards)} shards through a buffer of {buffer} clips"

    def count(self, split: str) -> int:
        return self._counts[split]

    def _join(self, shard: int) -> Joined:
        return join(self.store, self.stages, [shard], selection=self.selection)

    def _rows(self, split: str, random: np.random.Generator | None) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        order = list(self.shards) if random is None else [self.shards[i] for i in random.permutation(len(self.shards))]
        for shard in order:
            part = self._join(shard)
            for row, clip_id in enumerate(part.clip_ids):
                if part.splits[row] == split:
                    yield clip_id, {name: array[row] for name, array in part.arrays.items()}

    def batches(self, split: str, size: int, order: int | None, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        random = None if order is None else np.random.default_rng(order)
        buffer: list[tuple[str, dict[str, np.ndarray]]] = []
        chosen: list[tuple[str, dict[str, np.ndarray]]] = []

        def emit() -> Batch:
            mine, weight = _mine(torch.arange(len(chosen)), rank, world)
            arrays = {
                name: torch.from_numpy(np.stack([chosen[row][1][name] for row in mine.tolist()]))
                .to(self.device)
                .float()
                for name in self.stages
            }
            return Batch([clip_id for clip_id, _ in chosen], arrays, weight)

        for item in self._rows(split, random):
            if random is None:
                chosen.append(item)
            else:
                buffer.append(item)
                if len(buffer) < self.buffer:
                    continue
                place = int(random.integers(len(buffer)))
                buffer[place], buffer[-1] = buffer[-1], buffer[place]
                chosen.append(buffer.pop())
            if len(chosen) == size:
                yield emit()
                chosen.clear()
        if random is not None:
            random.shuffle(buffer)
        for item in buffer:
            chosen.append(item)
            if len(chosen) == size:
                yield emit()
                chosen.clear()
        if chosen:
            yield emit()


def cache_bytes(store: Store, stages: Sequence[str]) -> int:
    """Size of the stages' shards on disk, nearly that of their features."""
    return sum(store.files.size(store.name(stage, shard)) for stage in stages for shard in store.shards(stage))


def free_bytes(device: torch.device) -> int:
    """Memory that is free on the device, or on this machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)


def load_data(store: Store, stages: Sequence[str], device: torch.device, how: str = "auto") -> Data:
    """The cache in memory where it takes less than half of what is free, else streamed.

    ``how``: auto, memory or stream. Raises :class:`CacheError` for a missing stage or a mixed cache.
    """
    fits = cache_bytes(store, stages) < _SHARE * free_bytes(device)
    if how == "memory" or (how == "auto" and fits):
        return TensorData(join(store, stages), device)
    return StreamData(store, stages, device)
