"""The joined cache as batches on one device: whole in memory where it fits, else streamed shard by shard."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from common.errors import CacheError
from pipeline.cache import Joined, Selection, Store, join
from pipeline.cache.selection import ShardRows, reasons
from trainer.memory import device_bytes, host_bytes
from trainer.share import UNUSED, splits_of

# Clips among which a batch is drawn. Smaller caches are shuffled whole.
BUFFER = 8192
# Of the free memory, what the features may take: the rest is for the model, its optimizer and everybody else.
_HOST_SHARE, _DEVICE_SHARE = 0.8, 0.5

Shard = TypeVar("Shard")
Row = TypeVar("Row")


@dataclass(frozen=True)
class Batch:
    """One process's part of a global batch.

    ``clip_ids`` are those of the whole global batch; ``arrays`` map a stage to this process's rows, float32 (rows,
    steps, width), and the last stage is the one to predict. A process without a row gets one that ``weight`` 0 leaves
    out.
    """

    clip_ids: Sequence[str]
    arrays: Mapping[str, Tensor]
    weight: float

    @property
    def visual(self) -> dict[str, Tensor]:
        return dict(list(self.arrays.items())[:-1])

    @property
    def target(self) -> Tensor:
        return list(self.arrays.values())[-1]


class Data(Protocol):
    """Where batches come from. The order of an epoch follows from seed, epoch and the clips of each shard alone."""

    how: str
    left_out: str
    provenance: Mapping[str, Mapping[str, Any]]
    shapes: Mapping[str, tuple[int, int]]

    def clip_ids(self, split: str) -> list[str]:
        """The clips of a split, sorted."""
        ...

    def count(self, split: str) -> int: ...

    def batches(self, split: str, size: int, order: int | None, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Global batches of ``size``, the last one short; ``order`` seeds the shuffle, None keeps the order."""
        ...


def epoch_order(seed: int, epoch: int) -> int:
    """The shuffle seed of one epoch."""
    return seed * 1_000_003 + epoch


def shuffled(
    shards: Sequence[Shard], rows: Callable[[Shard], Iterable[Row]], order: int | None, buffer: int
) -> Iterator[Row]:
    """Shards in a random order, their rows through a shuffle buffer; ``order`` None keeps both as they are.

    What comes when depends on ``order``, ``buffer`` and the number of rows of each shard, not on where the rows are:
    in memory and streamed, a run sees the same batches.
    """
    if order is None:
        for shard in shards:
            yield from rows(shard)
        return
    generator = random.Random(order)
    waiting: list[Row] = []
    for shard in generator.sample(shards, len(shards)):
        for row in rows(shard):
            waiting.append(row)
            if len(waiting) == buffer:
                place = int(generator.random() * buffer)
                waiting[place], waiting[-1] = waiting[-1], waiting[place]
                yield waiting.pop()
    generator.shuffle(waiting)
    yield from waiting


def _groups(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    chosen: list[Row] = []
    for row in rows:
        chosen.append(row)
        if len(chosen) == size:
            yield chosen
            chosen = []
    if chosen:
        yield chosen


def _mine(rows: list[Row], rank: int, world: int) -> tuple[list[Row], float]:
    part = rows[rank::world]
    return (part, 1.0) if part else (rows[:1], 0.0)


class TensorData:
    """The whole joined cache as one tensor a stage, in the cache's own precision, rows taken by index.

    ``shard_of``: the shard of each clip, for the order of the batches; left out, all clips are of one. ``share`` and
    ``seed``: of the training clips (:mod:`trainer.share`).
    """

    def __init__(
        self,
        joined: Joined,
        device: str | torch.device,
        shard_of: Mapping[str, int] | None = None,
        buffer: int = BUFFER,
        share: float = 1.0,
        seed: int = 0,
    ):
        self.joined, self.buffer = joined, buffer
        splits = splits_of(zip(joined.clip_ids, joined.labels, joined.splits, strict=True), share, seed)
        self.splits = [splits[clip_id] for clip_id in joined.clip_ids]
        self.arrays = {name: torch.from_numpy(array).to(device) for name, array in joined.arrays.items()}
        self.left_out = reasons(dict(joined.left_out) | _unused(splits))
        self.provenance: Mapping[str, Mapping[str, Any]] = joined.provenance
        self.shapes: Mapping[str, tuple[int, int]] = joined.shapes
        self.how = f"in memory on {device}"
        rows = defaultdict(list)
        for row, clip_id in enumerate(joined.clip_ids):
            rows[shard_of[clip_id] if shard_of else 0].append(row)
        self.shards = [rows[shard] for shard in sorted(rows)]

    def clip_ids(self, split: str) -> list[str]:
        return [clip_id for clip_id, name in zip(self.joined.clip_ids, self.splits, strict=True) if name == split]

    def count(self, split: str) -> int:
        return sum(name == split for name in self.splits)

    def batches(self, split: str, size: int, order: int | None, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        splits, ids = self.splits, self.joined.clip_ids
        device = next(iter(self.arrays.values())).device
        rows = shuffled(self.shards, lambda shard: (row for row in shard if splits[row] == split), order, self.buffer)
        for whole in _groups(rows, size):
            mine, weight = _mine(whole, rank, world)
            index = torch.tensor(mine).to(device, non_blocking=True)
            arrays = {name: array[index].float() for name, array in self.arrays.items()}
            yield Batch([ids[row] for row in whole], arrays, weight)


class StreamData:
    """Shard by shard through a shuffle buffer, for caches larger than the memory.

    Every process reads every shard and keeps its own rows, so that the global batches are the same whatever the
    number of processes. Tars are read with webdataset's pipeline (:mod:`pipeline.cache.webdataset`); its shuffles and
    splits by process are not used: they give each process shards of its own, so the batches would depend on how many
    there are, know nothing of a clip that stands in one tar a stage, and give other batches than the cache in memory.
    """

    def __init__(
        self,
        store: Store,
        stages: Sequence[str],
        device: str | torch.device,
        buffer: int = BUFFER,
        share: float = 1.0,
        seed: int = 0,
    ):
        self.store, self.stages, self.device, self.buffer = store, list(stages), device, buffer
        self.selection = Selection(store, self.stages)
        self.shards: list[int] = []  # with at least one usable clip
        clips: list[tuple[str, str, str]] = []
        left_out = self.selection.not_extracted()
        for shard, rows in usable_rows(self.selection):
            clips += zip(rows.clip_ids, rows.labels, rows.splits, strict=True)
            left_out |= rows.left_out
            if rows.clip_ids:
                self.shards.append(shard)
        if not self.shards:
            raise CacheError(f"no clip in {store.files.root} has all of {', '.join(stages)}: {reasons(left_out)}")
        self.provenance: Mapping[str, Mapping[str, Any]] = self.selection.provenance
        self.shapes: Mapping[str, tuple[int, int]] = self._join(self.shards[0]).shapes
        self._splits = splits_of(clips, share, seed)
        self._ids: dict[str, list[str]] = defaultdict(list)
        for clip_id, split in self._splits.items():
            self._ids[split].append(clip_id)
        self.left_out = reasons(left_out | _unused(self._splits))
        self.how = f"streamed, {len(self.shards)} shards through a buffer of {buffer} clips"

    def clip_ids(self, split: str) -> list[str]:
        return sorted(self._ids[split])

    def count(self, split: str) -> int:
        return len(self._ids[split])

    def _join(self, shard: int) -> Joined:
        return join(self.store, self.stages, [shard], selection=self.selection)

    def _rows(self, shard: int, split: str) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        part = self._join(shard)
        for row, clip_id in enumerate(part.clip_ids):
            if self._splits[clip_id] == split:
                # A copy: a view would keep the whole shard while one of its rows waits in the buffer.
                yield clip_id, {name: array[row].copy() for name, array in part.arrays.items()}

    def batches(self, split: str, size: int, order: int | None, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        rows = shuffled(self.shards, lambda shard: self._rows(shard, split), order, self.buffer)
        for whole in _groups(rows, size):
            mine, weight = _mine(whole, rank, world)
            arrays = {
                name: torch.from_numpy(np.stack([features[name] for _, features in mine])).to(self.device).float()
                for name in self.stages
            }
            yield Batch([clip_id for clip_id, _ in whole], arrays, weight)


def _unused(splits: Mapping[str, str]) -> dict[str, str]:
    """Training clips beyond the share, with the reason."""
    return dict.fromkeys((i for i, split in splits.items() if split == UNUSED), "beyond training.share_of_clips")


def usable_rows(selection: Selection) -> Iterator[tuple[int, ShardRows]]:
    """The rows of each shard that all stages have, by the headers alone."""
    for shard in selection.shards:
        headers = {stage: selection.store.header(stage, shard) for stage in selection.stages_of(shard)}
        yield shard, selection.rows(shard, headers)


def fits_in_memory(selection: Selection, device: torch.device, processes: int = 1) -> bool:
    """Whether each of ``processes`` processes of this machine can join the stages and keep them on its device.

    The features take what their shards take on disk, in the cache's own precision: nothing there is compressed.
    """
    store = selection.store
    sizes = [
        sum(store.files.size(store.name(stage, shard)) for shard in selection.present[stage])
        for stage in selection.stages
    ]
    on_device = device_bytes(device)
    if on_device is not None and sum(sizes) > _DEVICE_SHARE * on_device:
        return False
    while_joining = sum(sizes) + max(sizes)  # one stage at a time is held twice
    return while_joining * processes <= _HOST_SHARE * host_bytes()


def load_data(
    store: Store,
    stages: Sequence[str],
    device: torch.device,
    how: str = "auto",
    processes: int = 1,
    agree: Callable[[bool], bool] = lambda fits: fits,
    share: float = 1.0,
    seed: int = 0,
) -> Data:
    """The cache in memory where it fits (:func:`fits_in_memory`), else streamed.

    ``stages``: the encoders that a mapper reads, and last the one whose features it predicts.
    ``how``: auto, memory or stream. ``processes``: how many of this machine load it. ``agree``: from whether it fits
    here to whether it fits for all processes. ``share``, ``seed``: :mod:`trainer.share`.
    Raises :class:`CacheError` for a missing stage or a mixed cache.
    """
    selection = Selection(store, stages)
    if how == "stream" or (how == "auto" and not agree(fits_in_memory(selection, device, processes))):
        return StreamData(store, stages, device, share=share, seed=seed)
    joined = join(store, stages, selection=selection)
    shard_of = {i: shard for shard, rows in usable_rows(selection) for i in rows.clip_ids}
    return TensorData(joined, device, shard_of, share=share, seed=seed)
