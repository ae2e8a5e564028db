"""WebDataset shards: tar files for streaming, readable by ``webdataset`` with no code of ours.

Each clip is ``<key>.<array>.npy`` for every array and ``<key>.json`` with its id, label and split. What
made the shard is ``__header__/header.json``, a name that webdataset skips.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections import defaultdict
from pathlib import Path
from urllib.parse import quote

import numpy as np

from pipeline.cache.store import ShardContent, ShardHeader

_HEADER = "__header__/header.json"


def sample_key(clip_id: str) -> str:
    """A clip id as a webdataset key, which ends at the first dot and must not hold a slash."""
    return quote(clip_id, safe=" ").replace(".", "%2E")


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    # No time, owner or mode of this machine: the same content is the same file.
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array, order="C"), allow_pickle=False)
    return buffer.getvalue()


class WebDatasetFormat:
    """Rows in the shard's order; shapes of arrays without rows are kept in the header member."""

    name = "webdataset"
    suffix = ".tar"

    def encode(self, content: ShardContent) -> memoryview:
        image = io.BytesIO()
        with tarfile.open(fileobj=image, mode="w", format=tarfile.PAX_FORMAT) as tar:
            empty = {name: [array.dtype.str, list(array.shape[1:])] for name, array in content.arrays.items()}
            _add(tar, _HEADER, json.dumps({"header": content.header.to_json(), "arrays": empty}).encode())
            for row, clip_id in enumerate(content.clip_ids):
                key = sample_key(clip_id)
                for name, array in content.arrays.items():
                    _add(tar, f"{key}.{name}.npy", _npy(array[row]))
                about = {"clip_id": clip_id, "label": content.labels[row], "split": content.splits[row]}
                _add(tar, f"{key}.json", json.dumps(about, ensure_ascii=False).encode())
        return image.getbuffer()

    def _open(self, source: Path | bytes) -> tarfile.TarFile:
        if isinstance(source, bytes):
            return tarfile.open(fileobj=io.BytesIO(source), mode="r:")
        return tarfile.open(source, mode="r:")

    def decode_header(self, source: Path | bytes) -> ShardHeader:
        with self._open(source) as tar:
            return self._about(tar)[0]

    def _about(self, tar: tarfile.TarFile) -> tuple[ShardHeader, dict[str, list]]:
        member = tar.next()
        if member is None or member.name != _HEADER:
            raise ValueError("the first member is not the header")
        file = tar.extractfile(member)
        assert file is not None
        values = json.loads(file.read())
        return ShardHeader.from_json(values["header"]), values["arrays"]

    def decode(self, source: Path | bytes) -> ShardContent:
        rows: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
        with self._open(source) as tar:
            header, empty = self._about(tar)
            for member in tar:
                key, _, field = member.name.partition(".")
                if field.endswith(".npy"):
                    file = tar.extractfile(member)
                    assert file is not None
                    data = io.BytesIO(file.read())
                    rows[field.removesuffix(".npy")][key] = np.lib.format.read_array(data, allow_pickle=False)
        arrays = {}
        for name, (dtype, shape) in empty.items():
            found = [rows[name][sample_key(clip_id)] for clip_id in header.clip_ids]
            arrays[name] = np.stack(found) if found else np.zeros((0, *shape), dtype)
        return ShardContent.of(header, arrays)
