"""Run the public commands in processes that are killed: at random moments, or at a marked step on the disk."""

from __future__ import annotations

import fcntl
import importlib
import multiprocessing
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

_CONTEXT = multiprocessing.get_context("forkserver")
# Imported once in the server, so that a killed run costs its work and not its imports.
_CONTEXT.set_forkserver_preload(["tests.killing", "tests.preloaded"])
_STEPS: dict[ModuleType, tuple[str, ...]] = {os: ("replace", "rename", "link", "fsync", "unlink", "remove", "mkdir")}


@dataclass
class Ended:
    """How a command ended. ``steps``: how many steps it did on the disk in the watched folder."""

    code: int
    seconds: float
    steps: int
    output: str


def _watch(folder: Path, counter: Path, kill_at: int | None, after: bool, victims: tuple[int, ...]) -> None:
    """Count the calls that change the folder, and die at one of them: before it is done, or after.

    The counter is a file: workers, which write most, count on. ``victims`` die beside the process itself.
    """

    def inside(argument: object) -> bool:
        try:
            path = os.readlink(f"/proc/self/fd/{argument}") if isinstance(argument, int) else os.fspath(argument)
        except (OSError, TypeError):
            return False
        return str(path).startswith(str(folder))

    def next_number() -> int:
        with open(counter, "a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            number = int(file.read() or 0) + 1
            file.truncate(0)
            file.write(str(number))
        return number

    def die() -> None:
        for victim in (*victims, os.getpid()):
            os.kill(victim, signal.SIGKILL)

    def watched(function):
        def call(*arguments, **options):
            if not any(inside(argument) for argument in arguments):
                return function(*arguments, **options)
            mine = next_number()
            if mine == kill_at and not after:
                die()
            result = function(*arguments, **options)
            if mine == kill_at:
                die()
            return result

        return call

    for module, names in _STEPS.items():
        for name in names:
            setattr(module, name, watched(getattr(module, name)))


def watch_worker(folder: str, counter: str, kill_at: int | None, after: bool, victims: tuple[int, ...]) -> None:
    """:func:`_watch` in a worker; the command dies with it."""
    _watch(Path(folder), Path(counter), kill_at, after, victims)


def _run(arguments: list[str], folder: Path, note: Path, kill_at: int | None, after: bool) -> None:
    output = os.open(note / "output", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.setpgid(0, 0)
    _watch(folder, note / "steps", kill_at, after, ())
    how = (str(folder), str(note / "steps"), kill_at, after, (os.getpid(),))
    decoding = importlib.import_module("pipeline.decoding")
    watching = f"from tests.killing import watch_worker; watch_worker(*{how!r}); "
    head, serve = decoding._BOOT.split("from pipeline", 1)
    decoding._BOOT = f"{head}{watching}from pipeline{serve}"
    sys.argv = arguments
    importlib.import_module(f"{arguments[0]}.__main__").app(arguments[1:], prog_name=arguments[0])


def run_command(
    *arguments: object,
    folder: Path,
    note: Path,
    kill_after: float | None = None,
    kill_at: int | None = None,
    after: bool = False,
    signal_number: int = signal.SIGKILL,
) -> Ended:
    """``python -m arguments`` in a process of its own, killed after seconds or at the n-th step in ``folder``."""
    shutil.rmtree(note, ignore_errors=True)
    note.mkdir(parents=True)
    started = time.monotonic()
    process = _CONTEXT.Process(target=_run, args=([str(a) for a in arguments], folder, note, kill_at, after))
    process.start()
    if kill_after is not None:
        process.join(kill_after)
        if process.is_alive():
            os.kill(process.pid, signal_number)
    process.join(300)
    assert process.exitcode is not None, "the command hangs"
    steps = note / "steps"
    count = int(steps.read_text() or 0) if steps.is_file() else 0
    return Ended(process.exitcode, time.monotonic() - started, count, (note / "output").read_text(errors="replace"))
