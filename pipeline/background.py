"""Calls made in workers while this process does something else, such as a sampler that must not wait for files."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from multiprocessing.connection import Pipe
from threading import Condition, Thread
from typing import Any

from common.errors import MFMError
from pipeline.decoding import Call, DecodePool, _Worker
from presets.config import MediaConfig


class Background:
    """A bounded queue of calls to killable workers (:class:`DecodePool`); use as a context manager.

    There is one worker at first and at most ``workers``: another one starts while more than half of the queue is
    waiting. Leaving the context ends them, whatever they do.
    """

    def __init__(self, workers: int, timeout_seconds: float, most: int):
        """``most``: calls that may be unfinished before :meth:`submit` waits."""
        self.most = max(1, most)
        self._workers = max(1, workers)
        self._pool = DecodePool(MediaConfig(), 1, timeout_seconds)
        self._changed = Condition()
        self._queue: deque[tuple[Future[Any], Call]] = deque()
        self._open = 0
        self._stopped = False
        self._broken: BaseException | None = None
        self._woken, self._wake = Pipe(duplex=False)
        self._thread = Thread(target=self._drive, daemon=True)

    def __enter__(self) -> Background:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        with self._changed:
            self._stopped = True
        self._wake.send_bytes(b"!")
        self._thread.join()
        self._pool.__exit__()
        for future, _ in self._queue:
            future.cancel()
        self._wake.close()
        self._woken.close()

    def submit(self, call: Call, ahead: bool = False) -> Future[Any]:
        """The call's result, or the :class:`MFMError` it raised, when it is there.

        Waits while ``most`` calls are unfinished. ``ahead``: before all that wait, and without waiting for room.
        """
        future: Future[Any] = Future()
        with self._changed:
            self._changed.wait_for(lambda: ahead or self._open < self.most or self._broken is not None)
            if self._broken is not None:
                raise self._broken
            self._open += 1
            if 2 * self._open > self.most:
                self._grow()
            if ahead:
                self._queue.appendleft((future, call))
            else:
                self._queue.append((future, call))
        self._wake.send_bytes(b"!")
        return future

    def hurry(self) -> None:
        """Nothing else is to be done here: all workers may be used for what is left, if it is worth a start."""
        with self._changed:
            for _ in range(self._open // 4):
                self._grow()
        self._wake.send_bytes(b"!")

    def _grow(self) -> None:
        self._pool.count = min(self._pool.count + 1, self._workers)

    def _drive(self) -> None:
        running: dict[int, Future[Any]] = {}
        waiting: deque[tuple[int, Call]] = deque()
        busy: list[_Worker] = []
        number = 0
        try:
            while True:
                with self._changed:
                    if self._stopped:
                        return
                    while self._queue and len(waiting) + len(busy) < self._pool.count:
                        future, call = self._queue.popleft()
                        running[number] = future
                        waiting.append((number, call))
                        number += 1
                done: dict[int, Any] = {}
                self._pool._hand_out(waiting, busy)
                self._pool._collect(waiting, busy, done, self._woken)
                while self._woken.poll():
                    self._woken.recv_bytes()
                for index, result in done.items():
                    _settle(running.pop(index), result)
                with self._changed:
                    self._open -= len(done)
                    self._changed.notify_all()
        except BaseException as error:  # no process can be started, for instance: whoever waits is told
            with self._changed:
                self._broken = error
                self._changed.notify_all()
            for future in [*running.values(), *(future for future, _ in self._queue)]:
                future.set_exception(error)
            self._queue.clear()
        finally:
            for worker in busy:
                worker.stop()
                self._pool.workers.remove(worker)


def _settle(future: Future[Any], result: Any) -> None:
    if isinstance(result, MFMError):
        future.set_exception(result)
    else:
        future.set_result(result)
