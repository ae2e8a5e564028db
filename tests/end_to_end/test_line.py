"""The real commands on real encoded media: the whole line in processes of their own, what is asked of it here."""

import hashlib
import json
import shutil

import av
import numpy as np
import pytest

from pipeline.media.writing import read_wav
from tests.commands import run, run_here
from tests.generate.test_mux import packets
from tests.media_factory import make_media
from tests.tiny import TINY

FAST = ("--set", "generation.steps=3")


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """Twelve rendered clips through the whole line."""
    folder = tmp_path_factory.mktemp("line")
    run("micro", "render", "--out", folder / "clips", "--clips", 12)
    # A small run: two clips for testing, four for training.
    for path in sorted((folder / "clips").rglob("*.mp4")):
        number = int(path.stem[5:11])
        if number not in (0, 1, 2, 3, 5, 11):
            path.unlink()
    run("pipeline", "extract", "--manifest", folder / "clips", "--cache", folder / "cache")
    run("trainer", "--cache", folder / "cache", "--run", folder / "run", "--set", "training.epochs=2")
    text = run("generate", "--cache", folder / "cache", "--run", folder / "run", "-o", folder / "out", *FAST)
    return folder, text


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "reports" not in path.parts
    }


def test_files_that_play(line):
    folder, text = line
    assert "2 made, 0 already there, 0 failed" in text
    for clip_id in ("world000005_000000", "world000011_000000"):
        waveform, rate = read_wav(folder / f"out/wav/{clip_id}.wav")
        assert (len(waveform), rate) == (160_000, 16_000)
        assert np.abs(waveform).max() > 1e-3
        crop, _ = read_wav(folder / f"out/wav_8s/{clip_id}.wav")
        np.testing.assert_array_equal(crop, waveform[:128_000])
        source = next((folder / "clips").rglob(f"{clip_id}.mp4"))
        assert packets(source) == packets(folder / f"out/mp4/{clip_id}.mp4")
        with av.open(str(folder / f"out/mp4/{clip_id}.mp4")) as container:
            assert container.streams.audio[0].codec_context.name == "aac"
            assert container.duration / av.time_base == pytest.approx(10, abs=0.1)
    page = (folder / "out/report.html").read_text()
    for link in ("wav/world000005_000000.wav", "png/world000011_000000.png", "truth/world000005_000000.wav"):
        assert link in page
        assert (folder / "out" / link).stat().st_size > 1000


def test_running_everything_again_changes_nothing(line):
    folder, _ = line
    before = tree(folder)
    assert "1 made, 0 already there" in run_here("micro", "render", "--out", folder / "clips2", "--clips", 1)
    shutil.rmtree(folder / "clips2")
    text = run_here("pipeline", "extract", "--manifest", folder / "clips", "--cache", folder / "cache")
    assert "0 made, 4 already there" in text
    text = run_here("trainer", "--cache", folder / "cache", "--run", folder / "run", "--set", "training.epochs=2")
    assert "0 now, 2 before" in text
    text = run_here("generate", "--cache", folder / "cache", "--run", folder / "run", "-o", folder / "out", *FAST)
    assert "0 made, 2 already there" in text
    after = tree(folder)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert changed <= {"cache/manifest.parquet", "out/report.html"}


def test_one_video_with_and_without_sound(line, tmp_path):
    folder, _ = line
    source = make_media(tmp_path / "mute.mp4", audio=None)
    run_here("generate", source, "--label", "dog barking", "--run", folder / "run", "-o", tmp_path / "out.mp4", *FAST)
    assert packets(source) == packets(tmp_path / "out.mp4")
    run("generate", source, "--run", folder / "run", "-o", tmp_path / "out.wav", *FAST)
    assert len(read_wav(tmp_path / "out.wav")[0]) == 160_000


def test_clip_without_sound_is_recorded_and_generated(line, tmp_path):
    folder, _ = line
    make_media(tmp_path / "videos" / "test" / "mute.mp4", audio=None)
    make_media(tmp_path / "videos" / "train" / "good.mp4")
    text = run_here("pipeline", "extract", "--manifest", tmp_path / "videos", "--cache", tmp_path / "cache")
    assert "1 audiomae: no_audio" in text
    text = run_here("generate", "--cache", tmp_path / "cache", "--run", folder / "run", "-o", tmp_path / "out", *FAST)
    assert "1 made" in text
    assert (tmp_path / "out/wav/mute.wav").is_file()


class TestBadInput:
    def test_folder_without_videos(self, tmp_path):
        text = run_here("pipeline", "extract", "--manifest", tmp_path, "--cache", tmp_path / "c", code=4)
        assert "holds no videos" in text

    def test_missing_manifest(self, tmp_path):
        text = run("pipeline", "extract", "--manifest", tmp_path / "no.parquet", "--cache", tmp_path / "c", code=4)
        assert "no.parquet does not exist" in text

    @pytest.mark.parametrize(
        ("content", "word"), [(None, "does not exist"), ("", "has no bytes"), ("x" * 999, "not a")]
    )
    def test_files_that_are_no_video(self, line, tmp_path, content, word):
        path = tmp_path / "clip.mp4"
        if content is not None:
            path.write_text(content)
        text = run_here("generate", path, "--run", line[0] / "run", "-o", tmp_path / "o.mp4", *FAST, code=4)
        assert word in text
        assert "clip.mp4" in text
        assert not (tmp_path / "o.mp4").exists()

    def test_every_clip_unusable(self, tmp_path):
        (tmp_path / "v").mkdir()
        (tmp_path / "v" / "text.mp4").write_text("not a video")
        (tmp_path / "v" / "empty.mp4").write_text("")
        text = run_here("pipeline", "extract", "--manifest", tmp_path / "v", "--cache", tmp_path / "c", code=7)
        assert "text.mp4" in text
        assert "empty.mp4" in text
        assert "2 of 2 clips" in text

    def test_unknown_preset_and_field(self, tmp_path):
        arguments = ("pipeline", "extract", "--manifest", tmp_path, "--cache", tmp_path / "c")
        assert "there are micro, paper" in run_here(*arguments, "--preset", "nano", code=3)
        assert "training.epoch" in run_here(*arguments, "--set", "training.epoch=1", code=3)

    def test_cache_of_other_weights(self, line, tmp_path):
        folder, _ = line
        other = ("--set", "weights.seed=8")
        arguments = ("pipeline", "extract", "--manifest", folder / "clips", "--cache", folder / "cache")
        assert "made by another weights" in run_here(*arguments, *other, code=6)
        run_here("pipeline", "extract", "--manifest", folder / "clips", "--cache", tmp_path / "c", *other)
        text = run_here(
            "generate", "--cache", tmp_path / "c", "--run", folder / "run", "-o", tmp_path / "o", *FAST, code=6
        )
        assert "the mapper was trained on features of another kind than these (weights of cavp: " in text
        assert not (tmp_path / "o").exists()

    def test_paper_preset_without_weights(self, tmp_path):
        make_media(tmp_path / "v" / "a.mp4", seconds=1)
        text = run_here(
            "pipeline", "extract", "--preset", "paper", "--manifest", tmp_path / "v", "--cache", tmp_path / "c",
            "--set", f"weights.folder={tmp_path / 'w'}", code=5,
        )  # fmt: skip
        for word in ("cavp_epoch66.ckpt", "eva_vit_g.pth", "timechat_7b.pth", "audiomae_16k_128bins.ckpt", "https://"):
            assert word in text
        assert not (tmp_path / "c").exists()

    def test_training_without_a_cache_and_generating_without_a_run(self, line, tmp_path):
        text = run_here("trainer", "--cache", tmp_path / "c", "--run", tmp_path / "r", code=6)
        assert "run make extract STAGE=cavp first" in text
        text = run_here("generate", "--cache", line[0] / "cache", "--run", tmp_path / "r", "-o", tmp_path / "o", code=5)
        assert "no trained mapper" in text


def test_manifest_command(tmp_path):
    make_media(tmp_path / "v" / "abcdefghijk_000030.mp4", seconds=1)
    (tmp_path / "vggsound.csv").write_text('abcdefghijk,30,"dog, barking",test\nzzzzzzzzzzz,1,cat,train\n')
    text = run_here(
        "pipeline", "manifest", "--vggsound", tmp_path / "vggsound.csv", "--videos", tmp_path / "v",
        "--out", tmp_path / "m.parquet",
    )  # fmt: skip
    assert "test 1, train 1" in text
    assert "missing_file 1, ok 1" in text


def test_reports_are_json(line):
    reports = list((line[0] / "cache" / "reports").glob("*.json"))
    assert reports
    values = json.loads(reports[0].read_text())
    assert values["clips_done"] == {"cavp": 6, "timechat": 6, "audiomae": 6, "flan_t5": 6}
    assert {"decode", "encode", "write", "total"} <= set(values["seconds"])


def test_weights_command(tmp_path):
    text = run_here("pipeline", "weights", "--preset", "paper", "--set", f"weights.folder={tmp_path}", code=5)
    assert text.count("MISSING") >= 13
    assert "CC BY-NC-SA 4.0" in text
    assert "needs no files" in run_here("pipeline", "weights", "--preset", TINY)
    text = run_here("pipeline", "weights", "--preset", "micro")
    assert "unet" in text
    assert "needs no other files" in text
