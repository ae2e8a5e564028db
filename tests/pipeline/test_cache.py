import os
import resource

import numpy as np
import pytest

from pipeline.cache import ShardContent, open_store
from pipeline.cache.store import Quarantined
from pipeline.errors import CacheError

FORMATS = ["hdf5"]


def content(rows=3, seed=0):
    random = np.random.default_rng(seed)
    return ShardContent(
        tuple(f"clip{n}" for n in range(rows)),
        tuple(f"läbel {n}" for n in range(rows)),
        ("train",) * rows,
        {"stage": "cavp", "weights": "w", "config": {"width": 8}},
        {"features": random.standard_normal((rows, 40, 16)).astype(np.float16)},
    )


@pytest.fixture(params=FORMATS)
def store(tmp_path, request):
    return open_store(tmp_path / "cache", request.param)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_round_trip(store, rows):
    written = content(rows)
    store.write("cavp", 7, written)
    read = store.read("cavp", 7)
    assert read.clip_ids == written.clip_ids
    assert read.labels == written.labels
    assert read.fingerprint == written.fingerprint
    np.testing.assert_array_equal(read.features, written.features)
    assert read.features.dtype == np.float16
    assert store.header("cavp", 7).checksum == written.checksum
    assert store.shards("cavp") == [7]
    assert store.stages() == ["cavp"]


def test_every_flipped_or_missing_byte_is_noticed(store):
    path = store.write("cavp", 0, content())
    data = path.read_bytes()
    random = np.random.default_rng(1)
    caught = 0
    for position in random.integers(0, len(data), 60):
        flipped = bytearray(data)
        flipped[position] ^= 0xFF
        path.write_bytes(flipped)
        try:
            read = store.read("cavp", 0)
        except CacheError:
            caught += 1
        else:  # a byte that carries nothing: what was read is still right
            np.testing.assert_array_equal(read.features, content().features)
            assert read.clip_ids == content().clip_ids
    assert caught > 20
    for length in (0, 10, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(CacheError, match="shard-00000"):
            store.read("cavp", 0)


def test_full_disk_leaves_nothing(store):
    child = os.fork()
    if child == 0:  # the limit holds for this process only
        code = 1
        try:
            import signal

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
            store.write("cavp", 0, content(200))
        except CacheError as error:
            code = 0 if "cannot write" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list(store.path("cavp", 0).parent.iterdir()) == []


def test_half_written_files_are_no_shards(store):
    folder = store.path("cavp", 0).parent
    folder.mkdir(parents=True)
    (folder / f".shard-00000{store.format.suffix}.123.tmp").write_bytes(b"half")
    (folder / "notes.txt").write_text("x")
    assert store.shards("cavp") == []
    with pytest.raises(CacheError, match="does not exist"):
        store.read("cavp", 0)


def test_quarantine_round_trip(store):
    records = [Quarantined("clip1", "cavp", "unreadable", "broken", "/v/1.mp4")]
    store.write_quarantine("cavp", 2, records)
    assert store.read_quarantine("cavp", 2) == records
    store.write_quarantine("cavp", 2, [])
    assert store.read_quarantine("cavp", 2) == []


def test_unknown_format(tmp_path):
    with pytest.raises(CacheError, match="unknown cache format 'zarr'"):
        open_store(tmp_path, "zarr")
