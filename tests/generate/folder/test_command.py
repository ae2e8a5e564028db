"""The real command on a folder of videos: bad files, an interrupt, a kill."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import PurePath

import numpy as np
import pytest

from generate.sampling import Sampler
from manifests.folders import MADE_FILMS
from tests.commands import ROOT, run
from tests.generate.folder.made import SMALL, files, lines
from tests.generate.test_mux import sound_of
from tests.media_factory import make_media
from tests.tiny import TINY


def test_twenty_files_of_which_five_are_bad(run_folder, clip, tmp_path):
    folder, out = tmp_path / "videos", tmp_path / "out"
    good = [f"dog_barking/a{n}.mp4" for n in range(7)] + [f"deep/er/b{n}.mkv" for n in range(4)]
    good += [f"c{n}.mp4" for n in range(4)]
    for name in good:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(clip, folder / name)
    data = clip.read_bytes()
    bad = {
        "empty.mp4": b"",
        "text.mp4": b"this is no video\n" * 50,
        "dog_barking/corrupt.mp4": data[:200] + bytes(reversed(data[200:])),
        "truncated.mp4": data[: len(data) // 2],
    }
    for name, content in bad.items():
        (folder / name).write_bytes(content)
    make_media(folder / "sound.mp4", seconds=1, video=False)
    (folder / ".hidden.mp4").write_bytes(data)
    (folder / "notes.txt").write_text("no video")
    arguments = ("generate", folder, "--run", run_folder, "-o", out, *SMALL, "--device", "cpu", "--steps", 2)
    text = run(*arguments, code=8)
    assert "15 made, 0 already there, 5 failed" in text
    assert "5 of 20 videos could not be made (named above)" in text
    assert "s of sound a second" in text or "s a second" in text
    for name in (*bad, "sound.mp4"):
        assert f" {name}: " in text
    assert files(out) == {str(PurePath(name).with_suffix(".mp4")) for name in good}
    for name in files(out):
        assert np.abs(sound_of(out / name)).max() > 0.003
    record = {line["video"]: line for line in lines(out)}
    assert len(record) == 20
    assert {name for name, line in record.items() if line["reason"]} == {*bad, "sound.mp4"}
    assert record["dog_barking/a0.mp4"]["label"] == "dog barking"
    assert record["deep/er/b0.mkv"]["label"] == "er"
    assert record["c0.mp4"]["label"] == ""


def test_interrupted_and_run_again(generate, videos, sampled, tmp_path, monkeypatch):
    folder, stub = videos("a.mp4", "b.mp4", "c.mp4"), Sampler.synthesise

    def interrupted(self, *arguments, **options):
        if len(sampled) == 2:
            raise KeyboardInterrupt
        return stub(self, *arguments, **options)

    options = (*SMALL, "--set", "generation.batch=1")
    monkeypatch.setattr(Sampler, "synthesise", interrupted)
    assert "run the same command again to go on" in generate(folder, "-o", tmp_path / "out", *options, code=130)
    monkeypatch.setattr(Sampler, "synthesise", stub)
    recorded = len(lines(tmp_path / "out")) if (tmp_path / "out" / MADE_FILMS).exists() else 0
    assert f"{3 - recorded} made, {recorded} already" in generate(folder, "-o", tmp_path / "out", *options)
    assert files(tmp_path / "out") == {"a.mp4", "b.mp4", "c.mp4"}


@pytest.mark.slow
def test_killed_in_the_middle_and_run_again(run_folder, generate, videos, tmp_path):
    folder = videos(*(f"v{n}.mp4" for n in range(3)))
    options = (*SMALL, "--set", "generation.batch=1", "--suffix", ".wav")
    words = ["-m", "generate", folder, "-o", tmp_path / "out", "--run", run_folder, "--preset", TINY, *options]
    job = subprocess.Popen(
        [sys.executable, *map(str, words), "--steps", "3", "--device", "cpu"], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    try:
        limit = time.monotonic() + 120
        while not files_there(tmp_path / "out") and time.monotonic() < limit and job.poll() is None:
            time.sleep(0.01)
    finally:
        os.kill(job.pid, signal.SIGKILL)
        job.wait()
    kept = {path: path.stat().st_mtime_ns for path in files_there(tmp_path / "out")}
    recorded = len(lines(tmp_path / "out")) if (tmp_path / "out" / MADE_FILMS).exists() else 0
    assert 0 < len(kept) < 3
    text = generate(folder, "-o", tmp_path / "out", *options, "--steps", "3")
    assert f"{3 - recorded} made, {recorded} already there, 0 failed" in text
    assert sum(path.stat().st_mtime_ns == modified for path, modified in kept.items()) == recorded
    assert files(tmp_path / "out") == {f"v{n}.wav" for n in range(3)}
    generate(folder, "-o", tmp_path / "whole", *options, "--steps", "3")
    for path in files_there(tmp_path / "out"):
        assert path.read_bytes() == (tmp_path / "whole" / path.name).read_bytes()


def files_there(out):
    return [path for path in out.glob("*.wav") if not path.name.startswith(".")]
