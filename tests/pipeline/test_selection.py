"""The manifest decides which shards and rows count: changed manifests, changed shard sizes, replaced videos."""

import os
import shutil

import numpy as np
import pytest

from common.errors import CacheError
from manifests.builders import clips_from_folder
from manifests.manifest import make_manifest, write_manifest
from pipeline.cache import Selection, convert, join, keep_manifest, open_store
from pipeline.cache.selection import MANIFEST, cache_manifest, manifest_changes
from pipeline.extract import Extractor
from pipeline.probing import probe_clips
from pipeline.report import ignored_shards, status, verify
from pipeline.sources import SourceFile
from presets import load_preset
from tests.media_factory import make_media, tone
from tests.tiny import TINY
from trainer.data import StreamData, TensorData

STAGES = ["cavp", "audiomae"]
PRESET = load_preset(TINY, ["cache.encode_batch=4", "cache.decode_workers=1", "cache.decode_timeout_seconds=20"])


def make_clip(path, number):
    """Clips whose features differ: another brightness and another tone each."""
    sound = tone(1, frequency=200 + 90 * number)
    return make_media(
        path, fps=4, times=[0, 0.25, 0.5, 0.75], values=[10 + 14 * number] * 4, size=(32, 32), audio=sound
    )


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for number in range(12):
        make_clip(folder / f"clip{number:02d}.mp4", number)
    return folder


@pytest.fixture(scope="module")
def clips(videos):
    return probe_clips(clips_from_folder(videos))


def extract(store, clips, per_shard=3, stages=STAGES, shards=None, **options):
    manifest = make_manifest(clips, per_shard)
    with Extractor(manifest, store, PRESET, stages, **options) as extractor:
        return extractor.run(range(manifest.shard_count) if shards is None else shards)


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory):
    """All twelve clips in shards of three, by one run."""
    store = open_store(tmp_path_factory.mktemp("whole"))
    extract(store, clips)
    return store


@pytest.fixture
def store(whole, tmp_path):
    shutil.copytree(whole.root, tmp_path / "cache")
    return open_store(tmp_path / "cache")


def features_by_id(store):
    joined = join(store, STAGES)
    return {i: {s: joined.arrays[s][row] for s in STAGES} for row, i in enumerate(joined.clip_ids)}


def assert_own_features(store, ids, truth):
    """Memory and stream hold these clips, each with the features that the clip itself has."""
    found = features_by_id(store)
    assert sorted(found) == sorted(ids)
    memory, stream = TensorData(join(store, STAGES), "cpu"), StreamData(store, STAGES, "cpu")
    for data in (memory, stream):
        assert data.count("train") == len(ids)
        seen = []
        for batch in data.batches("train", 4, 1):
            for row, clip_id in enumerate(batch.clip_ids):
                seen.append(clip_id)
                for stage in STAGES:
                    assert np.array_equal(batch.arrays[stage][row].numpy(), truth[clip_id][stage].astype(np.float32))
        assert sorted(seen) == sorted(ids)
    assert memory.left_out == stream.left_out


def test_features_stay_with_their_clips_when_the_manifest_shrinks(store, clips):
    """The issue's recipe: extract all, then a part with --rebuild: 10 of 30 clips had another's features."""
    truth = features_by_id(store)
    assert not np.array_equal(truth["clip03"]["cavp"], truth["clip06"]["cavp"])
    some = clips[2:8]
    with pytest.raises(CacheError, match=r"6 clips removed.*2 shards from 0 on would hold other clips.*--rebuild"):
        extract(store, some)
    assert_own_features(store, truth, truth)  # nothing was touched
    extract(store, some, rebuild=True)
    assert_own_features(store, [clip.clip_id for clip in some], truth)
    assert verify(store) == []
    assert "4 of an older manifest" in ignored_shards(store, STAGES)["ignored"]
    table = status(store, cache_manifest(store), STAGES)["stages"]["cavp"]
    assert table["shards"] == {0: "done", 1: "done", 2: "ignored", 3: "ignored"}
    assert table["clips"] == 6
    # A copy in the other format takes only what counts.
    other = open_store(f"{store.root}-tar", "webdataset")
    assert convert(store, other) == 4
    assert_own_features(other, [clip.clip_id for clip in some], truth)
    assert Selection(other, STAGES).ignored == ()


def test_the_same_in_caches_that_kept_no_manifest(store, clips):
    truth = features_by_id(store)
    (store.files.path(MANIFEST)).unlink()
    with pytest.raises(CacheError, match=r"made for other clips than the manifest has in shard 0.*--rebuild"):
        extract(store, clips[2:8])
    extract(store, clips[2:8], rebuild=True)
    (store.files.path(MANIFEST)).unlink()
    for read in (lambda: join(store, STAGES), lambda: StreamData(store, STAGES, "cpu")):
        with pytest.raises(CacheError, match=r"clip 'clip06' stands in cavp/shard-00001.h5 and in cavp/shard-00002.h5"):
            read()
    assert any("clip06" in line for line in verify(store))
    extract(store, clips[2:8])  # as the message says: the manifest is kept, and decides
    assert_own_features(store, [clip.clip_id for clip in clips[2:8]], truth)


def test_another_shard_size(store, clips):
    """Memory had 24 clips, the stream 36."""
    truth = features_by_id(store)
    with pytest.raises(CacheError, match="shards of 4 clips instead of 3"):
        extract(store, clips, per_shard=4)
    report = extract(store, clips, per_shard=4, rebuild=True)
    assert report.shards_done == 6
    assert_own_features(store, truth, truth)
    assert Selection(store, STAGES).ignored == ("cavp/shard-00003.h5", "audiomae/shard-00003.h5")


def test_stages_of_different_manifests_are_not_joined(store, clips):
    extract(store, clips, per_shard=4, stages=["audiomae"], rebuild=True)
    for read in (lambda: join(store, STAGES), lambda: StreamData(store, STAGES, "cpu")):
        with pytest.raises(CacheError, match=r"cavp/shard-00000.h5 was made for other clips than shard 0 of"):
            read()
    store.files.path(MANIFEST).unlink()
    for read in (lambda: join(store, STAGES), lambda: StreamData(store, STAGES, "cpu")):
        with pytest.raises(CacheError, match=r"audiomae/shard-00000.h5 was made for other clips than .*cavp"):
            read()
    table = status(store, make_manifest(clips, 4), STAGES)["stages"]
    assert table["cavp"]["shards"] == {0: "stale", 1: "stale", 2: "stale", 3: "ignored"}
    assert table["audiomae"]["done"] == 3


def test_clips_added_behind_the_last_shard_need_no_rebuild(store, clips, tmp_path):
    truth = features_by_id(store)
    more = probe_clips(clips_from_folder(make_clip(tmp_path / "v" / "clip99.mp4", 13).parent))
    report = extract(store, [*clips, *more])
    assert (report.shards_done, report.shards_skipped) == (2, 8)
    assert sorted(features_by_id(store)) == [*sorted(truth), "clip99"]
    report = extract(store, clips)  # and away again: what was added is ignored
    assert report.shards_done == 0
    assert_own_features(store, truth, truth)


def test_a_clip_within_a_shard_costs_only_what_moves(store, clips):
    """Without clip01 every shard holds other clips, but most features of a shard stay."""
    truth = features_by_id(store)
    rest = [clip for clip in clips if clip.clip_id != "clip01"]
    report = extract(store, rest, rebuild=True)
    assert report.clips_seen == 3  # the new last clip of shards 0 to 2
    assert_own_features(store, [clip.clip_id for clip in rest], truth)


def test_another_label_or_split_is_written_without_encoding_again(store, clips):
    from dataclasses import replace

    truth = features_by_id(store)
    other = [replace(clip, label="dog", split="test") if clip.clip_id == "clip04" else clip for clip in clips]
    with pytest.raises(CacheError, match=r"1 clip with another label or split \(clip04\)\. .*shard 1 would hold"):
        extract(store, other)
    report = extract(store, other, rebuild=True)
    assert (report.shards_done, report.clips_seen) == (2, 0)
    joined = join(store, STAGES)
    row = joined.clip_ids.index("clip04")
    assert (joined.labels[row], joined.splits[row]) == ("dog", "test")
    assert np.array_equal(joined.arrays["cavp"][row], truth["clip04"]["cavp"])


def test_what_changed_is_said():
    def folder(**files):
        from manifests.manifest import Clip

        return make_manifest([Clip(i, i, 0, "l", "train", "", file_fingerprint=mark) for i, mark in files.items()], 2)

    old = folder(a="1", b="1", c="1")
    assert manifest_changes(old, folder(a="1", b="2", d="1", e="1", f="1", g="1")) == (
        "4 clips added (d, e, f, ...), 1 clip removed (c), 1 clip with another file (b)"
    )
    assert manifest_changes(old, old) == "no clip changed"


def test_a_damaged_manifest_in_the_cache(store, clips):
    truth = features_by_id(store)
    store.files.path(MANIFEST).write_bytes(b"PAR1 half")
    with pytest.raises(CacheError, match=r"manifest.parquet is not a Parquet manifest.*make extract"):
        join(store, STAGES)
    extract(store, clips)
    assert_own_features(store, truth, truth)


def test_keep_manifest_changes_nothing_when_it_refuses(store, clips, tmp_path):
    before = store.files.read(MANIFEST)
    write_manifest(make_manifest(clips, 3), tmp_path / "same.parquet")
    assert (tmp_path / "same.parquet").read_bytes() == before
    with pytest.raises(CacheError):
        keep_manifest(store, make_manifest(clips[1:], 3))
    assert store.files.read(MANIFEST) == before


# --- videos replaced in place -------------------------------------------------------------------------------


def test_a_video_replaced_in_place_is_made_again_and_only_it(tmp_path):
    folder = tmp_path / "v"
    for number in range(4):
        make_clip(folder / f"clip{number:02d}.mp4", number)
    store = open_store(tmp_path / "cache")
    clips = clips_from_folder(folder)
    extract(store, clips, per_shard=2)
    before = features_by_id(store)
    path = folder / "clip02.mp4"
    make_clip(path, 12)
    report = extract(store, clips, per_shard=2)
    assert (report.clips_seen, report.shards_done, report.clips_changed) == (1, 2, {"clip02": 1})
    assert "1 whose file is another: clip02" in report.rows(store)["made again"]
    after = features_by_id(store)
    assert not np.array_equal(after["clip02"]["cavp"], before["clip02"]["cavp"])
    for clip_id in ("clip00", "clip01", "clip03"):
        assert np.array_equal(after[clip_id]["cavp"], before[clip_id]["cavp"])
    assert extract(store, clips, per_shard=2).shards_done == 0

    # Copied or touched: another time, the same content.
    os.utime(path, ns=(1, 1))
    assert extract(store, clips, per_shard=2).shards_done == 0
    # The same size and time, another content: only a look at the content tells.
    size = path.stat().st_size
    data = bytearray(path.read_bytes())
    data[size // 2] ^= 1
    os.utime(path, ns=(5, 5))
    assert extract(store, clips, per_shard=2).shards_done == 0
    # (Recorded is the time of the file that was read.)
    recorded = store.header("cavp", 1).files["clip02"].split("-")
    path.write_bytes(data)
    os.utime(path, ns=(int(recorded[1]), int(recorded[1])))
    assert extract(store, clips, per_shard=2).shards_done == 0
    assert extract(store, clips, per_shard=2, compare_content=True).clips_changed == {"clip02": 1}
    # A file that is gone: its features stay.
    path.unlink()
    assert extract(store, clips, per_shard=2, compare_content=True).shards_done == 0


def test_states_of_files(tmp_path):
    path = tmp_path / "a"
    assert SourceFile(path).state == ""
    assert SourceFile(tmp_path).state == ""
    assert SourceFile("").state == ""
    path.write_bytes(b"x")
    assert not SourceFile(path).same_as("")
    assert SourceFile(path).same_as(None)
    assert SourceFile(path).same_as(SourceFile(path).state)
    assert not SourceFile(path).same_as("nonsense")
    assert SourceFile(tmp_path / "gone").same_as("1-2-3")


def test_a_conversion_never_writes_over_the_cache_of_other_clips(store, clips, tmp_path):
    target = open_store(tmp_path / "target", "webdataset")
    extract(target, clips[3:9])
    before = {path: path.read_bytes() for path in target.root.rglob("*") if path.is_file()}
    with pytest.raises(CacheError, match=r"shards of another manifest.*6 clips added.*choose another target"):
        convert(store, target)
    assert {path: path.read_bytes() for path in target.root.rglob("*") if path.is_file()} == before
    grown = open_store(tmp_path / "grown", "webdataset")
    extract(grown, clips[:6])
    assert convert(store, grown) > 0  # the clips that are there stay where they are
    assert len(join(grown, STAGES)) == 12


def test_a_cache_of_the_other_format_is_not_an_empty_one(store, tmp_path):
    """The advice was to extract everything again."""
    other = open_store(store.root, "webdataset")
    for read in (lambda: join(other, STAGES), lambda: StreamData(other, STAGES, "cpu")):
        with pytest.raises(CacheError, match="holds hdf5 shards and none of webdataset: give --format hdf5"):
            read()
    with pytest.raises(CacheError, match="no complete shard of stage 'timechat': run make extract"):
        join(store, ["cavp", "timechat"])
    assert len(join(store, ["cavp", "cavp"])) == 12
