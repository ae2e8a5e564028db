"""Claims: who is working on a shard, so that workers started twice do not do the same work twice.

A claim is a courtesy, not a lock. Correctness never rests on it: shards are renamed into place whole, and
two workers that do make the same shard make the same content, so the last complete one wins. A claim
ends when its worker is dead (same host), when it was not renewed for ``EXPIRY`` seconds (another host or
container), or when it cannot be read: claims are written whole, so that is not one.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from common.errors import MFMError
from common.files import Files, LocalFiles
from common.workers import Worker, this_worker
from common.writing import file_system_time, make_folder, temporary_beside, write_bytes, write_error

EXPIRY = 1800.0


@dataclass(frozen=True)
class Claim:
    """Who has a shard; ``worker`` None: the claim is unreadable. ``age``: seconds since it was renewed.

    ``owner`` is one run of the extraction, in which a scheduler may have several workers.
    """

    worker: Worker | None
    owner: str
    age: float

    @property
    def alive(self) -> bool:
        if self.worker is None or self.age > EXPIRY:
            return False
        return self.worker.alive() is not False

    @staticmethod
    def parse(data: bytes, age: float) -> Claim:
        """Never raises: whatever is no claim of ours is one that nobody has."""
        try:
            values = json.loads(data)
            host, place, started = values["host"], values.get("place", ""), values.get("started", "")
            pid, owner = values["pid"], values.get("owner", "")
            if not all(isinstance(value, str) for value in (host, place, started, owner)):
                return Claim(None, "", age)
            if not isinstance(pid, int) or isinstance(pid, bool) or pid < 1:
                return Claim(None, "", age)
            return Claim(_known(host, place, pid, started), owner, age)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return Claim(None, "", age)


def _known(host: str, place: str, pid: int, started: str) -> Worker:
    """The worker of a claim. Claims of older versions name host and process alone."""
    if not place and host == socket.gethostname():
        return Worker.here(pid)
    return Worker(host, place, pid, started)


class Claims:
    """Claims of one cache, in the name of one ``owner``. Remote caches have none: the last complete shard wins.

    Whoever ends must call :meth:`release_all`; :meth:`open` allows claims again.
    """

    def __init__(self, files: Files, owner: str = ""):
        self.files = files if isinstance(files, LocalFiles) else None
        self.owner = owner or uuid.uuid4().hex
        self._held: set[tuple[str, int]] = set()
        self._lock = threading.Lock()  # planning runs in another thread than writing
        self._closed = False

    @staticmethod
    def name(stage: str, shard: int) -> str:
        return f"{stage}/shard-{shard:05d}.claim"

    def _path(self, stage: str, shard: int) -> Path:
        assert self.files is not None
        return self.files.path(self.name(stage, shard))

    def find(self, stage: str, shard: int) -> Claim | None:
        if self.files is None:
            return None
        path = self._path(stage, shard)
        try:
            # Hosts need not agree about the time: the age is by the clock that stamps the files.
            return Claim.parse(path.read_bytes(), file_system_time(path.parent) - path.stat().st_mtime)
        except FileNotFoundError:
            return None
        except OSError:
            return Claim(None, "", 0.0)

    def take(self, stage: str, shard: int) -> bool:
        """False if another living worker has it. Raises :class:`WriteError` where claims cannot be written."""
        if self.files is None:
            return True
        with self._lock:
            if self._closed:
                return False
            claim = self.find(stage, shard)
            if claim is not None and claim.alive and claim.owner != self.owner:
                return False
            path = self._path(stage, shard)
            if claim is not None and not _bury(path, claim):
                return False
            if not _create(path, json.dumps({**asdict(this_worker()), "owner": self.owner}).encode()):
                return False  # somebody was quicker
            self._held.add((stage, shard))
            return True

    def renew(self, stage: str, shard: int) -> None:
        if self.files is not None and (stage, shard) in self._held:
            with suppress(OSError):  # taken away, or a full disk: the worst is that somebody does the same work
                os.utime(self._path(stage, shard))

    def release(self, stage: str, shard: int) -> None:
        """Give up a claim of this owner, whichever of its workers took it."""
        if self.files is None:
            return
        with self._lock:
            self._held.discard((stage, shard))
            claim = self.find(stage, shard)
            if claim is not None and claim.owner == self.owner:
                with suppress(OSError):
                    self._path(stage, shard).unlink(missing_ok=True)

    def release_all(self) -> None:
        """Give up all claims, and take none until :meth:`open`."""
        with self._lock:
            self._closed = True
        for stage, shard in list(self._held):
            self.release(stage, shard)

    def open(self) -> None:
        self._closed = False


def _create(path: Path, data: bytes) -> bool:
    """Write a file whole if there is none of this name; False if there is."""
    make_folder(path.parent)
    temporary = temporary_beside(path)
    try:
        write_bytes(temporary, data)
        os.link(temporary, path)
        return True
    except FileExistsError:
        return False
    except MFMError:
        raise
    except OSError:  # a file system without hard links
        return _create_without_links(path, data)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _create_without_links(path: Path, data: bytes) -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    except OSError as error:
        raise write_error(path, error) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except OSError as error:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        raise write_error(path, error) from error
    return True


def _bury(path: Path, claim: Claim) -> bool:
    """Remove a claim that was found dead, or our own. False if it is another by now: somebody was quicker.

    A rename is something that only one of several workers can do.
    """
    grave = temporary_beside(path)
    try:
        os.rename(path, grave)
        found = Claim.parse(grave.read_bytes(), 0.0)
        same = (found.worker, found.owner) == (claim.worker, claim.owner)
        if not same:
            os.link(grave, path)
    except OSError:  # gone already
        return not path.exists()
    finally:
        with suppress(OSError):
            grave.unlink(missing_ok=True)
    return same
