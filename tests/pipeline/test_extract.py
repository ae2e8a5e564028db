import numpy as np
import pytest
import torch

from common.errors import CacheError, DeviceMemoryError, FailureRateError, InputError, WeightsError, WriteError
from manifests.builders import clips_from_folder
from manifests.manifest import make_manifest
from pipeline.cache import open_store
from pipeline.encoders.cavp import CAVP
from pipeline.extract import Extractor, parse_shards
from pipeline.report import verify
from presets import load_preset
from tests.media_factory import make_media
from tests.tiny import TINY

ALL = ["cavp", "timechat", "audiomae"]


@pytest.fixture(scope="module")
def preset():
    return load_preset(TINY, ["cache.encode_batch=2", "cache.decode_timeout_seconds=20"])


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Six files: three good ones, one without sound, one silent, one that is text."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(3):
        make_media(folder / f"good{number}.mp4", seconds=4 + number)
    make_media(folder / "mute.mp4", seconds=4, audio=None)
    make_media(folder / "silent.mp4", seconds=4, audio=np.zeros(64_000))
    (folder / "text.mp4").write_text("not a video")
    return clips_from_folder(folder)


def extract(manifest, store, preset, stages=ALL, **options):
    with Extractor(manifest, store, preset, stages, **options) as extractor:
        return extractor.run(range(manifest.shard_count))


def test_good_clips_are_cached_and_bad_ones_recorded(tmp_path, preset, clips):
    manifest = make_manifest(clips, 4)
    store = open_store(tmp_path)
    report = extract(manifest, store, preset)
    ids = {stage: [i for k in (0, 1) for i in store.read(stage, k).clip_ids] for stage in ALL}
    assert ids["cavp"] == ids["timechat"] == ["good0", "good1", "good2", "mute", "silent"]
    assert ids["audiomae"] == ["good0", "good1", "good2"]
    kinds = {
        (record.stage, record.clip_id): record.kind
        for stage in ALL
        for shard in (0, 1)
        for record in store.header(stage, shard).left_out
    }
    assert kinds[("audiomae", "mute")] == "no_audio"
    assert kinds[("audiomae", "silent")] == "silent"
    assert kinds[("cavp", "text")] == "unreadable"
    assert report.clips_done == {"cavp": 5, "timechat": 5, "audiomae": 3}
    shapes = {stage: store.read(stage, 0).features.shape[1:] for stage in ALL}
    assert shapes == {"cavp": (40, 64), "timechat": (10, 96), "audiomae": (8, 96)}
    again = extract(manifest, store, preset)
    assert (again.shards_done, again.shards_skipped) == (0, 6)


def test_features_do_not_depend_on_batch_or_stage_order(tmp_path, preset, clips):
    manifest = make_manifest(clips[:3], 4)
    together, apart = open_store(tmp_path / "a"), open_store(tmp_path / "b")
    extract(manifest, together, preset)
    for stage in reversed(ALL):
        extract(manifest, apart, load_preset(TINY, ["cache.encode_batch=1"]), [stage])
    for stage in ALL:
        np.testing.assert_allclose(
            together.read(stage, 0).features.astype(np.float32),
            apart.read(stage, 0).features.astype(np.float32),
            rtol=2e-3, atol=2e-3,
        )  # fmt: skip


def test_other_weights_are_refused_or_rebuilt(tmp_path, preset, clips):
    manifest = make_manifest(clips[:2], 4)
    store = open_store(tmp_path)
    extract(manifest, store, preset, ["cavp"])
    before = store.read("cavp", 0)
    other = load_preset(TINY, ["weights.seed=99"])
    with pytest.raises(CacheError, match="made by another weights"):
        extract(manifest, store, other, ["cavp"])
    np.testing.assert_array_equal(store.read("cavp", 0).features, before.features)
    extract(manifest, store, other, ["cavp"], rebuild=True)
    assert store.header("cavp", 0).fingerprint["weights"] != before.fingerprint["weights"]


def test_damaged_shards_are_made_again(tmp_path, preset, clips):
    manifest = make_manifest(clips[:2], 4)
    store = open_store(tmp_path)
    extract(manifest, store, preset, ["cavp"])
    before = store.read("cavp", 0)
    path = store.path("cavp", 0)
    path.write_bytes(path.read_bytes()[:-100])
    report = extract(manifest, store, preset, ["cavp"])
    assert (report.shards_repaired, report.shards_done) == (1, 1)
    np.testing.assert_array_equal(store.read("cavp", 0).features, before.features)


def test_a_wrong_path_does_not_quarantine_everything(tmp_path, preset, clips):
    manifest = make_manifest([c for c in clips if c.clip_id == "text"], 4)
    store = open_store(tmp_path)
    with pytest.raises(FailureRateError, match=r"1 of 1 clips.*\n.*text\.mp4"):
        extract(manifest, store, preset)
    assert store.stages() == []


@pytest.mark.parametrize("free", [0, 2, 7])
def test_a_full_disk_stops_in_order_and_goes_on(tmp_path, small_disk, preset, clips, free):
    """Full before the manifest, after the claim, after the first shard: kilobytes that are free."""
    manifest = make_manifest(clips[:3], 1)
    reference = open_store(tmp_path / "reference")
    extract(manifest, reference, preset, ["cavp"])
    store = open_store(small_disk)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"0" * (64 - 4 * free) * 1024)  # blocks of 4 KiB
    with pytest.raises(WriteError, match=r"cannot write .*: the disk is full; nothing was left behind"):
        extract(manifest, store, preset, ["cavp"])
    assert [path for path in small_disk.rglob("*") if path.suffix == ".claim" or path.name.startswith(".")] == []
    assert verify(store) == []
    ballast.unlink()
    extract(manifest, store, preset, ["cavp"])
    for shard in range(3):
        assert store.read("cavp", shard).checksum == reference.read("cavp", shard).checksum


def test_a_device_without_memory_says_so(tmp_path, preset, clips, monkeypatch):
    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    monkeypatch.setattr(CAVP, "encode_clips", full)
    store = open_store(tmp_path)
    with pytest.raises(DeviceMemoryError, match=r"2 clips of stage 'cavp'.*cache.encode_batch \(now 2\).*CUDA out"):
        extract(make_manifest(clips, 4), store, preset, ["cavp"])
    assert list(tmp_path.rglob("*.claim")) == []


def test_missing_official_weights_stop_before_anything_is_written(tmp_path, clips):
    preset = load_preset("paper", [f"weights.folder={tmp_path / 'none'}"])
    with pytest.raises(WeightsError) as caught:
        Extractor(make_manifest(clips, 4), open_store(tmp_path / "cache"), preset, ALL)
    for name in ("cavp_epoch66.ckpt", "eva_vit_g.pth", "audiomae_16k_128bins.ckpt"):
        assert name in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_shard_lists():
    assert parse_shards("all", 3) == [0, 1, 2]
    assert parse_shards("1-9", 3) == [1, 2]
    assert parse_shards("1-999999999999", 3) == [1, 2]
    assert parse_shards("2,0", 3) == [0, 2]
    for nonsense in ("x", "3-1", "7"):
        with pytest.raises(InputError):
            parse_shards(nonsense, 3)
