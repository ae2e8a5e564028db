"""Features of a folder's sound or picture: files are read ahead in workers while the network works."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluation.caches import Entry, FeatureFiles
from evaluation.files import FileMark, mark
from evaluation.networks import FeatureNetwork
from evaluation.pictures import PictureInput
from evaluation.sounds import SoundInput
from pipeline.decoding import Call, DecodePool, prefetch
from pipeline.errors import ClipError
from presets import MediaConfig

SAVE_EVERY = 256  # clips between two parts of a feature file: what a kill can cost
_WORTH_WORKERS = 32  # files: for fewer a worker's start costs more than it saves
# What is read of a file, for the JSON beside the features: another number, and features are made again.
READING = "av-benchmark 1"


@dataclass(frozen=True)
class Reading:
    """How files are read ahead: processes that can be killed, and the limit in seconds for one file."""

    workers: int = 0  # 0: a thread of this process
    timeout_seconds: float = 60.0


def read_input(path: Path, reader: SoundInput | PictureInput) -> tuple[np.ndarray, FileMark]:
    """What a network is given of one file, and of which version of the file; raises :class:`ClipError`."""
    version = mark(path)
    values = reader.read(path)
    if version.still(path) != version:
        raise ClipError("unreadable", f"{path} was changed while it was read")
    return values, version


def read_in_worker(path: Path, reader: SoundInput | PictureInput) -> tuple[np.ndarray, FileMark]:
    """:func:`read_input` with one thread: the other workers and the network want the cores, too."""
    torch.set_num_threads(1)
    return read_input(path, reader)


def _attempt(path: Path, reader: SoundInput | PictureInput) -> tuple[np.ndarray, FileMark] | ClipError:
    try:
        return read_input(path, reader)
    except ClipError as error:
        return error
    except Exception as error:  # as in the workers: a file must never end the job
        return ClipError("unreadable", f"{path}: {type(error).__name__}: {error}")


@contextlib.contextmanager
def _reading(
    paths: Sequence[Path], reader: SoundInput | PictureInput, how: Reading, ahead: int
) -> Iterator[Iterable[Any]]:
    """The files' contents or :class:`ClipError`, in order, at most ``ahead`` of them before they are asked for."""
    with contextlib.ExitStack() as stack:
        items: Iterator[Any] = (_attempt(path, reader) for path in paths)
        if how.workers and len(paths) >= _WORTH_WORKERS:
            pool = stack.enter_context(DecodePool(MediaConfig(), how.workers, how.timeout_seconds))
            items = pool.map(Call(read_in_worker, (path, reader), path=str(path)) for path in paths)
        yield stack.enter_context(contextlib.closing(prefetch(items, ahead)))


def extract(
    network: FeatureNetwork,
    files: Mapping[str, Path],
    folder: Path,
    device: str = "cpu",
    video: bool = False,
    on_clip: Callable[[int], None] = lambda clips: None,
    reading: Reading | None = None,
    batch: int | None = None,
) -> dict[str, str]:
    """Fill the network's feature files in ``folder`` for these clips; what was made of the same files is kept.

    Returns the clips that could not be read, with the reason. Files that another network, other weights or another
    way of reading made are begun again, as are clips whose file has changed. ``video``: of the picture. ``on_clip``
    is told first how many clips are there already, then each batch. ``batch`` None is the network's own for the
    device.
    """
    reader = network.picture if video else network.sound
    if reader is None:
        raise TypeError(f"{network.name} does not look at pictures")
    names = network.video_caches if video else network.caches
    held = FeatureFiles(folder, names, made_by(network, video))
    marks: dict[str, FileMark] = {}
    for clip_id, path in files.items():
        if clip_id in held.marks and (same := held.marks[clip_id].still(path)):
            marks[clip_id] = same
    todo = [clip_id for clip_id in sorted(files) if clip_id not in marks]
    on_clip(len(marks))
    on_gpu = torch.device(device).type != "cpu"
    batch = batch or (network.video_batch if video else network.batch)[on_gpu]
    failed: dict[str, str] = {}
    unsaved = 0
    try:
        with _reading([files[c] for c in todo], reader, reading or Reading(), 2 * batch) as items:
            for ids, results in _batches(todo, items, batch):
                good = [(c, r) for c, r in zip(ids, results, strict=True) if not isinstance(r, ClipError)]
                failed |= {c: str(r) for c, r in zip(ids, results, strict=True) if isinstance(r, ClipError)}
                if good:
                    inputs = torch.from_numpy(np.stack([values for _, (values, _) in good])).to(device)
                    made = _entries(network.encode_video(inputs) if video else network.encode(inputs), len(good))
                    for (clip_id, (_, version)), entries in zip(good, made, strict=True):
                        held.add(clip_id, version, entries)
                        marks[clip_id] = version
                    unsaved += len(good)
                if unsaved >= SAVE_EVERY:
                    held.save()
                    unsaved = 0
                on_clip(len(ids))
    finally:  # an interrupt keeps what is there
        held.save()
    others = {c: m for c, m in held.marks.items() if c not in files and Path(m.path).is_file()}
    held.join(others | marks)
    return failed


def made_by(network: FeatureNetwork, video: bool = False) -> dict[str, str]:
    """What the JSON beside the network's feature files says about how they were made."""
    reader = network.picture if video else network.sound
    return {"network": network.name, "weights": network.fingerprint, "input": f"{READING}: {reader}"}


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
