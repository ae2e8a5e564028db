"""Read and decode media in worker processes that can be killed.

A file can make a decoder loop for ever in native code, holding the interpreter lock; a thread could not be
stopped, a process can. Whatever opens a user's file goes through here: :class:`DecodePool` for many clips,
:mod:`pipeline.background` beside other work, :func:`decode_killable` and :func:`killable` for one call. A clip whose
worker dies or outruns the limit is tried once more with the other decoder, if there is one, in a new worker, then
given up.

Why not pebble's ProcessPool, which has limits and notices deaths, too: it starts workers through multiprocessing,
which runs the user's own script again in each of them (or forks a process that has threads), its map draws all calls
before the first result, and it has no second way to try.
"""

from __future__ import annotations

import atexit
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from queue import Queue
from threading import Event, Lock, Thread
from typing import Any, TypeVar

from common.errors import ClipError, MFMError
from pipeline.media import DecodedClip, decode_clip, second_backend
from presets.config import MediaConfig

Item = TypeVar("Item")
_READY = "ready"
_BOOT = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); sys.path[:] = sys.argv[2:]; "
    "from pipeline.decoding import serve; serve(int(sys.argv[1]))"
)


@dataclass(frozen=True)
class Call:
    """``function(*arguments, **keywords)``, to be made in a worker; both ends must be able to import it.

    ``path`` names the file in messages. ``seconds``: its limit, None for the pool's. ``otherwise``: what
    to call instead if the worker died or outran the limit.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any] = field(default_factory=dict)
    path: str = ""
    seconds: float | None = None
    otherwise: Call | None = None


@dataclass(frozen=True)
class Job:
    """One window of one file to decode; the fields are those of :func:`pipeline.media.decode_clip`."""

    path: str
    backend: str | None = None
    audio: bool = True
    start: float = 0.0
    blank: bool = False
    rates: tuple[int, ...] = ()


Decoder = Callable[[Job, MediaConfig], DecodedClip]


def decode_job(job: Job, config: MediaConfig) -> DecodedClip:
    return decode_clip(
        Path(job.path),
        config,
        start=job.start,
        backend=job.backend,
        audio=job.audio,
        blank=job.blank,
        rates=job.rates,
    )


def _decoding(decoder: Decoder, job: Job, config: MediaConfig, seconds: float | None = None) -> Call:
    other = None
    if job.backend is None and (second := second_backend(config)) is not None:
        other = Call(decoder, (replace(job, backend=second), config), path=job.path, seconds=seconds)
    return Call(decoder, (job, config), path=job.path, seconds=seconds, otherwise=other)


def serve(descriptor: int) -> None:
    """What a worker does: take calls from the socket until its other end is gone."""
    os.nice(10)  # where cores are few, the encoder comes first: decoding is ahead of it anyway
    connection = Connection(descriptor)
    result: Any = _READY
    while True:
        try:
            connection.send(result)
            call, seconds, folder = connection.recv()
        except (EOFError, OSError):
            return
        with suppress(OSError):
            os.chdir(folder)  # a path may be relative to where its caller is by now
        # The system's own clock ends a worker that hangs and whose parent is gone.
        signal.alarm(math.ceil(seconds) + 2)
        try:
            result = call.function(*call.arguments, **call.keywords)
        except MFMError as error:
            result = error
        except Exception as error:  # a file must never end the job: whatever it broke is its fault
            result = ClipError("unreadable", f"{call.path}: {type(error).__name__}: {error}")
        signal.alarm(0)


class _Worker:
    def __init__(self, startup_seconds: float):
        ours, theirs = socket.socketpair()
        # Not multiprocessing: it would run the user's own script again in the worker. A process group of
        # its own, because Ctrl-C is for the parent, who then ends its workers.
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, str(theirs.fileno()), *sys.path],
            pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, process_group=0,
        )  # fmt: skip
        theirs.close()
        self.connection = Connection(ours.detach())
        self.ready = False
        self.startup = startup_seconds
        self.index = -1
        self.call: Call | None = None
        self.seconds = self.deadline = 0.0

    def give(self, index: int, call: Call, seconds: float) -> None:
        self.index, self.call, self.seconds = index, call, seconds
        self.deadline = time.monotonic() + (seconds if self.ready else self.startup)
        folder = ""
        with suppress(OSError):  # one that was removed
            folder = os.getcwd()
        self.connection.send((call, seconds, folder))

    def receive(self) -> Any:
        """What it sent; ``_READY`` starts the clock of the call that waits there. Raises EOFError, OSError."""
        result = self.connection.recv()
        if not self.ready:
            self.ready, self.deadline = True, time.monotonic() + self.seconds
        return result

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.connection.close()


class DecodePool:
    """At most ``workers`` processes, started when first needed; use as a context manager.

    ``timeout_seconds`` is the limit of one call; a worker that starts has ``startup_seconds`` for that.
    Not for several threads at once.
    """

    def __init__(
        self,
        config: MediaConfig,
        workers: int,
        timeout_seconds: float,
        decoder: Decoder = decode_job,
        startup_seconds: float = 60.0,
    ):
        self.config, self.timeout, self.startup, self.decoder = config, timeout_seconds, startup_seconds, decoder
        self.count = max(1, workers)
        self.workers: list[_Worker] = []
        self._owner = os.getpid()
        self._abandoned = False

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *exception: object) -> None:
        if os.getpid() == self._owner:  # not in a fork of it
            for worker in self.workers:
                worker.stop()
        self.workers = []

    def _replace(self, worker: _Worker) -> _Worker:
        worker.stop()
        place = self.workers.index(worker)
        self.workers[place] = _Worker(self.startup)
        return self.workers[place]

    def abandon(self) -> None:
        """From another thread than the one that reads :meth:`map`: kill the workers, so that it ends."""
        self._abandoned = True
        for worker in list(self.workers):
            worker.process.kill()

    def decode(self, jobs: Iterable[Job]) -> Iterator[DecodedClip | ClipError]:
        """One result a job, in the order of the jobs; see :meth:`map`."""
        return self.map(_decoding(self.decoder, job, self.config) for job in jobs)

    def call(self, call: Call) -> Any:
        """The result of one call. Raises what it raised, or :class:`ClipError` ``timeout`` or ``crashed``."""
        (result,) = self.map([call])
        if isinstance(result, MFMError):
            raise result
        return result

    def map(self, calls: Iterable[Call]) -> Generator[Any, None, None]:
        """The result of each call, or its error, in their order; they are drawn as workers become free.

        At most two calls a worker are ahead of the reader.
        """
        source = enumerate(calls)
        waiting: deque[tuple[int, Call]] = deque()  # drawn, and to be made (again)
        done: dict[int, Any] = {}
        position, drawn, exhausted = 0, 0, False
        busy: list[_Worker] = []
        self._abandoned = False
        try:
            while (not exhausted or position < drawn) and not self._abandoned:
                while len(done) + len(busy) + len(waiting) < 2 * self.count and not exhausted:
                    try:
                        waiting.append(next(source))
                        drawn += 1
                    except StopIteration:
                        exhausted = True
                self._hand_out(waiting, busy)
                if position in done:
                    yield done.pop(position)
                    position += 1
                    continue
                if busy:
                    self._collect(waiting, busy, done)
        finally:  # nobody waits for what they do: the next reader must not get it
            for worker in busy:
                worker.stop()
                self.workers.remove(worker)

    def _hand_out(self, waiting: deque[tuple[int, Call]], busy: list[_Worker]) -> None:
        idle = [worker for worker in self.workers if worker not in busy]
        while waiting and (idle or len(self.workers) < self.count):
            if not idle:
                self.workers.append(_Worker(self.startup))
                idle.append(self.workers[-1])
            worker = idle.pop()
            index, call = waiting[0]
            try:
                worker.give(index, call, self.timeout if call.seconds is None else call.seconds)
            except (BrokenPipeError, OSError):  # died while idle
                idle.append(self._replace(worker))
                continue
            waiting.popleft()
            busy.append(worker)

    def _collect(
        self,
        waiting: deque[tuple[int, Call]],
        busy: list[_Worker],
        done: dict[int, Any],
        also: Connection | None = None,
    ) -> None:
        """Wait until something happens; take results, and replace workers that died or took too long.

        ``also``: something to be read here ends the waiting, too.
        """
        first = min((worker.deadline for worker in busy), default=math.inf)
        limit = None if math.isinf(first) else max(0.0, first - time.monotonic())
        ready = wait([*(w.connection for w in busy), *([also] if also else [])], timeout=limit)
        now = time.monotonic()
        for worker in list(busy):
            call, failure = worker.call, None
            assert call is not None
            if worker.connection in ready:
                started = worker.ready
                try:
                    result = worker.receive()
                    if not started:
                        continue
                    done[worker.index] = result
                except (EOFError, OSError):
                    code = worker.process.wait()
                    failure = ClipError("crashed", f"{call.path}: the decoder died (exit {code})")
            elif now >= worker.deadline:
                failure = ClipError("timeout", f"{call.path}: no result after {worker.seconds:g} s")
            else:
                continue
            busy.remove(worker)
            if failure is not None:
                worker.stop()
                self.workers.remove(worker)
                if call.otherwise is not None:
                    waiting.appendleft((worker.index, call.otherwise))
                else:
                    done[worker.index] = failure


_shared: DecodePool | None = None
_lock = Lock()


def _call_shared(call: Call) -> Any:
    """In the one worker of this process that single calls share, started with the first of them."""
    global _shared
    with _lock:
        if _shared is None or _shared._owner != os.getpid():
            _shared = DecodePool(MediaConfig(), 1, 60.0)
            atexit.register(_shared.__exit__)
        return _shared.call(call)


def killable(function: Callable[..., Any], path: str | Path, *arguments: Any, seconds: float, **keywords: Any) -> Any:
    """``function(path, *arguments, **keywords)`` in a worker that is killed after ``seconds``.

    Raises what the function raised if it is one of our typed errors, else :class:`ClipError`: ``timeout``,
    ``crashed``, or ``unreadable`` with the error in its message.
    """
    return _call_shared(Call(function, (path, *arguments), keywords, path=str(path), seconds=seconds))


def decode_killable(
    path: str | Path,
    config: MediaConfig,
    *,
    seconds: float,
    start: float = 0.0,
    backend: str | None = None,
    audio: bool = True,
    blank: bool = False,
) -> DecodedClip:
    """:func:`pipeline.media.decode_clip` in a worker that is killed after ``seconds``, then the other decoder.

    Raises :class:`ClipError`.
    """
    job = Job(str(path), backend, audio, start, blank)
    return _call_shared(_decoding(decode_job, job, config, seconds))


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
        if isinstance(items, Generator):  # what it holds, such as busy workers, is let go now
            items.close()
