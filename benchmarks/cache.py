"""Reading and writing cached features: HDF5 and WebDataset shards, one npz a clip, np.memmap as the limit.

    python -m benchmarks.cache [--clips 2048 --rounds 5]

Paper-size CAVP features (40 x 512 float16), 256 clips a shard, files warm in the page cache. Sequential is
every shard whole; shuffled is clips in random order, one at a time. Checksums are verified in neither
(``verify`` reads them once), except in the row that says so.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import h5py
import numpy as np
import webdataset

from benchmarks.common import interleaved, medians, write_result
from pipeline.cache import ShardContent, open_store

SHAPE, PER_SHARD = (40, 512), 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        result = measure(folder, arguments.clips, arguments.rounds)
    finally:
        shutil.rmtree(folder)
    write_result("cache", result, arguments.out)


def measure(folder: Path, clips: int, rounds: int) -> dict[str, object]:
    random = np.random.default_rng(0)
    features = random.standard_normal((clips, *SHAPE)).astype(np.float16)
    ids = [f"clip{n:06d}" for n in range(clips)]
    shards = [
        ShardContent(
            tuple(ids[a : a + PER_SHARD]),
            ("label",) * len(ids[a : a + PER_SHARD]),
            ("train",) * len(ids[a : a + PER_SHARD]),
            {"stage": "cavp"},
            {"features": features[a : a + PER_SHARD]},
        )
        for a in range(0, clips, PER_SHARD)
    ]
    hdf5, tar = open_store(folder / "hdf5", "hdf5"), open_store(folder / "tar", "webdataset")
    npz, flat = folder / "npz", folder / "flat.npy"
    npz.mkdir()

    def write_store(store):
        for number, content in enumerate(shards):
            vars(content).pop("checksum", None)  # computed anew, as in real use
            store.write("cavp", number, content)

    def write_npz():
        for clip_id, row in zip(ids, features, strict=True):
            np.savez(npz / f"{clip_id}.npz", features=row)

    def write_memmap():
        out = np.lib.format.open_memmap(flat, "w+", np.float16, features.shape)
        out[:] = features
        out.flush()

    writing = interleaved(
        {
            "hdf5": lambda: write_store(hdf5),
            "webdataset": lambda: write_store(tar),
            "npz": write_npz,
            "memmap": write_memmap,
        },
        rounds,
    )

    def read_store(store, verify=False):
        for number in range(len(shards)):
            store.read("cavp", number, verify=verify).features.sum(dtype=np.float16)

    def read_memmap():
        source = np.load(flat, mmap_mode="r")
        for a in range(0, clips, PER_SHARD):
            np.array(source[a : a + PER_SHARD]).sum(dtype=np.float16)

    def read_npz(order=ids):
        for clip_id in order:
            with np.load(npz / f"{clip_id}.npz") as file:
                file["features"].sum(dtype=np.float16)

    urls = [str(tar.path("cavp", number)) for number in range(len(shards))]

    def stream_webdataset(shuffle=0):
        pipeline = webdataset.WebDataset(urls, shardshuffle=False)
        if shuffle:
            pipeline = pipeline.shuffle(shuffle, initial=shuffle)
        for sample in pipeline.decode():
            sample["features.npy"].sum(dtype=np.float16)

    sequential = interleaved(
        {
            "hdf5": lambda: read_store(hdf5),
            "hdf5, checksum verified": lambda: read_store(hdf5, verify=True),
            "webdataset": lambda: read_store(tar),
            "webdataset, its own reader": stream_webdataset,
            "npz": read_npz,
            "memmap": read_memmap,
        },
        rounds,
    )
    order = random.permutation(clips)

    def shuffled_memmap():
        source = np.load(flat, mmap_mode="r")
        for row in order:
            np.array(source[row]).sum(dtype=np.float16)

    def shuffled_hdf5():
        files = [h5py.File(hdf5.path("cavp", number), "r") for number in range(len(shards))]
        datasets = [file["arrays/features"] for file in files]
        row_buffer = np.empty(SHAPE, np.float16)
        for row in order:
            shard, place = divmod(int(row), PER_SHARD)
            datasets[shard].read_direct(row_buffer, np.s_[place])
            row_buffer.sum(dtype=np.float16)
        for file in files:
            file.close()

    shuffled = interleaved(
        {
            "hdf5": shuffled_hdf5,
            "webdataset, shuffle buffer": lambda: stream_webdataset(1000),
            "npz": lambda: read_npz([ids[row] for row in order]),
            "memmap": shuffled_memmap,
        },
        rounds,
    )
    size = features.nbytes / 1e6
    table = {}
    for name, times in (("write", writing), ("sequential", sequential), ("shuffled", shuffled)):
        middle = medians(times)
        table[name] = {
            contender: {
                "megabytes_per_second": round(size / seconds),
                "of_memmap": round(middle["memmap"] / seconds, 3),
            }
            for contender, seconds in middle.items()
        }
        print(name, table[name])
    return {"clips": clips, "megabytes": size, "rounds": rounds, **table}


if __name__ == "__main__":
    main()
