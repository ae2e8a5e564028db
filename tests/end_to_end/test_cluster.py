"""Two workers at once, slices of array jobs, and Ray: the same cache, bit for bit (kills: tests/test_campaign.py)."""

import os
import subprocess
import sys

import pytest

from common.errors import DeviceMemoryError
from manifests.builders import clips_from_folder
from manifests.manifest import make_manifest
from pipeline.cache import convert, open_store
from pipeline.cluster import ExtractJob, run_on_ray
from pipeline.report import verify
from presets import load_preset
from tests.commands import ROOT, run_here
from tests.media_factory import make_media
from tests.tiny import TINY

SMALL = ("--preset", TINY, "--set", "cache.clips_per_shard=2", "--set", "cache.decode_workers=1")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Eleven good clips and a broken one."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(11):
        make_media(folder / f"clip{number:02d}.mp4", seconds=2 + number % 3)
    (folder / "clip11.mp4").write_text("not a video")
    return folder


@pytest.fixture(scope="module")
def reference(videos, tmp_path_factory):
    cache = tmp_path_factory.mktemp("reference")
    run_here("pipeline", "extract", "--manifest", videos, "--cache", cache, *SMALL)
    return open_store(cache)


def assert_same_cache(store, reference):
    assert store.stages() == reference.stages() == ["audiomae", "cavp", "flan_t5", "timechat"]
    assert verify(store) == []
    for stage in reference.stages():
        assert store.shards(stage) == reference.shards(stage)
        for shard in reference.shards(stage):
            one, other = store.read(stage, shard), reference.read(stage, shard)
            assert one.clip_ids == other.clip_ids
            assert one.checksum == other.checksum, (stage, shard)


def test_two_workers_at_once(videos, reference, tmp_path):
    command = [sys.executable, "-m", "pipeline", "extract", "--manifest", str(videos), "--cache", str(tmp_path), *SMALL]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in "ab"
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert_same_cache(open_store(tmp_path), reference)


def test_array_slices_in_any_order_and_twice(videos, reference, tmp_path):
    for task in (2, 0, 1, 0):
        run_here(
            "pipeline", "extract", "--manifest", videos, "--cache", tmp_path, *SMALL,
            "--task-id", task, "--num-tasks", 3,
        )  # fmt: skip
    assert_same_cache(open_store(tmp_path), reference)


def test_webdataset_cache_is_the_same_and_trains(videos, reference, tmp_path):
    tar = tmp_path / "tar"
    run_here("pipeline", "extract", "--manifest", videos, "--cache", tar, "--format", "webdataset", *SMALL)
    store = open_store(tar, "webdataset")
    assert_same_cache(store, reference)
    back = open_store(tmp_path / "back")
    convert(store, back)
    assert_same_cache(back, reference)
    run_here(
        "trainer", "--cache", tar, "--format", "webdataset", "--run", tmp_path / "run", "--set", "training.epochs=1"
    )  # fmt: skip
    text = run_here("pipeline", "status", tar, "--format", "webdataset")
    assert "6 done" in text
    assert "left" in text
    text = run_here("pipeline", "join", tar, "--format", "webdataset")
    assert "1 unreadable (cavp)" in text


def test_verify_inspect_and_convert_commands(videos, reference, tmp_path):
    cache = tmp_path / "cache"
    run_here("pipeline", "convert", reference.root, cache, "--to", "webdataset")
    assert "wrong" in run_here("pipeline", "verify", cache, "--format", "webdataset")
    shard = cache / "cavp" / "shard-00005.tar"
    text = run_here("pipeline", "inspect", shard)
    assert "unreadable" in text
    assert '"weights"' in text
    shard.write_bytes(shard.read_bytes()[:3000])
    assert "shard-00005.tar" in run_here("pipeline", "verify", cache, "--format", "webdataset", code=6)
    assert "damaged" in run_here("pipeline", "inspect", shard, code=6)


def test_full_disk_stops_with_one_message(videos, tmp_path):
    """A limit on file size stands in for a full disk: the same errors from the same calls."""
    script = (
        "import resource, signal, runpy, sys;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000));"
        "sys.argv = ['pipeline', *sys.argv[1:]];"
        "runpy.run_module('pipeline', run_name='__main__')"
    )
    arguments = ["extract", "--manifest", videos, "--cache", tmp_path, *SMALL, "--stage", "cavp"]
    result = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 6, result.stderr
    assert "nothing was left behind" in result.stderr
    assert list((tmp_path / "cavp").iterdir()) == []


class ShortOfMemory(ExtractJob):
    """A job whose device is too small; one of its shards is a defect of ours."""

    def extractor(self, on_clip=lambda clips: None):
        return Failing(super().extractor(on_clip))


class Failing:
    def __init__(self, extractor):
        self.extractor, self.report = extractor, None

    def run(self, shards):
        self.extractor.encoder("cavp")
        self.extractor.claims.open()
        assert self.extractor.claims.take("cavp", shards[0])
        raise DeviceMemoryError("CUDA out of memory") if shards == [0] else ZeroDivisionError("a defect")


class TestRay:
    """A real Ray cluster of two nodes on this machine."""

    @pytest.fixture(scope="class")
    def cluster(self):
        ray = pytest.importorskip("ray", reason="Ray is an extra: pip install '.[ray]'")
        from ray.cluster_utils import Cluster

        os.environ["RAY_AUTH_MODE"] = "disabled"
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        second = cluster.add_node(num_cpus=2)
        ray.init(address=cluster.address, log_to_driver=False)
        cluster.wait_for_nodes()
        yield cluster, second
        ray.shutdown()
        cluster.shutdown()

    def test_losing_a_node_midway(self, cluster, videos, reference, tmp_path):
        nodes, second = cluster
        preset = load_preset(TINY, ["cache.clips_per_shard=2", "cache.decode_workers=1"])
        manifest = make_manifest(clips_from_folder(videos), 2)
        stages = ("cavp", "timechat", "audiomae", "flan_t5")
        job = ExtractJob(manifest, str(tmp_path), "hdf5", preset, stages, {"device": "cpu"})
        made = []

        def after(shard):
            made.append(shard)
            if len(made) == 2:
                nodes.remove_node(second, allow_graceful=False)

        run_on_ray(job, range(manifest.shard_count), after)
        assert sorted(made) == list(range(6))
        assert_same_cache(open_store(tmp_path), reference)

    def test_errors_of_a_task_are_themselves_not_lost_workers(self, cluster, videos, tmp_path):
        """And what the workers had claimed is free again."""
        manifest = make_manifest(clips_from_folder(videos), 2)
        preset = load_preset(TINY, ["cache.decode_workers=1"])
        job = ShortOfMemory(manifest, str(tmp_path), "hdf5", preset, ("cavp",), {"device": "cpu"})
        for shard, error in ((0, DeviceMemoryError), (1, ZeroDivisionError)):
            with pytest.raises(error):
                run_on_ray(job, [shard])
        assert list(tmp_path.rglob("*.claim")) == []
