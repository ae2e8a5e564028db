"""Who a process is, so that another can tell whether it still lives.

A process id alone is not unique: every container counts its own from 1, and a host gives it again.
"""

from __future__ import annotations

import hashlib
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Worker:
    """One process. ``place`` is the set of processes among which ``pid`` is unique: one container since one boot
    of one host. ``started`` is the kernel's time of its start ("" where there is no ``/proc``)."""

    host: str
    place: str
    pid: int
    started: str

    def alive(self) -> bool | None:
        """None: it cannot be known from here, as the process belongs to another place."""
        if self.place != _place():
            return None
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:
            pass  # somebody else's, and there
        return self.started == _started(self.pid)

    @staticmethod
    def here(pid: int) -> Worker:
        """The process that has this id here and now."""
        return Worker(socket.gethostname(), _place(), pid, _started(pid))


def this_worker() -> Worker:
    return Worker.here(os.getpid())


@cache
def _place() -> str:
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _started(pid: int) -> str:
    try:
        # The name of the program, in brackets, may hold spaces and brackets itself.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError, UnicodeDecodeError):
        return ""
