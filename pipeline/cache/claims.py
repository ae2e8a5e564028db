"""Claims: who is working on a shard, so that workers started twice do not do the same work twice.

A claim is a courtesy, not a lock. Correctness never rests on it: shards are renamed into place whole, and
two workers that do make the same shard make the same content, so the last complete one wins. A claim
ends when its worker is dead (same host) or has not renewed it for ``EXPIRY`` seconds (another host).
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import dataclass

from pipeline.cache.files import Files, LocalFiles

EXPIRY = 1800.0


@dataclass(frozen=True)
class Claim:
    host: str
    pid: int
    age: float

    @property
    def alive(self) -> bool:
        if self.age > EXPIRY:
            return False
        if self.host != socket.gethostname():
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    @property
    def mine(self) -> bool:
        return self.host == socket.gethostname() and self.pid == os.getpid()


class Claims:
    """Claims of one cache. Remote caches have none: there the last complete shard wins."""

    def __init__(self, files: Files):
        self.files = files if isinstance(files, LocalFiles) else None

    @staticmethod
    def name(stage: str, shard: int) -> str:
        return f"{stage}/shard-{shard:05d}.claim"

    def find(self, stage: str, shard: int) -> Claim | None:
        if self.files is None:
            return None
        path = self.files.path(self.name(stage, shard))
        try:
            values = json.loads(path.read_text())
            return Claim(values["host"], values["pid"], time.time() - path.stat().st_mtime)
        except (FileNotFoundError, json.JSONDecodeError, KeyError):
            return None

    def take(self, stage: str, shard: int, over: bool = False) -> bool:
        """False if another living worker has it. Taking over a dead claim is atomic enough: see above.

        ``over`` takes it from the living, too: for a scheduler that knows its worker to be lost.
        """
        if self.files is None:
            return True
        claim = self.find(stage, shard)
        if claim is not None and claim.alive and not claim.mine and not over:
            return False
        path = self.files.path(self.name(stage, shard))
        if claim is not None:
            path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:  # somebody was quicker
            return False
        with os.fdopen(descriptor, "w") as file:
            json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)
        return True

    def renew(self, stage: str, shard: int) -> None:
        if self.files is not None:
            path = self.files.path(self.name(stage, shard))
            if path.exists():
                os.utime(path)

    def release(self, stage: str, shard: int) -> None:
        claim = self.find(stage, shard)
        if self.files is not None and claim is not None and claim.mine:
            self.files.remove(self.name(stage, shard))
