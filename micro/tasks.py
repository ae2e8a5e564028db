"""Many pieces of work in processes of one thread each: what waits for what, the largest first."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import active_children, get_context, parent_process
from threading import Thread
from typing import Any

import torch


@dataclass(frozen=True)
class Task:
    """A function of a module and its arguments, under a name of its own.

    ``cost``: of two that can begin, the larger does. ``after``: names of tasks; those that are not among the tasks
    count as done. ``device``: where it computes; those of an accelerator have processes of their own.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    cost: float = 1.0
    after: tuple[str, ...] = ()
    device: str = "cpu"


class Workers:
    """``count`` processes for tasks of the CPU, ``on_device`` for those of an accelerator, kept until the end.

    With a count of 1 all is done in this process.
    """

    def __init__(self, count: int, on_device: int = 12):
        self.counts = {True: count, False: on_device}
        self._pools: dict[bool, ProcessPoolExecutor] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        if kind is not None and self._pools:  # after an error, or Ctrl-C, nobody waits for a mapper to be trained
            for process in active_children():
                process.terminate()
        for pool in self._pools.values():
            pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, task: Task) -> Future[tuple[Any, float]]:
        kind = task.device == "cpu"
        if self.counts[True] < 2:
            return _done(task)
        if kind not in self._pools:
            self._pools[kind] = ProcessPoolExecutor(
                self.counts[kind], mp_context=get_context("spawn"), initializer=_begin_worker
            )
        return self._pools[kind].submit(_work, task)

    def through(self, tasks: Sequence[Task], note: Callable[[str], None]) -> dict[str, Any]:
        """Do the tasks; what each returned, by name. Raises the first error, and begins nothing after it.

        What is done is noted as ``3 of 18: <name>, 12 s``.
        """
        order = {task.name: place for place, task in enumerate(tasks)}
        waiting = sorted(tasks, key=lambda task: (-task.cost, order[task.name]))
        results: dict[str, Any] = {}
        running: dict[Future[tuple[Any, float]], Task] = {}
        while waiting or running:
            busy = [task.device == "cpu" for task in running.values()]
            free = {kind: count - busy.count(kind) for kind, count in self.counts.items()}
            if self.counts[True] < 2:
                free = {kind: 1 - len(running) for kind in free}
            for task in list(waiting):
                kind = task.device == "cpu"
                if free[kind] > 0 and all(name in results or name not in order for name in task.after):
                    waiting.remove(task)
                    running[self._submit(task)] = task
                    free[kind] -= 1
                    if self.counts[True] < 2:
                        break
            if not running:
                raise ValueError(f"tasks wait for each other: {', '.join(task.name for task in waiting)}")
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                task = running.pop(future)
                results[task.name], seconds = future.result()
                note(f"{len(results)} of {len(tasks)}: {task.name}, {seconds:.0f} s")
        return results


def _done(task: Task) -> Future[tuple[Any, float]]:
    future: Future[tuple[Any, float]] = Future()
    future.set_result(_work(task))
    return future


def _work(task: Task) -> tuple[Any, float]:
    started = time.monotonic()
    return task.function(*task.arguments), time.monotonic() - started


def _begin_worker() -> None:
    from common.runtime import quiet_libraries

    quiet_libraries()
    torch.set_num_threads(1)
    parent = parent_process()
    assert parent is not None

    def die_with_it() -> None:  # a worker that outlives a killed study would write into its folder beside the next
        parent.join()
        os._exit(1)

    Thread(target=die_with_it, daemon=True).start()
