import gzip
import io
import json
import os
import resource
import shutil
import tarfile
from dataclasses import replace

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import CacheError, WriteError
from pipeline.cache import Quarantined, ShardContent, ShardHeader, convert, join, open_store
from pipeline.cache.store import FORMATS as PARTS
from pipeline.cache.store import other_format
from tests.recipe import GOLDEN

FORMATS = ["hdf5", "webdataset"]


def content(rows=12, seed=0):
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
    store.write("cavp", 0, content())
    path = store.path("cavp", 0)
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
    assert caught > 15
    # (The last bytes of a tar are padding: a shard that lacks only these still has all its content.)
    for length in (0, 10, len(data) // 2, len(data) * 3 // 4):
        path.write_bytes(data[:length])
        with pytest.raises(CacheError, match="shard-00000"):
            store.read("cavp", 0)


def rewrite(path, change, extra=()):
    """The tar with its members' bytes passed through ``change``; None drops a member."""
    members = []
    with tarfile.open(path) as tar:
        for member in tar:
            members.append((member.name, tar.extractfile(member).read()))
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in [*members, *extra]:
            data = change(name, data)
            if data is not None:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("trick", ["external link", "soft link", "external storage", "virtual", "claims too much"])
def test_hdf5_that_points_elsewhere_is_refused(tmp_path, trick):
    """A cache that somebody sends reads no other file and asks for no terabyte."""
    store = open_store(tmp_path)
    store.write("cavp", 0, content())
    store.write("cavp", 1, content(seed=1))
    path, other = store.path("cavp", 0), store.path("cavp", 1)
    with h5py.File(path, "a") as file:
        shape = file["arrays/features"].shape
        del file["arrays/features"]
        arrays = file["arrays"]
        if trick == "external link":
            arrays["features"] = h5py.ExternalLink(str(other), "/arrays/features")
        elif trick == "soft link":
            arrays["features"] = h5py.SoftLink("/header")
        elif trick == "external storage":
            arrays.create_dataset("features", shape, np.float16, external=[(str(other), 0, h5py.h5f.UNLIMITED)])
        elif trick == "virtual":
            layout = h5py.VirtualLayout(shape, np.float16)
            layout[:] = h5py.VirtualSource(str(other), "/arrays/features", shape)
            arrays.create_virtual_dataset("features", layout)
        else:
            arrays.create_dataset("features", (12, 10**6, 10**6), np.float16, chunks=(1, 100, 100))
    with pytest.raises(CacheError, match=r"is damaged .*(no dataset of this file|claims)"):
        store.read("cavp", 0)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("change", "extra"),
    [
        (lambda name, data: data.replace(b'"train"', b'"test"') if not name.startswith("_") else data, ()),
        (lambda name, data: data.replace(b"dog", b"cat") if not name.startswith("_") else data, ()),
        (lambda name, data: data.replace(b'"a.b"', b'"a.c"') if not name.startswith("_") else data, ()),
        (lambda name, data: None if name.endswith("a%2Eb.json") else data, ()),
        (lambda name, data: data, [("z.json", b'{"clip_id": "z", "label": "l", "split": "train"}')]),
        (lambda name, data: data, [("a%2Eb.json", b'{"clip_id": "a.b", "label": "cat", "split": "train"}')]),
        (lambda name, data: data.replace(b"train", b"valid") if name.startswith("_") else data, ()),
        (lambda name, data: data.replace(b"unreadable", b"missing_file") if name.startswith("_") else data, ()),
    ],
)
def test_what_a_reader_of_the_tar_uses_is_covered(tmp_path, version, change, extra):
    """plain webdataset reads labels, splits and ids from <key>.json: altered there, it passed ``verify``."""
    store = open_store(tmp_path, "webdataset")
    path = store.path("cavp", 0)
    path.parent.mkdir()
    shutil.copy(GOLDEN / "shards" / "version1.tar", path)
    if version == 2:
        store.write("cavp", 0, store.read("cavp", 0))
    rewrite(path, lambda name, data: data)
    store.read("cavp", 0)  # rewritten without a change it is whole
    rewrite(path, change, extra)
    with pytest.raises(CacheError, match=r"shard-00000\.tar is damaged"):
        store.read("cavp", 0)


@pytest.mark.parametrize("field", ["labels", "splits", "clip_ids", "files", "left_out", "fingerprint", "checksum"])
def test_headers_alone_are_covered(store, field):
    """Counts and ``status`` read no arrays."""
    record = Quarantined("gone", "cavp", "unreadable", "broken", "/v/gone.mp4")
    store.write("cavp", 0, replace(content(), left_out=(record,), files={"clip0": "1-2-3", "gone": ""}))
    header = store.header("cavp", 0)
    values = json.loads(header.to_json())
    value = values[field]
    if isinstance(value, str):
        values[field] = value[::-1]
    elif isinstance(value, list):
        values[field] = ["test", *value[1:]] if field != "left_out" else []
    else:
        values[field] = {**value, "clip0": "9-9-9", "weights": "others"}
    with pytest.raises(ValueError, match="does not match its checksum"):
        ShardHeader.from_json(json.dumps(values))
    assert ShardHeader.from_json(header.to_json()) == header


@pytest.mark.parametrize("kind", FORMATS)
def test_shards_of_older_versions_are_read(kind):
    """Golden files, written before the header had a version: no file states, no checksum of the header alone."""
    form = PARTS[kind]()
    path = GOLDEN / "shards" / f"version1{form.suffix}"
    read, header = form.decode(path), form.decode_header(path)
    assert read.clip_ids == ("a.b", "c/d", "ü")
    assert read.labels == ("dog, barking", "", "läbel")
    assert read.splits == ("train", "validation", "test")
    assert read.left_out[0].kind == "unreadable"
    np.testing.assert_array_equal(read.features, np.arange(12).reshape(3, 2, 2))
    assert read.checksum == header.checksum == "80ea839f0cb6595bba312d06f25ac45ac22e6ae13ffebe74066fe4efdc2f4eaf"
    assert header.files == {}


headers = st.builds(
    lambda rows, fingerprint, files: ShardHeader(
        tuple(rows), tuple(rows), tuple("train" for _ in rows), fingerprint, (), "c", files
    ),
    st.lists(st.text(max_size=8), unique=True, max_size=4),
    st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4) | st.none(), max_size=3),
    st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=3),
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(headers)
@settings(max_examples=50)
def test_headers_survive_json(header):
    assert ShardHeader.from_json(header.to_json()) == header


@given(headers, st.sampled_from([*vars(content().header), "header_version", "header_checksum"]), anything)
@settings(max_examples=100)
def test_headers_with_any_field_of_any_type_are_refused_or_right(header, field, value):
    values = json.loads(header.to_json())
    if values[field] == value:
        return
    for version in (1, 2):
        changed = {**values, field: value}
        if version == 1 and field not in ("header_version", "header_checksum"):
            del changed["header_version"], changed["header_checksum"]
        try:
            read = ShardHeader.from_json(json.dumps(changed))
        except ValueError:
            continue
        assert version == 1 or field == "header_version"  # nothing else passes with a checksum
        assert len(read.clip_ids) == len(read.labels) == len(read.splits)
        assert isinstance(read.to_json(), str)


@given(st.binary(max_size=40) | anything.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=100)
def test_what_is_no_header_is_a_value_error(data):
    with pytest.raises(ValueError):  # noqa: PT011
        ShardHeader.from_json(data)


def test_full_disk_leaves_nothing(store):
    child = os.fork()
    if child == 0:  # the limit holds for this process only
        code = 1
        try:
            import signal

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
            store.write("cavp", 0, content(200))
        except WriteError as error:
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


def test_what_is_left_out_is_in_the_shard_and_in_a_table(store):
    record = Quarantined("clip9", "cavp", "unreadable", "broken", "/v/9.mp4")
    written = ShardContent(**{**vars(content()), "left_out": (record,)})
    store.write("cavp", 2, written)
    assert store.header("cavp", 2).left_out == (record,)
    table = pq.read_table(store.files.path(store.quarantine_name("cavp", 2)))
    assert table.to_pylist() == [vars(record)]
    store.write("cavp", 2, content())
    assert not store.files.exists(store.quarantine_name("cavp", 2))


@pytest.mark.parametrize("rows", [0, 4])
def test_conversion_there_and_back_is_bit_exact(tmp_path, rows):
    first, tar, back = (
        open_store(tmp_path / name, kind) for name, kind in [("a", "hdf5"), ("b", "webdataset"), ("c", "hdf5")]
    )
    written = content(rows)
    first.write("cavp", 0, written)
    first.write("flan_t5", 0, content(2, seed=3))
    assert convert(first, tar) == 2
    assert convert(first, tar) == 0
    assert convert(tar, back) == 2
    read = back.read("cavp", 0)
    assert read.checksum == written.checksum
    assert first.path("cavp", 0).read_bytes() == back.path("cavp", 0).read_bytes()


def write_plainly(path, shard, header_first=True, **more):
    """The shard as a user of webdataset writes it: its defaults, this machine's time, other members ``more``."""
    header = {"__key__": "__header__/header", "json": {"header": shard.header.to_json(), "arrays": {}}}
    header["json"]["arrays"] = {name: [a.dtype.str, list(a.shape[1:])] for name, a in shard.arrays.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path)) as tar:
        if header_first:
            tar.write(header)
        for row, clip_id in enumerate(shard.clip_ids):
            about = {"clip_id": clip_id, "label": shard.labels[row], "split": shard.splits[row]}
            arrays = {f"{name}.npy": array[row] for name, array in shard.arrays.items()}
            tar.write({"__key__": clip_id, "json": about, **arrays, **more})
        if not header_first:
            tar.write(header)


@pytest.mark.parametrize("header_first", [True, False])
def test_shards_that_plain_webdataset_wrote_are_read(tmp_path, header_first):
    """Several arrays, members in its order, its user, mode and time; the header where a stream can have it."""
    store = open_store(tmp_path, "webdataset")
    record = Quarantined("gone", "cavp", "unreadable", "broken", "/v/gone.mp4")
    lengths = np.arange(5, dtype=np.int32)
    shard = replace(content(5), left_out=(record,), files={"gone": "1-2-3"})
    shard = replace(shard, arrays={**shard.arrays, "lengths": lengths})
    write_plainly(store.path("cavp", 0), shard, header_first)
    read = store.read("cavp", 0)
    assert (read.clip_ids, read.labels, read.left_out, read.files) == (
        shard.clip_ids, shard.labels, shard.left_out, shard.files,
    )  # fmt: skip
    np.testing.assert_array_equal(read.features, shard.features)
    np.testing.assert_array_equal(read.arrays["lengths"], lengths)
    assert store.header("cavp", 0) == shard.header


@pytest.mark.parametrize("fault", ["compressed", "pickle", "no header", "array missing", "cut"])
def test_tars_that_are_no_shards(tmp_path, fault, monkeypatch):
    """No pickle of a tar that somebody sends is loaded, and nothing expands without end."""
    monkeypatch.setattr("pickle.loads", lambda *_, **__: pytest.fail("a pickle was loaded"))
    store = open_store(tmp_path, "webdataset")
    path = store.path("cavp", 0)
    write_plainly(path, content(2), **({"more.pyd": [1]} if fault == "pickle" else {}))
    if fault == "no header":
        rewrite(path, lambda name, data: None if name.startswith("_") else data)
    elif fault == "array missing":
        rewrite(path, lambda name, data: None if name == "clip1.features.npy" else data)
    elif fault == "cut":
        path.write_bytes(path.read_bytes()[:4000])
    elif fault == "compressed":
        path.write_bytes(gzip.compress(path.read_bytes()))
    said = {
        "compressed": "ReadError", "pickle": r"clip0\.more\.pyd does not belong", "no header": "no __header__/header",
        "array missing": r"no 'features\.npy'", "cut": "end of data",
    }  # fmt: skip
    with pytest.raises(CacheError, match=rf"shard-00000\.tar is damaged .*{said[fault]}"):
        store.read("cavp", 0)


def test_the_same_content_is_the_same_file_whoever_wrote_it():
    """As versions before wrote it through ``tarfile``, byte for byte."""
    path = GOLDEN / "before_house" / "cache_webdataset" / "cavp" / "shard-00001.tar"
    form = PARTS["webdataset"]()
    assert bytes(form.encode(form.decode(path))) == path.read_bytes()


def test_webdataset_reads_our_shards_with_its_own_code(tmp_path):
    store = open_store(tmp_path, "webdataset")
    odd = ShardContent(
        ("-id_1", "a.b", "c/d e", "ü%", ""),
        ("", "l", "l", "l", "l"),
        ("train",) * 5,
        {},
        {"features": np.eye(5)[:, None]},
    )
    store.write("cavp", 0, odd)
    samples = list(webdataset.WebDataset(str(store.path("cavp", 0)), shardshuffle=False).decode())
    assert [sample["json"]["clip_id"] for sample in samples] == list(odd.clip_ids)
    for row, sample in enumerate(samples):
        np.testing.assert_array_equal(sample["features.npy"], odd.features[row])
    assert store.read("cavp", 0).checksum == odd.checksum


def test_an_empty_label_of_earlier_versions_is_read(tmp_path):
    """Their key was empty, which the library's own reader leaves out."""
    store = open_store(tmp_path, "webdataset")
    shard = ShardContent(("", "bell"), ("", "bell"), ("", ""), {}, {"features": np.eye(2)})
    write_plainly(store.path("flan_t5", 0), shard)
    assert store.read("flan_t5", 0).checksum == shard.checksum


@given(st.lists(st.text(max_size=12), unique=True, max_size=6), st.sampled_from(FORMATS))
@settings(max_examples=40)
def test_any_clip_ids_survive(ids, name):
    kind = PARTS[name]()
    rows = tuple(i.encode("utf-8", "ignore").decode() for i in ids)
    written = ShardContent(rows, rows, rows, {"a": 1}, {"features": np.arange(len(rows) * 2.0).reshape(-1, 2)})
    read = kind.decode(bytes(kind.encode(written)))
    assert (read.clip_ids, read.labels, read.checksum) == (rows, rows, written.checksum)


@pytest.mark.parametrize("kind", FORMATS)
def test_object_storage_through_fsspec(kind):
    store = open_store(f"memory://bucket/{kind}", kind)
    store.write("cavp", 3, content())
    assert store.shards("cavp") == [3]
    assert store.stages() == ["cavp"]
    assert store.read("cavp", 3).checksum == content().checksum
    store.files.write(store.name("cavp", 3), bytes(store.files.read(store.name("cavp", 3)))[:12_000])
    with pytest.raises(CacheError, match="memory://bucket"):
        store.read("cavp", 3)
    with pytest.raises(CacheError, match="does not exist"):
        store.read("cavp", 4)


class NpzFormat:
    """A format that the project does not have, as docs/adding.md says: three methods, and a line in the registry."""

    name, suffix = "npz", ".npz"

    def encode(self, shard):
        image = io.BytesIO()
        np.savez(image, header=np.array(shard.header.to_json()), **shard.arrays)
        return image.getbuffer()

    def decode_header(self, source):
        return self.decode(source).header

    def decode(self, source):
        with np.load(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            arrays = {name: file[name] for name in file.files}
        return ShardContent.of(ShardHeader.from_json(str(arrays.pop("header"))), arrays)


@pytest.mark.parametrize("root", ["{}", "memory://{}"])
def test_a_new_format(tmp_path, monkeypatch, root):
    monkeypatch.setattr(PARTS, "_places", {**PARTS._places, "npz": NpzFormat})
    here = GOLDEN / "before_house" / "cache"
    target = open_store(root.format(tmp_path / "npz"), "npz")
    assert convert(open_store(here), target) == 10
    first, then = (join(store, ["cavp", "timechat", "audiomae"]) for store in (open_store(here), target))
    assert (first.clip_ids, first.left_out, first.provenance) == (then.clip_ids, then.left_out, then.provenance)
    assert all((first.arrays[name] == then.arrays[name]).all() for name in first.arrays)
    assert "holds npz shards" in other_format(open_store(target.root))


def test_unknown_format(tmp_path):
    with pytest.raises(CacheError, match="unknown cache format 'zarr'"):
        open_store(tmp_path, "zarr")
