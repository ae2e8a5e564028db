"""Caches that are no local folder, by the public commands: fsspec's memory and a web server."""

import functools
import http.server
import threading

import pytest

from pipeline.cache import convert, open_store
from tests.commands import run_here
from tests.media_factory import make_media, tone
from tests.tiny import TINY

SMALL = ("--preset", TINY, "--set", "cache.clips_per_shard=2", "--set", "cache.decode_workers=1")
BRIEF = ("--preset", TINY, "--set", "training.epochs=1", "--set", "generation.steps=1")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """A cache behind a URL, made by the command: fsspec's ``local``, which other processes see, unlike ``memory``."""
    videos = tmp_path_factory.mktemp("videos")
    for number, split in enumerate(["train", "train", "train", "test"]):
        sound = tone(1, frequency=300 + 100 * number)
        make_media(videos / split / f"clip{number}.mp4", seconds=1, fps=4, size=(32, 32), audio=sound)
    cache = f"local://{tmp_path_factory.mktemp('bucket')}/cache"
    text = run_here("pipeline", "extract", "--manifest", videos, "--cache", cache, *SMALL)
    assert "cavp 4" in text
    return cache


def use(cache, folder):
    """Train on a cache and generate from it; returns the bytes of the mapper and of the sound."""
    assert "3 train" in run_here("trainer", "--cache", cache, "--run", folder / "run", *BRIEF)
    text = run_here("generate", "--cache", cache, "--run", folder / "run", "--out", folder / "out", *BRIEF)
    assert "1 made" in text
    (weights,) = (folder / "run" / "mapper").glob("*.safetensors")
    return weights.read_bytes(), (folder / "out" / "wav" / "clip3.wav").read_bytes()


def test_every_command_takes_an_object_store(bucket, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "0 made, 7 already there" in run_here(
        "pipeline", "extract", "--manifest", f"{bucket}/manifest.parquet", "--cache", bucket, *SMALL
    )
    assert "2 done" in run_here("pipeline", "status", bucket)
    assert "2 shards" in run_here("pipeline", "verify", bucket)
    assert "train 3" in run_here("pipeline", "join", bucket)
    local = tmp_path / "local"
    convert(open_store(bucket), open_store(local))
    found = use(bucket, tmp_path / "remote")
    assert found == use(local, tmp_path / "here")
    assert not (tmp_path / "local:").exists()  # the folder that Path("local://...") was


def test_a_cache_on_a_web_server_is_read(bucket, tmp_path):
    pytest.importorskip("aiohttp", reason="fsspec reads http with aiohttp, which is no requirement of this project")
    convert(open_store(bucket), open_store(tmp_path / "served" / "cache", "webdataset"))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "served")
    handler.func.log_message = lambda *arguments: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            cache = f"http://127.0.0.1:{server.server_port}/cache"
            text = run_here("trainer", "--cache", cache, "--format", "webdataset", "--run", tmp_path / "run", *BRIEF)
            assert "3 train" in text
            assert "2 shards" in run_here("pipeline", "verify", cache, "--format", "webdataset")
            options = ("--manifest", f"{cache}/manifest.parquet", "--cache", cache, "--format", "webdataset")
            more = ("--stage", "cavp", "--rebuild", "--set", "weights.seed=8")
            text = run_here("pipeline", "extract", *options, *SMALL, *more, code=6)
            assert "cannot write" in text
        finally:
            server.shutdown()
            thread.join()
    assert "cannot reach" in run_here("pipeline", "verify", cache, "--format", "webdataset", code=4)


def test_folders_of_results_are_local(bucket, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = run_here("trainer", "--cache", bucket, "--run", "s3://bucket/run", *BRIEF, code=4)
    assert "run 's3:/bucket/run' must be local" in text
    assert "must be local" in run_here("generate", "--cache", bucket, "--out", "s3://bucket/out", *BRIEF, code=4)
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_is(tmp_path):
    assert "no complete shard" in run_here("trainer", "--cache", "memory://no/where", "--run", tmp_path, *BRIEF, code=6)
    text = run_here("generate", "--cache", "memory://no/where", "--out", tmp_path, *BRIEF, code=4)
    assert "keeps no manifest" in text
    text = run_here("trainer", "--cache", "nonsense://a/b", "--run", tmp_path, *BRIEF, code=4)
    assert "cannot use nonsense://a/b" in text
