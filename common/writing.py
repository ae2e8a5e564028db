"""The one way to write a file whole: a temporary name, fsync and rename.

A file under its final name is complete. What a killed writer leaves has a hidden name of one pattern, is no
input of anything (:func:`is_hidden`, :func:`visible_files`), and goes with the next run of the same command
(:func:`remove_leftovers`). Everything that stops a write is one :class:`WriteError`.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.errors import MFMError, WriteError
from common.workers import Worker, this_worker

# A temporary file that nobody has touched for so long belongs to nobody, whoever its writer was.
ABANDONED_SECONDS = 3600.0

_FULL = "free some space there, then run the same command again: what is complete stays"
_REASONS = {
    errno.ENOSPC: ("the disk is full", _FULL),
    errno.EDQUOT: ("the disk quota is used up", _FULL),
    errno.EFBIG: ("the file would be larger than the file system or a limit (ulimit -f) allows", _FULL),
    errno.EROFS: ("the file system is read-only", "choose a folder that can be written"),
    errno.EACCES: ("permission denied", "choose a folder that you may write, or change its permissions"),
    errno.EPERM: ("it is not permitted", "choose a folder that you may write, or change its permissions"),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "choose another path, or move that file away"),
    errno.EEXIST: ("a part of the path is a file, not a folder", "choose another path, or move that file away"),
    errno.EISDIR: ("there is a folder of this name", "choose another path, or move that folder away"),
    errno.ENAMETOOLONG: ("the name is longer than the file system allows", "choose a shorter name"),
}
# Faults that only writing has. The others may come from a file that was read meanwhile.
_WRITING_ONLY = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

_TEMPORARY = re.compile(r"^\.mfm-(?P<place>[0-9a-f]{12})-(?P<pid>\d+)-(?P<started>\d*)-[0-9a-f]{8}\.tmp(\.[^.]*)?$")
# Names that this process gave out. What is there of them when a command is interrupted goes then.
_own: set[Path] = set()
# Of versions before this module: ``.clip.123.tmp.wav``, ``.shard-00000.h5.host.123.89abcdef.tmp``.
_OLD_TEMPORARY = re.compile(r"^\..+\.\d+(\.[0-9a-f]{8})?\.tmp(\.[^.]+)?$")


def temporary_beside(path: str | Path) -> Path:
    """A hidden name in the folder of ``path`` that no other process of any host or container uses.

    It keeps the suffix, from which writers choose their format, and is short whatever ``path`` is called. For a
    file use :func:`replacing`; this is for folders that are renamed into place, which ``remove_leftovers`` knows too.
    """
    path, worker = Path(path), this_worker()
    suffix = path.suffix if len(os.fsencode(path.suffix)) <= 16 else ""
    token = uuid.uuid4().hex[:8]
    temporary = path.with_name(f".mfm-{worker.place}-{worker.pid}-{worker.started}-{token}.tmp{suffix}")
    _own.add(temporary.absolute())
    return temporary


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` with its suffix; rename it into place on success.

    The data is flushed to disk before the rename, so a file under its final name is whole. On any failure nothing
    is left behind, and what stood at ``path`` before stays. Raises :class:`WriteError` for a full disk, a read-only
    or forbidden folder, and a path through a file; other exceptions of the body pass as they are.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        make_folder(path.parent)
        try:
            yield temporary
        except Exception as error:
            if (fault := _fault_of_writing(error, path, temporary)) is not None:
                raise fault from error
            raise
        try:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
        except OSError as error:
            raise write_error(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
            _own.discard(temporary.absolute())


def write_bytes(path: str | Path, data: bytes | memoryview) -> None:
    """Write a file whole; raises :class:`WriteError`."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(data)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text whole; raises :class:`WriteError`."""
    write_bytes(path, text.encode())


def make_folder(folder: str | Path) -> Path:
    """The folder, made with its parents where it is not there; raises :class:`WriteError`."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error
    return Path(folder)


def write_error(path: str | Path, error: OSError) -> WriteError:
    """The typed error for a path that cannot be written: the reason, and what to do."""
    reason, advice = _REASONS.get(error.errno or 0, (str(error), "see that the folder is there and can be written"))
    return WriteError(f"cannot write {path}: {reason}; nothing was left behind. To go on: {advice}")


def _fault_of_writing(error: Exception, path: Path, temporary: Path) -> WriteError | None:
    """The typed error for what a library raised while it wrote ``temporary``; None if writing was not the cause."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (match := re.search(r"os error (\d+)", str(error))):  # libraries in Rust
        number = int(match[1])
    ours = {str(path), str(temporary)}
    named = str(getattr(error, "filename", None) or temporary)
    if number in _WRITING_ONLY or (number in _REASONS and named in ours):
        return write_error(path, OSError(number, os.strerror(number)))
    if isinstance(error, MFMError | ValueError | LookupError | TypeError):
        return None
    with suppress(OSError, AttributeError):  # some libraries do not say why a write failed
        if os.statvfs(path.parent).f_bavail == 0:
            return write_error(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    return None


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder survive a power cut, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # network file systems that cannot do it for folders
            raise
    finally:
        os.close(descriptor)


# --- what is an input, and what is left of dead writers -----------------------------------------------------


def is_hidden(name: str | Path) -> bool:
    """True for names that are never an input: hidden files, all temporary files among them."""
    return Path(name).name.startswith(".")


def visible_files(folder: str | Path, pattern: str = "*") -> list[Path]:
    """Files below ``folder`` that match a glob pattern, sorted, without hidden ones and those in hidden folders.

    Empty if there is no such folder. ``**/*.wav`` looks into folders, too.
    """
    folder = Path(folder)
    return sorted(
        path
        for path in folder.glob(pattern)
        if not any(part.startswith(".") for part in path.relative_to(folder).parts) and path.is_file()
    )


def is_temporary(name: str | Path) -> bool:
    """True for the name of a file or folder that was to be renamed into place."""
    name = Path(name).name
    return bool(_TEMPORARY.match(name) or _OLD_TEMPORARY.match(name))


def remove_leftovers(*folders: str | Path) -> list[Path]:
    """Remove temporary files and folders of dead writers directly in these folders; returns what was removed.

    Dead is a process of this host (and container) that is gone, and of another one if the file was not touched for
    ``ABANDONED_SECONDS`` by the file system's own clock. Never raises: what cannot be removed stays hidden.
    """
    removed = []
    for folder in map(Path, folders):
        try:
            found = [Path(entry.path) for entry in os.scandir(folder) if is_temporary(entry.name)]
        except OSError:
            continue
        now = None
        for path in found:
            if (alive := _writer_alive(path.name)) is None:
                now = file_system_time(folder) if now is None else now
            with suppress(OSError):
                if alive or (alive is None and now is not None and now - _touched(path) < ABANDONED_SECONDS):
                    continue
                _remove(path)
                removed.append(path)
    return removed


def remove_own_temporaries() -> None:
    """Remove what this process has begun and not finished, for the end of an interrupted command.

    A signal can interrupt a ``finally``, too, so that each writer's own clearing up is not enough.
    """
    for path in list(_own):
        with suppress(OSError):
            _remove(path)
        _own.discard(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _writer_alive(name: str) -> bool | None:
    match = _TEMPORARY.match(name)
    if match is None:
        return None
    return Worker("", match["place"], int(match["pid"]), match["started"]).alive()


def _touched(path: Path) -> float:
    inside = [entry.stat().st_mtime for entry in path.rglob("*")] if path.is_dir() else []
    return max([path.stat().st_mtime, *inside])


def file_system_time(folder: str | Path) -> float:
    """Now, in seconds, by the clock that stamps this folder's files: hosts of one file system need not agree.

    By this host's clock where the folder cannot be written.
    """
    probe = temporary_beside(Path(folder) / "clock")
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
            _own.discard(probe.absolute())
