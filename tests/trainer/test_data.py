"""Where batches come from: the same clips in the same order, in memory and streamed, for any number of processes."""

import tracemalloc
from collections import Counter

import numpy as np
import pytest
import torch

from common.errors import CacheError
from pipeline.cache import Quarantined, Selection, ShardContent, join
from tests.trainer.caches import write_cache
from trainer import data as data_module
from trainer.data import StreamData, TensorData, epoch_order, fits_in_memory, load_data, shuffled
from trainer.memory import host_bytes
from trainer.share import train_share

STAGES = ["cavp", "timechat", "audiomae"]
CPU = torch.device("cpu")


def ids(data, order, size=4, split="train", **options):
    return [list(batch.clip_ids) for batch in data.batches(split, size, order, **options)]


def both(store, buffer):
    memory = load_data(store, STAGES, CPU, "memory")
    memory.buffer = buffer
    return memory, StreamData(store, STAGES, "cpu", buffer)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_cache(tmp_path_factory.mktemp("cache"), clips=30, shards=4)


@pytest.mark.parametrize("kind", ["memory", "stream"])
def test_batches_cover_every_clip_once(store, kind):
    data = load_data(store, STAGES, CPU, kind)
    first = ids(data, epoch_order(1, 0))
    assert [len(batch) for batch in first] == [4, 4, 4, 4, 4, 4, 1]
    wanted = [f"clip{n:03d}" for n in range(30) if n % 6 != 5]
    assert data.clip_ids("train") == wanted
    assert sorted(clip_id for batch in first for clip_id in batch) == wanted
    assert first == ids(data, epoch_order(1, 0))
    assert first != ids(data, epoch_order(1, 1))
    # Two processes share the same global batches; a process without a row gets one of weight 0.
    reference = TensorData(join(store, STAGES), "cpu")
    for rank in (0, 1):
        for batch in data.batches("train", 4, epoch_order(1, 0), rank, 2):
            mine = batch.clip_ids[rank::2]
            assert batch.weight == (1.0 if mine else 0.0)
            row = reference.joined.clip_ids.index((mine or batch.clip_ids)[0])
            assert torch.equal(batch.target[0], reference.arrays["audiomae"][row].float())


@pytest.mark.parametrize("buffer", [1, 3, 7, 1000])
def test_memory_and_stream_give_the_same_batches(store, buffer):
    memory, stream = both(store, buffer)
    for order in (None, epoch_order(0, 0), epoch_order(0, 1)):
        assert ids(memory, order) == ids(stream, order)
    for one, other in zip(memory.batches("train", 4, 5), stream.batches("train", 4, 5), strict=True):
        assert all(torch.equal(one.arrays[stage], other.arrays[stage]) for stage in STAGES)


def test_a_share_of_the_training_clips(store):
    whole = load_data(store, STAGES, CPU)
    chosen = {}
    for how in ("memory", "stream"):
        for share, seed in ((0.16, 0), (0.5, 0), (0.5, 1)):
            data = load_data(store, STAGES, CPU, how, share=share, seed=seed)
            chosen[how, share, seed] = data.clip_ids("train")
            assert ids(data, 3) == [batch for batch in ids(data, 3) if set(batch) <= set(chosen[how, share, seed])]
            assert data.clip_ids("validation") == whole.clip_ids("validation")
            assert f"{25 - len(chosen[how, share, seed])} beyond training.share_of_clips" in data.left_out
    assert {key[1:]: chosen["memory", *key[1:]] for key in chosen} == {
        key[1:]: chosen["stream", *key[1:]] for key in chosen
    }
    assert len(chosen["memory", 0.16, 0]) == 4
    assert set(chosen["memory", 0.16, 0]) < set(chosen["memory", 0.5, 0])
    assert chosen["memory", 0.5, 0] != chosen["memory", 0.5, 1]


@pytest.mark.parametrize("share", [0.001, 0.16, 0.5, 0.77, 1.0])
def test_every_class_gives_its_share(share):
    sizes = {"a": 80, "b": 79, "c": 10, "d": 1}
    labels = {f"{label}{n}": label for label, size in sizes.items() for n in range(size)}
    chosen = Counter(labels[clip_id] for clip_id in train_share(labels, share, seed=3))
    assert chosen.total() == max(1, round(share * 170))
    for label, size in sizes.items():
        assert abs(chosen[label] - share * size) <= 1


def test_the_buffer_mixes_shards():
    """Rows of a batch come from many shards, however small the buffer is beside the cache."""
    rows = list(shuffled(range(40), lambda shard: [(shard, row) for row in range(25)], 1, buffer=200))
    assert Counter(rows) == Counter((shard, row) for shard in range(40) for row in range(25))
    distinct = [len({shard for shard, _ in rows[first : first + 20]}) for first in range(0, 1000, 20)]
    assert np.mean(distinct) > 5


def without_usable_clips(store):
    """The first shard: its sound was silent throughout."""
    whole = store.read("audiomae", 0)
    quiet = tuple(Quarantined(clip_id, "audiomae", "silent", "quiet", "x.mp4") for clip_id in whole.clip_ids)
    none = {"features": whole.features[:0]}
    store.write("audiomae", 0, ShardContent((), (), (), whole.fingerprint, none, quiet))
    return store


def test_a_first_shard_without_usable_clips(tmp_path):
    store = without_usable_clips(write_cache(tmp_path, clips=24, shards=3))
    memory, stream = both(store, 1000)
    assert stream.clip_ids("train") == memory.clip_ids("train")
    assert len(stream.clip_ids("train")) == 20 - 7
    assert (stream.shapes, stream.left_out) == (memory.shapes, memory.left_out)
    assert "8 silent (audiomae)" in stream.left_out
    assert ids(memory, 3) == ids(stream, 3)


def test_no_usable_clip_at_all(tmp_path):
    store = without_usable_clips(write_cache(tmp_path, clips=4, shards=1))
    for how in ("memory", "stream"):
        with pytest.raises(CacheError, match=r"no clip in .* has all of"):
            load_data(store, STAGES, CPU, how)


def test_what_does_not_fit_is_streamed(store, monkeypatch):
    assert isinstance(load_data(store, STAGES, CPU), TensorData)
    selection = Selection(store, STAGES)
    size = sum(store.path(stage, shard).stat().st_size for stage in STAGES for shard in store.shards(stage))
    largest = sum(store.path("cavp", shard).stat().st_size for shard in store.shards("cavp"))
    monkeypatch.setattr(data_module, "host_bytes", lambda: int(1.01 * (size + largest) / 0.8))
    assert fits_in_memory(selection, CPU)
    assert not fits_in_memory(selection, CPU, processes=2)  # each process of this machine has its own copy
    monkeypatch.setattr(data_module, "device_bytes", lambda device: 1.9 * size)
    assert not fits_in_memory(selection, CPU)  # more than half of the GPU
    assert isinstance(load_data(store, STAGES, CPU), StreamData)
    monkeypatch.setattr(data_module, "device_bytes", lambda device: 2.1 * size)
    assert fits_in_memory(selection, CPU)
    # One process that it does not fit for decides for all.
    assert isinstance(load_data(store, STAGES, CPU, agree=lambda fits: False), StreamData)


def test_joining_needs_what_is_reckoned_with(tmp_path):
    """All features once and the largest stage twice: what 'fits_in_memory' asks for."""
    random = np.random.default_rng(0)
    store = write_cache(tmp_path, clips=4, shards=1)
    for stage, width in (("cavp", 64), ("timechat", 32), ("audiomae", 32)):
        made = store.read(stage, 0).fingerprint
        for shard in range(8):
            # Ids do not ascend over shards, so that the rows have to be sorted, too.
            rows = tuple(f"clip{(7 - shard) * 128 + n:05d}" for n in range(128))
            features = {"features": random.standard_normal((128, 40, width)).astype(np.float16)}
            store.write(stage, shard, ShardContent(rows, rows, ("train",) * 128, made, features))
    sizes = [1024 * 40 * width * 2 for width in (64, 32, 32)]
    tracemalloc.start()
    try:
        joined = join(store, STAGES)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(joined) == 1024
    assert peak < 1.15 * (sum(sizes) + max(sizes))


def test_memory_of_a_container(tmp_path):
    group = tmp_path / "cgroup" / "job" / "step"
    group.mkdir(parents=True)
    (tmp_path / "self").write_text("0::/job/step\n")

    def limits(folder, limit, used, cached):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cached}\n")

    whole = host_bytes(tmp_path / "none", tmp_path / "none")
    assert whole > 1 << 20
    limits(group, "max", 500, 0)
    assert host_bytes(tmp_path / "cgroup", tmp_path / "self") > 1 << 20
    limits(group.parent, 9000, 5000, 1000)
    assert host_bytes(tmp_path / "cgroup", tmp_path / "self") == 5000
    limits(group, 600, 500, 50)
    assert host_bytes(tmp_path / "cgroup", tmp_path / "self") == 150
    limits(group, 400, 500, 50)
    assert host_bytes(tmp_path / "cgroup", tmp_path / "self") == 0
