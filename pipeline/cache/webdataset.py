"""WebDataset shards: tar files for streaming, readable by ``webdataset`` with no code of ours.

Each clip is ``<key>.<array>.npy`` for every array and ``<key>.json`` with its id, label and split. What
made the shard is ``__header__/header.json``, a name that webdataset skips. The header's checksum covers ids,
labels and splits; that the members say the same, and that there are no others, is checked at every read.
"""

from __future__ import annotations

import io
import json
import tarfile
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


def _about_row(shard: ShardContent | ShardHeader, row: int) -> dict[str, str]:
    return {"clip_id": shard.clip_ids[row], "label": shard.labels[row], "split": shard.splits[row]}


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
                about = json.dumps(_about_row(content, row), ensure_ascii=False)
                _add(tar, f"{key}.json", about.encode())
        return image.getbuffer()

    def _open(self, source: Path | bytes) -> tarfile.TarFile:
        if isinstance(source, bytes):
            return tarfile.open(fileobj=io.BytesIO(source), mode="r:")
        return tarfile.open(source, mode="r:")

    def decode_header(self, source: Path | bytes) -> ShardHeader:
        with self._open(source) as tar:
            return self._about(tar)[0]

    def _about(self, tar: tarfile.TarFile) -> tuple[ShardHeader, dict[str, list]]:
        values = json.loads(self._member(tar, _HEADER))
        return ShardHeader.from_json(values["header"]), values["arrays"]

    def decode(self, source: Path | bytes) -> ShardContent:
        with self._open(source) as tar:
            header, empty = self._about(tar)
            found: dict[str, list[np.ndarray]] = {name: [] for name in empty}
            for row in range(len(header.clip_ids)):
                key = sample_key(header.clip_ids[row])
                for name in empty:
                    data = self._member(tar, f"{key}.{name}.npy")
                    found[name].append(np.lib.format.read_array(io.BytesIO(data), allow_pickle=False))
                if json.loads(self._member(tar, f"{key}.json")) != _about_row(header, row):
                    raise ValueError(f"{key}.json says something else than the header")
            if (more := tar.next()) is not None:
                raise ValueError(f"{more.name} does not belong to the shard")
        arrays = {}
        for name, (dtype, shape) in empty.items():
            arrays[name] = np.stack(found[name]) if found[name] else np.zeros((0, *shape), dtype)
        return ShardContent.of(header, arrays)

    def _member(self, tar: tarfile.TarFile, name: str) -> bytes:
        """The next member, which must have this name: webdataset reads whatever is there, in its order."""
        member = tar.next()
        if member is None or member.name != name or not member.isfile():
            raise ValueError(f"there is {member.name if member else 'nothing'} where {name} should be")
        file = tar.extractfile(member)
        assert file is not None
        return file.read()
