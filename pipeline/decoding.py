"""Decode clips in worker processes that can be killed.

decord can loop for ever in native code, holding the interpreter lock, on files whose container claims
more frames than it holds; a thread could not be stopped, a process can. A clip whose worker dies or
outruns the limit is tried once more with PyAV in a new worker, then given up.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from queue import Queue
from threading import Event, Thread
from typing import Any, TypeVar

from pipeline.errors import ClipError
from pipeline.media import DecodedClip, decode_clip
from presets.config import MediaConfig

Item = TypeVar("Item")


@dataclass(frozen=True)
class Job:
    """One file to decode; ``backend`` None is the configured one with PyAV as second."""

    path: str
    backend: str | None = None
    audio: bool = True


Decoder = Callable[[Job, MediaConfig], DecodedClip]


def decode_job(job: Job, config: MediaConfig) -> DecodedClip:
    return decode_clip(Path(job.path), config, backend=job.backend, audio=job.audio)


def _worker(connection: Connection, config: MediaConfig, decoder: Decoder) -> None:
    if sys.platform == "linux":  # a worker stuck in native code must not outlive its parent
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(10)  # where cores are few, the encoder comes first: decoding is ahead of it anyway
    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):
            return
        try:
            result: DecodedClip | ClipError = decoder(job, config)
        except ClipError as error:
            result = error
        except Exception as error:  # a file must never end the job: whatever it broke is its fault
            result = ClipError("unreadable", f"{job.path}: {type(error).__name__}: {error}")
        try:
            connection.send(result)
        except (BrokenPipeError, OSError):
            return


class _Worker:
    def __init__(self, config: MediaConfig, decoder: Decoder):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_worker, args=(theirs, config, decoder), daemon=True)
        self.process.start()
        theirs.close()
        self.index = -1
        self.job: Job | None = None
        self.deadline = 0.0

    def give(self, index: int, job: Job, seconds: float) -> None:
        self.index, self.job, self.deadline = index, job, time.monotonic() + seconds
        self.connection.send(job)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


class DecodePool:
    """``workers`` processes; use as a context manager.

    ``startup_seconds`` is added to a worker's first limit: importing the decoders takes a while.
    """

    def __init__(
        self,
        config: MediaConfig,
        workers: int,
        timeout_seconds: float,
        decoder: Decoder = decode_job,
        startup_seconds: float = 60.0,
    ):
        self.config, self.timeout, self.startup, self.decoder = (
            config,
            timeout_seconds,
            startup_seconds,
            decoder,
        )
        self.count = max(1, workers)
        self.workers: list[_Worker] = []
        self.fresh: set[int] = set()

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self.workers:
            worker.stop()
        self.workers = []

    def _start(self) -> _Worker:
        worker = _Worker(self.config, self.decoder)
        self.fresh.add(id(worker))
        return worker

    def _replace(self, worker: _Worker) -> _Worker:
        worker.stop()
        place = self.workers.index(worker)
        self.workers[place] = self._start()
        return self.workers[place]

    def decode(self, jobs: Iterable[Job]) -> Iterator[DecodedClip | ClipError]:
        """One result a job, in the order of the jobs, which are drawn as workers become free.

        At most two jobs a worker are ahead of the reader.
        """
        source = enumerate(jobs)
        waiting: deque[tuple[int, Job]] = deque()  # drawn, and to be done (again)
        done: dict[int, DecodedClip | ClipError] = {}
        position, drawn, exhausted = 0, 0, False
        busy: list[_Worker] = []
        while not exhausted or position < drawn:
            idle = [worker for worker in self.workers if worker not in busy]
            while len(done) + len(busy) + len(waiting) < 2 * self.count and not exhausted:
                try:
                    waiting.append(next(source))
                    drawn += 1
                except StopIteration:
                    exhausted = True
            if waiting and not idle and len(self.workers) < self.count:
                self.workers.append(self._start())
                continue
            while idle and waiting:
                worker = idle.pop()
                limit = self.timeout + (self.startup if id(worker) in self.fresh else 0.0)
                index, job = waiting.popleft()
                try:
                    worker.give(index, job, limit)
                except (BrokenPipeError, OSError):  # died while idle
                    waiting.appendleft((index, job))
                    idle.append(self._replace(worker))
                    continue
                busy.append(worker)
            if position in done:
                yield done.pop(position)
                position += 1
                continue
            if not busy:
                continue
            first_deadline = min(worker.deadline for worker in busy)
            ready = wait([w.connection for w in busy], timeout=max(0.0, first_deadline - time.monotonic()))
            now = time.monotonic()
            for worker in list(busy):
                assert worker.job is not None
                failure: ClipError | None = None
                if worker.connection in ready:
                    try:
                        done[worker.index] = worker.connection.recv()
                        self.fresh.discard(id(worker))
                    except (EOFError, OSError):
                        worker.process.join()
                        code = worker.process.exitcode
                        failure = ClipError("crashed", f"{worker.job.path}: the decoder died (exit {code})")
                elif now >= worker.deadline:
                    failure = ClipError("timeout", f"{worker.job.path}: no result after {self.timeout:g} s")
                else:
                    continue
                busy.remove(worker)
                if failure is not None:
                    self._replace(worker)
                    if worker.job.backend is None:
                        waiting.appendleft((worker.index, Job(worker.job.path, "pyav", worker.job.audio)))
                    else:
                        done[worker.index] = failure


_END = object()


def prefetch(items: Iterable[Item], size: int) -> Generator[Item, None, None]:
    """Run an iterator in a thread, at most ``size`` items ahead; its exceptions come out here."""
    queue: Queue[Any] = Queue(maxsize=size)
    stopped = Event()

    def fill() -> None:
        try:
            for item in items:
                queue.put((item, None))
                if stopped.is_set():
                    return
            queue.put((_END, None))
        except BaseException as error:
            queue.put((_END, error))

    thread = Thread(target=fill, daemon=True)
    thread.start()
    try:
        while True:
            item, error = queue.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stopped.set()
        while thread.is_alive():  # let a producer that waits for room see that nobody reads
            while not queue.empty():
                queue.get_nowait()
            thread.join(timeout=0.05)
