"""Generation as users run it: long videos, array tasks, killed jobs, things that do not fit."""

import json
import os
import signal
import subprocess
import sys
import time

import av
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from generate.pictures import log_mel
from generate.video_to_audio import VideoToAudio
from micro.world.render import make_scene, render_frames, render_waveform
from micro.world.scene import SAMPLE_RATE
from pipeline.media.writing import read_wav, write_video
from presets import load_preset
from tests.commands import ROOT, run_here
from tests.generate.test_mux import packets
from tests.media_factory import make_media
from tests.tiny import TINY

FAST = ("--set", "generation.steps=3")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two clips to train on and four to generate; the mapper saw one epoch."""
    folder = tmp_path_factory.mktemp("trained")
    for number in range(6):
        make_media(folder / "clips" / ("train" if number < 2 else "test") / "tone" / f"clip{number}.mp4")
    run_here("pipeline", "extract", "--manifest", folder / "clips", "--cache", folder / "cache")
    run_here("trainer", "--cache", folder / "cache", "--run", folder / "run", "--set", "training.epochs=1")
    return folder


def split(folder, out, *more, code=0):
    return run_here(
        "generate", "--cache", folder / "cache", "--run", folder / "run", "-o", out, *FAST,
        "--set", "generation.batch=1", *more, code=code,
    )  # fmt: skip


def bytes_of(out):
    return {path.name: path.read_bytes() for path in sorted((out / "wav").glob("*.wav"))}


@pytest.fixture(scope="module")
def whole(trained):
    out = trained / "whole"
    split(trained, out)
    return out


def test_array_tasks_make_the_same_split(trained, whole, tmp_path):
    for task in (1, 0):
        split(trained, tmp_path, "--task-id", task, "--num-tasks", 2)
        rows = pq.read_table(tmp_path / "made.parquet").to_pylist()
        assert len(rows) == 4
        assert sum(row["wav"] != "" for row in rows) == 4 - 2 * task
    assert bytes_of(tmp_path) == bytes_of(whole)
    table = pq.read_table(tmp_path / "made.parquet")
    settings = json.loads(table.schema.metadata[b"settings"])
    assert (settings["steps"], settings["guidance_scale"]) == (3, 3.5)
    assert "one of 2" in split(trained, tmp_path, "--task-id", 2, "--num-tasks", 2, code=4)


def test_labels_come_from_the_cache(trained, tmp_path):
    """The cached embeddings are those of the same weights, so leaving the cache out changes nothing."""
    kept = trained / "cache" / "flan_t5"
    split(trained, tmp_path / "with")
    kept.rename(trained / "aside")
    try:
        split(trained, tmp_path / "without")
    finally:
        (trained / "aside").rename(kept)
    assert bytes_of(tmp_path / "with") == bytes_of(tmp_path / "without")


def test_killed_in_the_middle_and_run_again(trained, whole, tmp_path):
    command = [
        sys.executable,
        "-m",
        "generate",
        "--cache",
        trained / "cache",
        "--run",
        trained / "run",
        "-o",
        tmp_path,
        "--preset",
        TINY,
    ]
    job = subprocess.Popen(
        [*map(str, command), *FAST, "--set", "generation.batch=1"], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    try:
        limit = time.monotonic() + 120
        while not list(tmp_path.glob("wav/[!.]*.wav")) and time.monotonic() < limit:
            time.sleep(0.01)
    finally:
        workers = psutil.Process(job.pid).children(recursive=True)
        os.kill(job.pid, signal.SIGKILL)
        job.wait()
    psutil.wait_procs(workers, timeout=60)  # they may end the file that they write
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("wav/[!.]*.wav")}
    assert 0 < len(before) < 4
    text = split(trained, tmp_path)
    assert f"{4 - len(before)} made, {len(before)} already there, 0 failed" in text
    assert bytes_of(tmp_path) == bytes_of(whole)
    for name, modified in before.items():
        assert (tmp_path / "wav" / name).stat().st_mtime_ns == modified, "made twice"


def test_a_video_of_25_seconds(trained, tmp_path):
    """As long as the picture, and no seam where the windows meet."""
    scenes = [make_scene("rain falling", seed) for seed in (1, 2, 3)]
    frames = [frame for scene in scenes for frame in render_frames(scene)][: 25 * 12]
    sound = np.concatenate([render_waveform(scene) for scene in scenes])[: 25 * SAMPLE_RATE]
    source = tmp_path / "film.mp4"
    write_video(source, frames, 12, sound, SAMPLE_RATE)
    run_here("generate", source, "--label", "rain falling", "--run", trained / "run", "-o", tmp_path / "out.mp4", *FAST)
    waveform, rate = read_wav(tmp_path / "out.wav")
    assert abs(len(waveform) / rate - 25) <= 1 / 12
    assert packets(source) == packets(tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert abs(container.duration / av.time_base - 25) <= 1 / 12 + 0.064  # an AAC frame
    # How much the spectrum changes from frame to frame, where windows begin and end and elsewhere.
    change = np.square(np.diff(log_mel(waveform), axis=1)).mean(0)
    for edge in (8, 10, 16, 18):
        here = change[edge * 100 - 5 : edge * 100 + 5].mean()
        around = [
            change[t - 5 : t + 5].mean() for t in range(edge * 100 - 100, edge * 100 + 100, 10) if t != edge * 100
        ]
        assert here < 2 * np.median(around), f"a seam at {edge} s"
    power = np.square(waveform[: 25 * rate]).reshape(-1, rate // 4).mean(1)
    for first, last in ((32, 40), (64, 72)):  # the cross-fades
        surroundings = np.concatenate([power[first - 8 : first], power[last : last + 8]])
        assert np.median(power[first:last]) < 2 * np.median(surroundings)


def test_candidates_keep_the_best_and_seeds_differ(trained, tmp_path):
    source = make_media(tmp_path / "clip.mp4", seconds=4)
    arguments = ("generate", source, "--run", trained / "run", *FAST)
    text = run_here(*arguments, "-o", tmp_path / "best.wav", "--candidates", 3, "--seed", 5)
    best = int(text.split("best of")[1].split("seed ")[1].split(",")[0])
    assert best in (5, 6, 7)
    run_here(*arguments, "-o", tmp_path / "one.wav", "--seed", best)
    run_here(*arguments, "-o", tmp_path / "other.wav", "--seed", best + 1)
    files = {name: (tmp_path / f"{name}.wav").read_bytes() for name in ("best", "one", "other")}
    assert files["best"] == files["one"]
    assert files["other"] != files["one"]
    assert len(read_wav(tmp_path / "one.wav")[0]) == 4 * SAMPLE_RATE
    assert "at least one" in run_here(*arguments, "-o", tmp_path / "x.wav", "--candidates", 0, code=4)


def test_a_mapper_of_another_preset(trained, tmp_path):
    text = run_here(
        "generate", make_media(tmp_path / "clip.mp4", seconds=2), "--run", trained / "run", "-o", tmp_path / "x.wav",
        "--set", "encoders.audiomae.width=64", code=5,
    )  # fmt: skip
    assert "needs 64" in text
    assert not (tmp_path / "x.wav").exists()


def test_another_scheduler_makes_another_folder(trained, whole):
    text = split(trained, whole, "--set", "generation.scheduler=DPMSolverMultistepScheduler", code=6)
    assert "another scheduler" in text


def test_the_option_fast(trained, tmp_path):
    """By command and from Python: the mapper and the features are those of the preset without it."""
    fast = load_preset("micro,fast").generation
    run_here(
        "generate", "--cache", trained / "cache", "--run", trained / "run", "-o", tmp_path / "out",
        "--preset", f"{TINY},fast", "--task-id", 0, "--num-tasks", 4,
    )  # fmt: skip
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert (settings["scheduler"], settings["steps"]) == (fast.scheduler, fast.steps)
    taken = VideoToAudio.from_pretrained(trained / "run" / "mapper", f"{TINY},fast").sampler.preset.generation
    assert (taken.scheduler, taken.steps) == (fast.scheduler, fast.steps)
    mapper = load_preset("micro").weights.path / "mapper"
    film = make_media(tmp_path / "film.mp4")
    run_here("generate", film, "--run", mapper.parent, "-o", tmp_path / "film.wav", "--preset", "micro,fast")
    assert read_wav(tmp_path / "film.wav")[0].shape == (160_000,)


def test_a_corrupt_clip_in_a_split_is_named(trained, whole, tmp_path):
    """Its features are cached; the file broke afterwards."""
    path = next((trained / "clips").rglob("clip3.mp4"))
    kept = path.read_bytes()
    path.write_bytes(b"no longer a video")
    try:
        text = split(trained, tmp_path, code=8)
    finally:
        path.write_bytes(kept)
    assert "3 made, 0 already there, 1 failed" in text
    rows = {row["clip_id"]: row for row in pq.read_table(tmp_path / "made.parquet").to_pylist()}
    assert "clip3.mp4" in rows["clip3"]["reason"]
    assert rows["clip3"]["wav"] == ""
