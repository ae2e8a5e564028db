"""Broken clips of every kind, workers that hang, shards that two workers want, and clips tried again."""

import json
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from common.errors import InputError
from manifests.builders import clips_from_folder
from manifests.manifest import make_manifest
from pipeline.cache import open_store
from pipeline.cache.claims import EXPIRY, Claims
from pipeline.cluster import array_slice
from pipeline.extract import Extractor
from pipeline.report import status, verify
from presets import load_preset
from tests.media_factory import make_media, rotate, tone
from tests.pipeline.test_decoding import misbehaving
from tests.tiny import TINY

STAGES = ["cavp", "audiomae"]


def cut(path, keep):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def make_broken(folder):
    """One file of each kind; returns what each stage must say of it (None: it is cached)."""
    big = {"size": (240, 320)}
    (folder / "zero_bytes.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("this is not a video")
    cut(make_media(folder / "no_index.mp4", **big), 0.6)
    # 431 frames claimed, about 300 held: the index is in front, the data is cut
    cut(make_media(folder / "claims_431.mp4", fps=20, times=[n / 43 for n in range(431)], faststart=True, **big), 0.6)
    make_media(folder / "no_audio.mp4", seconds=4, audio=None)
    make_media(folder / "no_video.mp4", seconds=4, video=False)
    make_media(folder / "one_frame.mp4", times=[0.0], audio=tone(4))
    make_media(folder / "muted.mp4", seconds=4, audio=np.zeros(64_000))
    make_media(folder / "variable_rate.mp4", times=[0, 0.1, 0.5, 1.7, 1.75, 3.0, 3.9])
    rotate(make_media(folder / "rotated.mp4", seconds=4))
    make_media(folder / "surround_48k.mp4", seconds=4, rate=48_000, layout="5.1")
    make_media(folder / "mono_8k.mp4", seconds=4, rate=8_000)
    make_media(folder / "streams_apart.mp4", seconds=4, video_start=0.7)
    make_media(folder / "three_seconds.mp4", seconds=3)
    make_media(folder / "long_25s.mp4", times=[n / 5 for n in range(125)], values=[50] * 125, audio=tone(25))
    make_media(folder / "odd_333x241.mp4", seconds=4, size=(241, 333))
    make_media(folder / "hangs.mp4", seconds=4)  # the injected decoder never returns, PyAV does
    make_media(folder / "always_hangs.mp4", seconds=4)
    make_media(folder / "dies.mp4", seconds=4)
    both = {
        "zero_bytes": "empty_file", "text": "unreadable", "no_index": "unreadable", "claims_431": "truncated",
        "no_video": "no_video", "one_frame": "too_short", "always_hangs": "timeout",
    }  # fmt: skip
    return {
        "cavp": both,
        "audiomae": {**both, "no_audio": "no_audio", "muted": "silent"},
    }


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken")
    expected = make_broken(folder)
    return clips_from_folder(folder), expected


def settings_with(*assignments):
    return load_preset(TINY, ["cache.encode_batch=4", "cache.decode_timeout_seconds=6", *assignments])


def make_extractor(clips, store, **options):
    extractor = Extractor(make_manifest(clips, 8), store, settings_with(), STAGES, **options)
    extractor._pool.decoder = misbehaving
    extractor._pool.startup = 15
    return extractor


def test_every_kind_of_broken_clip(tmp_path, broken):
    clips, expected = broken
    store = open_store(tmp_path)
    with make_extractor(clips, store) as extractor:
        report = extractor.run([0, 1, 2])
    for stage in STAGES:
        kinds = {r.clip_id: r.kind for shard in (0, 1, 2) for r in store.header(stage, shard).left_out}
        cached = {clip_id for shard in (0, 1, 2) for clip_id in store.header(stage, shard).clip_ids}
        assert kinds == expected[stage]
        assert cached == {clip.clip_id for clip in clips} - set(kinds)
        assert all(r.path and r.message for shard in (0, 1, 2) for r in store.header(stage, shard).left_out)
    assert report.clips_failed["audiomae: silent"] == 1
    # The good clips' features are those that the good clips alone give.
    alone = open_store(tmp_path / "alone")
    good = [clip for clip in clips if clip.clip_id not in expected["audiomae"]]
    with Extractor(make_manifest(good, 100), alone, settings_with("cache.encode_batch=1"), STAGES) as extractor:
        extractor.run([0])
    for stage in STAGES:
        reference = alone.read(stage, 0)
        for shard in (0, 1, 2):
            content = store.read(stage, shard)
            for clip_id, features in zip(content.clip_ids, content.features, strict=True):
                if clip_id in reference.clip_ids:
                    other = reference.features[reference.clip_ids.index(clip_id)]
                    np.testing.assert_allclose(features.astype(float), other.astype(float), rtol=5e-3, atol=5e-3)


def test_failed_clips_are_tried_again_and_only_those(tmp_path):
    videos = tmp_path / "v"
    make_media(videos / "a.mp4", seconds=2)
    make_media(videos / "b.mp4", seconds=2)
    make_media(videos / "c.mp4", seconds=2)
    good = (videos / "b.mp4").read_bytes()
    (videos / "b.mp4").write_bytes(b"broken")
    clips = clips_from_folder(videos)
    store = open_store(tmp_path / "cache")

    def run(**options):
        with Extractor(make_manifest(clips, 8), store, settings_with(), STAGES, **options) as extractor:
            return extractor.run([0])

    run()
    before = store.read("cavp", 0)
    assert before.clip_ids == ("a", "c")
    assert run().shards_done == 0
    assert run(retry_failed=True).clips_seen == 1  # in vain: the file is the same
    assert store.read("cavp", 0).checksum == before.checksum
    (videos / "b.mp4").write_bytes(good)
    report = run()  # another file: tried again unasked
    assert (report.clips_seen, report.clips_changed) == (1, {"b": 1})
    after = store.read("cavp", 0)
    assert after.clip_ids == ("a", "b", "c")
    assert after.left_out == ()
    np.testing.assert_array_equal(after.features[[0, 2]], before.features)
    assert not store.files.exists(store.quarantine_name("cavp", 0))
    assert run(retry_failed=True).clips_seen == 0


def test_a_claimed_shard_is_left_to_its_worker(tmp_path):
    clips = clips_from_folder(make_media(tmp_path / "v" / "a.mp4", seconds=2).parent)
    store = open_store(tmp_path / "cache")
    claims = Claims(store.files)
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        path = store.files.path(claims.name("cavp", 0))
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"host": socket.gethostname(), "pid": sleeper.pid}))

        def run():
            with Extractor(make_manifest(clips, 8), store, settings_with(), ["cavp"]) as extractor:
                return extractor.run([0])

        report = run()
        assert (report.shards_claimed, report.shards_done) == (1, 0)
        table = status(store, make_manifest(clips, 8), ["cavp"])["stages"]["cavp"]
        assert table["running"] == 1
        # Another host's claim counts until it expires.
        path.write_text(json.dumps({"host": "elsewhere", "pid": 1}))
        assert run().shards_claimed == 1
        # A scheduler that lost one worker of a job hands the shard to another, whatever the claim looks like.
        path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "owner": "job"}))
        with Extractor(make_manifest(clips, 8), store, settings_with(), ["cavp"], owner="job") as extractor:
            assert extractor.run([0]).shards_done == 1
        store.path("cavp", 0).unlink()
        path.write_text(json.dumps({"host": "elsewhere", "pid": 1}))
        os.utime(path, (time.time() - EXPIRY - 1,) * 2)
        path.write_text(json.dumps({"host": socket.gethostname(), "pid": sleeper.pid}))
    finally:
        sleeper.kill()
        sleeper.wait()
    assert status(store, make_manifest(clips, 8), ["cavp"])["stages"]["cavp"]["failed"] == 1
    assert run().shards_done == 1
    assert not path.exists()


def test_status_and_verify_see_damage(tmp_path):
    for name in "abc":
        make_media(tmp_path / "v" / f"{name}.mp4", seconds=2)
    manifest = make_manifest(clips_from_folder(tmp_path / "v"), 1)
    store = open_store(tmp_path / "cache")
    with Extractor(manifest, store, settings_with(), ["cavp"]) as extractor:
        extractor.run([0, 1])
    path = store.path("cavp", 1)
    data = bytearray(path.read_bytes())
    data[-2000] ^= 1
    path.write_bytes(data)
    assert len(verify(store)) == 1
    path.write_bytes(b"")
    table = status(store, manifest, ["cavp", "timechat"])
    assert table["stages"]["cavp"]["shards"] == {0: "done", 1: "failed", 2: "missing"}
    assert table["stages"]["timechat"]["missing"] == 3
    assert table["clips_left"] == 3


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        ((None, None), {}, (0, 1)),
        ((2, 5), {}, (2, 5)),
        ((None, None), {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4"}, (3, 4)),
        (
            (None, None),
            {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "1"},
            (2, 3),
        ),
        ((0, 2), {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "4"}, (0, 2)),
    ],
)
def test_array_slices(arguments, environment, expected):
    assert array_slice(*arguments, environment) == expected


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [((3, 3), {}), ((-1, 2), {}), ((1, None), {}), ((None, None), {"SLURM_ARRAY_TASK_ID": "1"})],
)
def test_wrong_slices(arguments, environment):
    with pytest.raises(InputError):
        array_slice(*arguments, environment)
