"""``torch.save`` files of any age and of anyone, read without running code of theirs.

Both layouts are read here rather than by ``torch.load``: with ``weights_only`` it refuses every file that holds
more than plain containers, as most files of training scripts do; without it, it runs what the file says (a pickle
of another module, a TorchScript archive, source files to compare).
"""

from __future__ import annotations

import io
import mmap
import struct
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import WeightsError
from pipeline.encoders.pickled_values import RefusedError, Storage, StorageType
from pipeline.encoders.unpickling import Unpickler

_MAGIC = 0x1950A86A20F9469CFC6C  # what torch.serialization begins files of the old layout with
_PROTOCOL = 1001


class _CutShortError(Exception):
    """The file ends before what it describes."""


class _OtherFileError(Exception):
    """The file is something else; the message says what."""


@dataclass(frozen=True)
class TorchFile:
    """What a file holds, and the names of what stand-ins were put in place of."""

    content: Any
    not_read: frozenset[str]


def read_torch_file(path: str | Path) -> TorchFile:
    """Tensors, arrays and plain containers of a ``torch.save`` file; the rest as stand-ins.

    Tensors of the zip layout stay on the disk until they are used (memory mapped). Nothing in the file is run.
    Raises :class:`WeightsError`, which says whether the file is cut short, is no such file, or asks for what is
    not done.
    """
    path = Path(path)
    wrong = f"{path} cannot be read as a checkpoint"
    try:
        with path.open("rb") as file:
            start = file.read(4)
        return _read_zip(path) if start == b"PK\x03\x04" else _read_legacy(path)
    except RefusedError as error:
        raise WeightsError(f"{wrong}: it holds what is refused: {error}") from error
    except _CutShortError as error:
        raise WeightsError(f"{wrong}: it is cut short ({error}); fetch it again") from error
    except _OtherFileError as error:
        raise WeightsError(f"{wrong}: it is not one ({error})") from error
    except Exception as error:  # a damaged pickle can end in any error of the values that it makes
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise WeightsError(f"{wrong}: it is damaged ({reason}); fetch it again") from error


def _storage_fields(fields: tuple[Any, ...]) -> tuple[torch.dtype, str, int]:
    """dtype, key and bytes of a reference to a storage: (type, key, device, count, ...)."""
    if len(fields) < 4 or not isinstance(fields[0], StorageType) or not isinstance(fields[1], (str, int)):
        raise RefusedError("a reference to a storage of an unknown kind")
    if type(fields[3]) is not int or fields[3] < 0:
        raise RefusedError("a storage of a size that is no whole number")
    return fields[0].dtype, str(fields[1]), fields[3] * fields[0].dtype.itemsize


def _read_zip(path: Path) -> TorchFile:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise _CutShortError("the end of its archive is missing") from error
    size = path.stat().st_size
    with archive, path.open("rb") as file:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise _OtherFileError("a zip archive of something else")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}constants.pkl" in entries:
            raise RefusedError("it is a TorchScript archive, a program; save the state_dict of that model")
        whole = torch.UntypedStorage.from_file(str(path), False, size)  # private: never written to

        def place(name: str) -> tuple[int, int]:
            """Where the bytes of an entry are, behind its own header."""
            if (entry := entries.get(name)) is None:
                raise _CutShortError(f"its entry {name} is missing")
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                raise RefusedError("its entries are compressed or encrypted, as torch.save never does")
            file.seek(entry.header_offset)
            header = file.read(30)
            if header[:4] != b"PK\x03\x04":
                raise ValueError(f"its entry {name} is not where the archive says")
            start = entry.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
            if start + entry.file_size > size:
                raise _CutShortError(f"its entry {name} ends behind the file")
            return start, entry.file_size

        storages: dict[str, torch.UntypedStorage] = {}

        def storage(fields: tuple[Any, ...]) -> Storage:
            dtype, key, count = _storage_fields(fields)
            if key not in storages:
                start, length = place(f"{root}data/{key}")
                part = whole[start : start + length]
                storages[key] = part.clone() if start % 16 else part  # torch aligns to 64, other writers may not
            if count > storages[key].nbytes():
                raise _CutShortError(f"its entry {root}data/{key} is shorter than its tensors")
            return Storage(storages[key], dtype)

        place(pickles[0])
        order = f"{root}byteorder"
        if order in entries and place(order)[1] < 16 and archive.read(order).decode("latin1") != sys.byteorder:
            raise RefusedError("it was written on a machine of another byte order")
        reader = Unpickler(io.BytesIO(archive.read(pickles[0])), storage)
        return TorchFile(reader.load(), frozenset(reader.not_read))


def _read_legacy(path: Path) -> TorchFile:
    """Magic number, protocol, system, the object, keys of its storages, their bytes (torch before 1.6)."""
    size = path.stat().st_size
    if not size:
        raise _CutShortError("it is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:1] != b"\x80":
            raise _OtherFileError(_what_it_is(path, content[:512]))
        storages: dict[str, torch.UntypedStorage] = {}
        sizes: dict[str, int] = {}
        room = size

        def storage(fields: tuple[Any, ...]) -> Storage:
            nonlocal room
            dtype, key, count = _storage_fields(fields)
            if key not in storages:
                room -= count
                if room < 0:
                    raise _CutShortError("its tensors are larger than the file")
                storages[key], sizes[key] = torch.zeros(count, dtype=torch.uint8).untyped_storage(), dtype.itemsize
            view = fields[4] if len(fields) > 4 else None
            if view is None:
                return Storage(storages[key], dtype)
            _, offset, length = view
            start, end = offset * dtype.itemsize, (offset + length) * dtype.itemsize
            if not 0 <= start <= end <= storages[key].nbytes():
                raise RefusedError("a view that reaches beyond its storage")
            return Storage(storages[key][start:end], dtype)

        try:
            if Unpickler(content).load() != _MAGIC or Unpickler(content).load() != _PROTOCOL:
                raise _OtherFileError("a pickle of something else")
            system = Unpickler(content).load()
            if isinstance(system, dict) and system.get("little_endian", True) != (sys.byteorder == "little"):
                raise RefusedError("it was written on a machine of another byte order")
            reader = Unpickler(content, storage)
            result = reader.load()
            keys = Unpickler(content).load()
        except (RefusedError, _OtherFileError, _CutShortError):
            raise
        except Exception as error:
            if content.tell() >= size:
                raise _CutShortError("its description ends too early") from error
            raise
        if not isinstance(keys, list) or {str(key) for key in keys} != set(storages):
            raise ValueError("the list of its tensors does not fit their description")
        for key in map(str, keys):
            header = content.read(8)
            if len(header) < 8:
                raise _CutShortError("tensors are missing at its end")
            target = torch.empty(0, dtype=torch.uint8).set_(storages[key]).numpy()
            if int.from_bytes(header, "little") * sizes[key] != len(target):
                raise ValueError("a tensor has another size than its description")
            begin = content.tell()
            if begin + len(target) > size:
                raise _CutShortError("its last tensor is not whole")
            if len(target):
                target[:] = np.frombuffer(content, np.uint8, len(target), begin)
            content.seek(begin + len(target))
        return TorchFile(result, frozenset(reader.not_read))


def _what_it_is(path: Path, start: bytes) -> str:
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html")):
        return "it is a web page: the address led to a page about the file"
    if text.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer: the file itself was not fetched"
    if tarfile.is_tarfile(path):
        return "it is a tar archive; torch before 0.1.10 wrote such files: save it again"
    return "its first bytes are those of no torch file"
