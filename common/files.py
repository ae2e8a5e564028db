"""Where the cache's files lie: a local folder, or an object store through fsspec.

A write is complete or absent: locally through :mod:`common.writing`; object stores do as much with every put.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import fsspec

from common.errors import InputError, WriteError
from common.writing import is_hidden, write_bytes


class Files(Protocol):
    """Names are relative, with forward slashes: ``cavp/shard-00000.h5``."""

    root: str

    def exists(self, name: str) -> bool: ...

    def list(self, folder: str) -> list[str]:
        """Names directly in a folder, sorted, without hidden ones; empty if there is no such folder."""
        ...

    def read(self, name: str) -> bytes: ...

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Complete or absent; raises :class:`WriteError`, on a full disk for instance."""
        ...

    def remove(self, name: str) -> None: ...

    def size(self, name: str) -> int: ...

    def describe(self, name: str) -> str: ...


class LocalFiles:
    """A folder on this machine or on a shared file system."""

    def __init__(self, root: str | Path):
        self.root = str(root)

    def path(self, name: str) -> Path:
        return Path(self.root) / name

    def exists(self, name: str) -> bool:
        return self.path(name).is_file()

    def list(self, folder: str) -> list[str]:
        path = self.path(folder)
        try:
            return sorted(name for name in os.listdir(path) if not is_hidden(name))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error

    def read(self, name: str) -> bytes:
        return self.path(name).read_bytes()

    def write(self, name: str, data: bytes | memoryview) -> None:
        write_bytes(self.path(name), data)

    def remove(self, name: str) -> None:
        self.path(name).unlink(missing_ok=True)

    def size(self, name: str) -> int:
        return self.path(name).stat().st_size

    def describe(self, name: str) -> str:
        return str(self.path(name))


class RemoteFiles:
    """An fsspec URL such as ``s3://bucket/cache``; every put there is whole or absent.

    Raises :class:`InputError` where the store cannot be reached, and :class:`WriteError` where it cannot be written.
    """

    def __init__(self, url: str):
        self.root = url.rstrip("/")
        try:
            self.filesystem, self.prefix = fsspec.core.url_to_fs(self.root)
        except (ValueError, ImportError) as error:  # an unknown scheme; one whose package is not installed
            raise InputError(f"cannot use {url}: {error}") from error

    def _path(self, name: str) -> str:
        return f"{self.prefix}/{name}".rstrip("/")

    @contextmanager
    def _reaching(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:  # every store has errors of its own
            raise InputError(f"cannot reach {self.describe(name)}: {type(error).__name__}: {error}") from error

    def exists(self, name: str) -> bool:
        with self._reaching(name):
            return bool(self.filesystem.isfile(self._path(name)))

    def list(self, folder: str) -> list[str]:
        path = self._path(folder)
        self.filesystem.invalidate_cache()
        with self._reaching(folder):
            if not self.filesystem.isdir(path):
                return []
            entries = [str(entry).rstrip("/") for entry in self.filesystem.ls(path, detail=False)]
        names = [entry.rsplit("/", 1)[-1] for entry in entries]
        return sorted(name for name in names if not is_hidden(name))

    def read(self, name: str) -> bytes:
        with self._reaching(name):
            return bytes(self.filesystem.cat_file(self._path(name)))

    def write(self, name: str, data: bytes | memoryview) -> None:
        try:
            self.filesystem.makedirs(self._path(name).rsplit("/", 1)[0], exist_ok=True)
            self.filesystem.pipe_file(self._path(name), bytes(data))
        except Exception as error:  # every store has errors of its own
            raise WriteError(f"cannot write {self.describe(name)}: {type(error).__name__}: {error}") from error

    def remove(self, name: str) -> None:
        if self.exists(name):
            with self._reaching(name):
                self.filesystem.rm_file(self._path(name))

    def size(self, name: str) -> int:
        with self._reaching(name):
            return int(self.filesystem.size(self._path(name)))

    def describe(self, name: str) -> str:
        return f"{self.root}/{name}"


def open_files(root: str | Path) -> Files:
    """Local for a path or a ``file://`` URL, fsspec for others (``scheme://``)."""
    root = str(root).removeprefix("file://") if str(root).startswith("file:///") else root
    return RemoteFiles(str(root)) if "://" in str(root) else LocalFiles(root)
