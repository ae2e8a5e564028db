"""Whether a file or folder can be written: looked at before any work, so that hours do not end in an error."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from common.errors import WriteError
from common.writing import write_error


def check_output(path: Path, inputs: Iterable[Path] = ()) -> None:
    """Raise :class:`WriteError` if a file cannot be written at ``path``, or one of ``inputs`` is there."""
    try:
        there = path.stat()
    except FileNotFoundError:
        there = None
    except OSError as error:
        raise write_error(path, error) from error
    if there is not None:
        if stat.S_ISDIR(there.st_mode):
            raise write_error(path, OSError(errno.EISDIR, ""))
        if not stat.S_ISREG(there.st_mode):
            raise WriteError(f"cannot write {path}: it is a device or a pipe, no file. To go on: choose another path")
        for given in inputs:
            with suppress(OSError):
                if os.path.samestat(there, given.stat()):
                    raise WriteError(
                        f"cannot write {path}: it is the input {given} itself, which is never written over. "
                        f"To go on: choose another path"
                    )
    check_folder(path.parent)


def check_folder(folder: Path) -> None:
    """Raise :class:`WriteError` if ``folder`` is not there and cannot be made, or nothing can be written in it."""
    place = folder.absolute()
    try:
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            raise write_error(folder, OSError(errno.ENOTDIR, ""))
        if os.statvfs(place).f_flag & os.ST_RDONLY:
            raise write_error(folder, OSError(errno.EROFS, ""))
        if not os.access(place, os.W_OK | os.X_OK):
            raise write_error(folder, OSError(errno.EACCES, ""))
    except OSError as error:
        raise write_error(folder, error) from error
