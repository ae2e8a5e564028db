"""WebDataset shards: tar files that ``webdataset`` writes and reads, and that it reads with no code of ours.

Each clip is ``<key>.<array>.npy`` for every array and ``<key>.json`` with its id, label and split. What
made the shard is ``__header__/header.json``, a name that webdataset skips. The header's checksum covers ids,
labels and splits; that the samples say the same, and that there are no others, is checked at every read.

webdataset is imported where it is used: it loads torch, which a look at headers does without.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import numpy as np

from pipeline.cache.shard import ShardContent, ShardHeader

_HEADER = "__header__/header"


def sample_key(clip_id: str) -> str:
    """A clip id as a webdataset key, which is not empty, ends at the first dot and must not hold a slash."""
    return quote(clip_id, safe=" ").replace(".", "%2E") or "%"


def _about_row(shard: ShardContent | ShardHeader, row: int) -> dict[str, str]:
    return {"clip_id": shard.clip_ids[row], "label": shard.labels[row], "split": shard.splits[row]}


def _read_npy(data: bytes) -> np.ndarray:
    return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)


def _file(source: Path | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


class WebDatasetFormat:
    """Rows in the shard's order; shapes of arrays without rows are kept in the header member."""

    name = "webdataset"
    suffix = ".tar"

    def encode(self, content: ShardContent) -> memoryview:
        import webdataset

        image = io.BytesIO()
        empty = {name: [array.dtype.str, list(array.shape[1:])] for name, array in content.arrays.items()}
        # No time, owner or mode of this machine: the same content is the same file.
        with webdataset.TarWriter(image, user="", group="", mode=0o644, mtime=0) as tar:
            tar.write({"__key__": _HEADER, "json": {"header": content.header.to_json(), "arrays": empty}})
            for row, clip_id in enumerate(content.clip_ids):
                arrays = {f"{name}.npy": np.asarray(array[row], order="C") for name, array in content.arrays.items()}
                about = json.dumps(_about_row(content, row), ensure_ascii=False)
                tar.write({"__key__": sample_key(clip_id), **arrays, "json": about})
        return image.getbuffer()

    def decode_header(self, source: Path | bytes) -> ShardHeader:
        return self._about(source)[0]

    def _about(self, source: Path | bytes) -> tuple[ShardHeader, dict[str, list]]:
        """The header and, for each array, type and shape of a row. Refuses a compressed tar, whatever it would say."""
        with _file(source) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.name == f"{_HEADER}.json" and (header := tar.extractfile(member)) is not None:
                    values = json.loads(header.read())
                    return ShardHeader.from_json(values["header"]), values["arrays"]
        raise ValueError(f"there is no {_HEADER}.json in it")

    def decode(self, source: Path | bytes) -> ShardContent:
        header, kinds = self._about(source)
        found: dict[str, list[np.ndarray]] = {name: [] for name in kinds}
        with _file(source) as file:
            row = 0
            for row, sample in enumerate(self._samples(file, kinds), start=1):
                key = sample["__key__"]
                if row > len(header.clip_ids) or (key or "%") != sample_key(header.clip_ids[row - 1]):
                    raise ValueError(f"{key} is not what the header has in its place")
                if sample["json"] != _about_row(header, row - 1):
                    raise ValueError(f"{key}.json says something else than the header")
                if more := {name for name in sample if not name.startswith("__")} - {"json", *_members(kinds)}:
                    raise ValueError(f"{key}.{min(more)} does not belong to the shard")
                for name in kinds:
                    found[name].append(sample[f"{name}.npy"])
        if row < len(header.clip_ids):
            raise ValueError(f"it has {row} clips, and the header {len(header.clip_ids)}")
        arrays = {}
        for name, (dtype, shape) in kinds.items():
            arrays[name] = np.stack(found[name]) if found[name] else np.zeros((0, *shape), dtype)
        return ShardContent.of(header, arrays)

    def _samples(self, file: BinaryIO, kinds: dict[str, list]) -> Iterator[dict[str, Any]]:
        """webdataset's own pipeline, but for its opener and decoder: names can ask it to run commands and pickles."""
        from webdataset import DataPipeline, map_dict
        from webdataset.tariterators import group_by_keys, tar_file_expander

        try:
            yield from DataPipeline(
                lambda: iter([{"url": self.suffix, "stream": file}]),
                tar_file_expander,
                # An empty label's key was empty in shards of earlier versions; the library's rule leaves such ones out.
                partial(group_by_keys, keys=lambda name: name.split(".", 1)),
                map_dict(json=json.loads, **dict.fromkeys(_members(kinds), _read_npy)),
            )
        except KeyError as error:
            raise ValueError(f"a clip has no {error}") from None
        except (tarfile.TarError, ValueError) as error:  # the library adds file and place to the arguments
            raise ValueError(str(error.args[0]).partition(" @ ")[0]) from error


def _members(kinds: dict[str, list]) -> list[str]:
    return [f"{name}.npy" for name in kinds]
