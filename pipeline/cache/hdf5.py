"""HDF5 shards: random access, one clip one chunk."""

from __future__ import annotations

import io
from pathlib import Path

import h5py
import numpy as np

from pipeline.cache.shard import ShardContent, ShardHeader

# We do not compress; somebody who repacks a shard may. What expands more is no shard.
_MOST_EXPANDED = 100


class HDF5Format:
    """``/arrays/<name>`` (clips, ...) chunked by clip; ids, labels, splits, what made the shard, what was
    left out and the checksum are JSON in the scalar dataset ``/header``."""

    name = "hdf5"
    suffix = ".h5"

    def encode(self, content: ShardContent) -> memoryview:
        # Built in memory and written by Python: HDF5 itself crashes the process on a full disk.
        image = io.BytesIO()
        with h5py.File(image, "w", libver="latest") as file:
            header = content.header.to_json().encode()
            file.create_dataset("header", data=np.frombuffer(header, np.uint8))
            group = file.create_group("arrays")
            for name, array in content.arrays.items():
                # Chunk = one clip: a random read touches one clip's bytes. Empty arrays cannot be chunked.
                chunks = (1, *array.shape[1:]) if array.size else None
                group.create_dataset(name, data=array, chunks=chunks)
        return image.getbuffer()

    def _open(self, source: Path | bytes) -> h5py.File:
        return h5py.File(io.BytesIO(source) if isinstance(source, bytes) else source, "r", locking=False)

    def decode_header(self, source: Path | bytes) -> ShardHeader:
        with self._open(source) as file:
            size = len(source) if isinstance(source, bytes) else source.stat().st_size
            return ShardHeader.from_json(_read(file, "header", size).tobytes())

    def decode(self, source: Path | bytes) -> ShardContent:
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        with self._open(source) as file:
            header = ShardHeader.from_json(_read(file, "header", size).tobytes())
            arrays = {name: _read(file, f"arrays/{name}", size) for name in file["arrays"]}
        return ShardContent.of(header, arrays)


def _read(file: h5py.File, name: str, size: int) -> np.ndarray:
    """A dataset of this file: HDF5 can also point to other files, and claim more than it holds."""
    link = file.get(name, getlink=True)
    dataset = file[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise ValueError(f"{name} is no dataset of this file")
    if dataset.nbytes > _MOST_EXPANDED * size:
        raise ValueError(f"{name} claims {dataset.nbytes} bytes, and the file has {size}")
    return np.asarray(dataset[()])
