"""Where uploads and results are while the page runs: a private temporary folder that keeps nothing for long."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Lock, Thread

from filelock import FileLock, Timeout

from common.writing import write_error

PREFIX = "mfm-mapper-page-"
KEPT_SECONDS = 3600.0
_LOCK = ".in-use"


class Place:
    """A folder of this process alone, removed when it is left; what is in ``files`` goes ``kept_seconds`` after it
    was last written. Use as a context manager. Raises :class:`WriteError` where there is no room for it.

    What a killed process left is removed by the next one: its lock went with it.
    """

    def __init__(self, kept_seconds: float = KEPT_SECONDS):
        self.kept_seconds = kept_seconds
        self._used: list[Path] = []
        self._changing, self._left = Lock(), Event()

    def __enter__(self) -> Place:
        remove_abandoned()
        try:
            self.folder = Path(tempfile.mkdtemp(prefix=PREFIX)).resolve()
            self._lock = FileLock(self.folder / _LOCK)
            self._lock.acquire(timeout=0)
            self.files, self.examples = self.folder / "files", self.folder / "examples"
            self.files.mkdir()
            self.examples.mkdir()
        except OSError as error:
            raise write_error(tempfile.gettempdir(), error) from error
        self._left.clear()
        self._sweeper = Thread(target=self._sweep_now_and_then, daemon=True)
        self._sweeper.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._left.set()
        self._sweeper.join()
        self._lock.release()
        shutil.rmtree(self.folder, ignore_errors=True)

    def new_folder(self) -> Path:
        """An empty folder for the files of one result."""
        folder = self.files / uuid.uuid4().hex
        try:
            folder.mkdir()
        except OSError as error:
            raise write_error(folder, error) from error
        return folder

    @contextmanager
    def using(self, *paths: Path) -> Iterator[None]:
        """Keep these files, and all in these folders, until the work with them is done, however old they are."""
        resolved = [path.resolve() for path in paths]
        with self._changing:
            self._used += resolved
        try:
            yield
        finally:
            with self._changing:
                for path in resolved:
                    self._used.remove(path)

    def sweep(self) -> None:
        """Remove files older than ``kept_seconds``, and folders that this leaves empty."""
        oldest = time.time() - self.kept_seconds
        with self._changing:  # nothing begins to be used while it is looked at
            used = set(self._used)
            for name, _, files in os.walk(self.files, topdown=False):
                folder = Path(name)
                with suppress(OSError):  # gone meanwhile, or not empty
                    changed = folder.stat().st_mtime
                    for path in (folder / file for file in files):
                        if path.lstat().st_mtime < oldest and not used & {path, *path.parents}:
                            path.unlink()
                    if changed < oldest and folder != self.files and folder not in used:
                        folder.rmdir()

    def _sweep_now_and_then(self) -> None:
        while not self._left.wait(min(60.0, self.kept_seconds / 10)):
            self.sweep()


def remove_abandoned() -> None:
    """Remove the folders of pages that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(Timeout, OSError):
            if folder.is_symlink() or not (folder / _LOCK).exists():
                continue
            with FileLock(folder / _LOCK, timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
