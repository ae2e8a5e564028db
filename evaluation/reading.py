"""Reading files ahead of a network, in workers that can be killed. Light to import: that is all a worker loads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import ClipError
from evaluation.files import FileMark, mark
from evaluation.sources import Reader
from pipeline.decoding import Call, DecodePool, prefetch
from presets import MediaConfig

_WORTH_WORKERS = 32  # files: for fewer a worker's start costs more than it saves
_PATIENCE = 5
_IMPORT_SECONDS = 60.0  # more for a file: the first one of a worker waits for torch to be imported


@dataclass(frozen=True)
class Reading:
    """How files are read ahead: processes that can be killed, and the limit in seconds for one file."""

    workers: int = 0  # 0: a thread of this process
    timeout_seconds: float = 60.0


def read_input(path: Path, reader: Reader) -> tuple[np.ndarray, FileMark]:
    """What a network is given of one file, and of which version of the file; raises :class:`ClipError`."""
    version = mark(path)
    values = reader.read(path)
    if version.still(path) != version:
        raise ClipError("unreadable", f"{path} was changed while it was read")
    return values, version


def read_in_worker(path: Path, reader: Reader) -> tuple[np.ndarray, FileMark]:
    """:func:`read_input` with one thread: the other workers and the network want the cores, too."""
    torch.set_num_threads(1)
    return read_input(path, reader)


def _attempt(path: Path, reader: Reader) -> tuple[np.ndarray, FileMark] | ClipError:
    try:
        return read_input(path, reader)
    except ClipError as error:
        return error
    except Exception as error:  # as in the workers: a file must never end the job
        return ClipError("unreadable", f"{path}: {type(error).__name__}: {error}")


def _call(path: Path, reader: Reader, seconds: float) -> Call:
    """Once more with more time where it took too long: a machine that is busy must not cost a clip."""
    again = Call(read_in_worker, (path, reader), path=str(path), seconds=_PATIENCE * seconds)
    return Call(read_in_worker, (path, reader), path=str(path), seconds=seconds, otherwise=again)


@contextlib.contextmanager
def read_ahead(paths: Sequence[Path], reader: Reader, how: Reading, ahead: int) -> Iterator[Iterable[Any]]:
    """The files' contents or :class:`ClipError`, in order, at most ``ahead`` of them before they are asked for."""
    with contextlib.ExitStack() as stack:
        if how.workers and len(paths) >= _WORTH_WORKERS:
            pool = stack.enter_context(DecodePool(MediaConfig(), how.workers, how.timeout_seconds))
            calls = (_call(path, reader, how.timeout_seconds + _IMPORT_SECONDS) for path in paths)
            items = stack.enter_context(contextlib.closing(prefetch(pool.map(calls), ahead)))
            stack.callback(pool.abandon)  # first of all: an interrupt does not wait for a file that hangs
        else:
            attempts = (_attempt(path, reader) for path in paths)
            items = stack.enter_context(contextlib.closing(prefetch(attempts, ahead)))
        yield items
