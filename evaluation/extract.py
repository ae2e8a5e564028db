"""Features of a folder's sound or picture: files are read ahead in workers while the network works."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import MFMError
from evaluation.caches import Entry, FeatureFiles
from evaluation.files import FileMark
from evaluation.networks import FeatureNetwork
from evaluation.reading import Reading, read_ahead
from evaluation.sources import Reader, TruePicture, TrueSound
from presets.config import MediaConfig

SAVE_EVERY = 256  # clips between two parts of a feature file: what a kill can cost
# What is read of a file, for the JSON beside the features: another number, and features are made again.
READING = "av-benchmark 1"


def extract(
    network: FeatureNetwork,
    files: Mapping[str, Path],
    folder: Path,
    device: str = "cpu",
    video: bool = False,
    on_clip: Callable[[int], None] = lambda clips: None,
    reading: Reading | None = None,
    batch: int | None = None,
    media: MediaConfig | None = None,
) -> dict[str, str]:
    """Fill the network's feature files in ``folder`` for these clips; what was made of the same files is kept.

    Returns the clips that could not be read, with the reason. Files that another network, other weights or another
    way of reading made are begun again, as are clips whose file has changed. ``video``: of the picture. ``on_clip``
    is told first how many clips are there already, then each batch. ``batch`` None is the network's own for the
    device. ``media``: the files are the clips' own videos, whose true sound and picture are wanted
    (:mod:`evaluation.sources`).
    """
    reader = _reader(network, video, media)
    names = network.video_caches if video else network.caches
    held = FeatureFiles(folder, names, made_by(network, video, media))
    marks: dict[str, FileMark] = {}
    for clip_id, path in files.items():
        if clip_id in held.marks and (same := held.marks[clip_id].still(path)):
            marks[clip_id] = same
    todo = [clip_id for clip_id in sorted(files) if clip_id not in marks]
    on_clip(len(marks))
    on_gpu = torch.device(device).type != "cpu"
    batch = batch or (network.video_batch if video else network.batch)[on_gpu]
    failed: dict[str, str] = {}
    with read_ahead([files[c] for c in todo], reader, reading or Reading(), 2 * batch) as items:
        try:
            for ids, results in _batches(todo, items, batch):
                read = dict(zip(ids, results, strict=True))
                failed |= {c: str(result) for c, result in read.items() if isinstance(result, MFMError)}
                good = {c: result for c, result in read.items() if c not in failed}
                if good:
                    inputs = torch.from_numpy(np.stack([values for values, _ in good.values()])).to(device)
                    made = _entries(network.encode_video(inputs) if video else network.encode(inputs), len(good))
                    for (clip_id, (_, version)), entries in zip(good.items(), made, strict=True):
                        held.add(clip_id, version, entries)
                        marks[clip_id] = version
                if len(held.new_marks) >= SAVE_EVERY:
                    held.save()
                on_clip(len(ids))
        finally:  # an interrupt keeps what is there
            held.save()
    others = {c: m for c, m in held.marks.items() if c not in files and Path(m.path).is_file()}
    held.join(others | marks)
    return failed


def made_by(network: FeatureNetwork, video: bool = False, media: MediaConfig | None = None) -> dict[str, str]:
    """What the JSON beside the network's feature files says about how they were made."""
    reader = _reader(network, video, media)
    return {"network": network.name, "weights": network.fingerprint, "input": f"{READING}: {reader}"}


def _reader(network: FeatureNetwork, video: bool, media: MediaConfig | None) -> Reader:
    if not video:
        return TrueSound(network.sound, media) if media else network.sound
    if network.picture is None:
        raise TypeError(f"{network.name} does not look at pictures")
    return TruePicture(network.picture) if media else network.picture


def _batches(ids: Sequence[str], items: Iterable[Any], size: int) -> Iterator[tuple[list[str], list[Any]]]:
    waiting: list[Any] = []
    done = 0
    for item in items:
        waiting.append(item)
        if len(waiting) == size or done + len(waiting) == len(ids):
            yield list(ids[done : done + len(waiting)]), waiting
            done += len(waiting)
            waiting = []


def _entries(made: Mapping[str, Mapping[str, torch.Tensor]], count: int) -> list[dict[str, Entry]]:
    """A network's output -> for each clip its entry of every feature file, on the CPU."""
    there = {name: {part: values.detach().cpu() for part, values in parts.items()} for name, parts in made.items()}
    out = []
    for row in range(count):
        entries: dict[str, Entry] = {}
        for name, parts in there.items():
            entry = {part: values[row].clone() for part, values in parts.items()}
            entries[name] = entry.get("", entry)
        out.append(entries)
    return out
