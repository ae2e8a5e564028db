"""HDF5 shards: random access, one clip one chunk."""

from __future__ import annotations

import io
import json
from pathlib import Path

import h5py
import numpy as np

from pipeline.cache.store import ShardContent, ShardHeader

_TEXT = h5py.string_dtype("utf-8")
_ROWS = ("clip_ids", "labels", "splits")


class HDF5Format:
    """``/arrays/<name>`` (clips, ...) chunked by clip, ``/clip_ids``, ``/labels``, ``/splits``; what made
    the shard and the checksum are the file's attributes ``fingerprint`` (JSON) and ``checksum``."""

    name = "hdf5"
    suffix = ".h5"

    def write(self, path: Path, content: ShardContent) -> None:
        # Built in memory and written by Python: HDF5 itself crashes the process on a full disk.
        image = io.BytesIO()
        with h5py.File(image, "w", libver="latest") as file:
            file.attrs["fingerprint"] = json.dumps(content.fingerprint, sort_keys=True)
            file.attrs["checksum"] = content.checksum
            for name in _ROWS:
                file.create_dataset(name, data=np.array(getattr(content, name), dtype=object), dtype=_TEXT)
            group = file.create_group("arrays")
            for name, array in content.arrays.items():
                # Chunk = one clip: a random read touches one clip's bytes. Empty arrays cannot be chunked.
                chunks = (1, *array.shape[1:]) if array.size else None
                group.create_dataset(name, data=array, chunks=chunks)
        path.write_bytes(image.getbuffer())

    def read_header(self, path: Path) -> ShardHeader:
        with h5py.File(path, "r") as file:
            return self._header(file)

    def _header(self, file: h5py.File) -> ShardHeader:
        rows = [tuple(file[name].asstr()[()].tolist()) for name in _ROWS]
        fingerprint = json.loads(file.attrs["fingerprint"])
        return ShardHeader(rows[0], rows[1], rows[2], fingerprint, str(file.attrs["checksum"]))

    def read(self, path: Path) -> ShardContent:
        with h5py.File(path, "r") as file:
            header = self._header(file)
            arrays = {name: dataset[()] for name, dataset in file["arrays"].items()}
        return ShardContent(header.clip_ids, header.labels, header.splits, header.fingerprint, arrays)
