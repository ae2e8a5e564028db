"""``python -m generate FOLDER``: what is made of a folder of videos, where, and what a rerun does."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path, PurePath

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from common.errors import InputError
from generate.__main__ import app
from generate.film_plan import output_stems
from generate.labels import labels_of_table
from generate.mappers import mapper_source
from generate.sampling import Sampler
from generate.video_to_audio import VideoToAudio
from manifests.folders import MADE_FILMS, find_videos
from pipeline.decoding import DecodePool
from pipeline.media.writing import read_wav
from presets import load_preset
from tests.commands import ROOT, run
from tests.generate.test_mux import make_picture, sound_of
from tests.media_factory import make_media
from tests.tiny import TINY
from trainer.registry import shipped_mapper

SMALL = ("--set", "media.frame_size=56")


@pytest.fixture(scope="module")
def loaded(run_folder):
    return VideoToAudio.from_pretrained(run_folder, load_preset(TINY, SMALL[1:]))


@pytest.fixture(scope="module")
def pools():
    """Worker processes by their number, for all tests in this process."""

    class Kept(DecodePool):
        def __exit__(self, *exception):
            pass

        def abandon(self):
            pass

    kept = {}
    yield lambda media, workers, *limits: kept.setdefault(workers, Kept(media, workers, *limits))
    for pool in kept.values():
        DecodePool.__exit__(pool)


@pytest.fixture(autouse=True)
def loaded_once(loaded, pools, monkeypatch):
    """The models are loaded once for all tests in this process, which differ in the settings of generation alone."""
    monkeypatch.setattr("generate.films.DecodePool", pools)

    def load(mapper, preset, device):
        assert preset.media == loaded.sampler.preset.media
        return VideoToAudio(replace(loaded.sampler, preset=preset), loaded.encoders, device)

    monkeypatch.setattr(VideoToAudio, "from_pretrained", load)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_media(tmp_path_factory.mktemp("clip") / "clip.mp4", seconds=1)


@pytest.fixture
def videos(tmp_path, clip):
    """``videos("a.mp4", "rain/b.mp4", ...)``: a folder of copies of one clip."""

    def make(*names):
        for name in names:
            path = tmp_path / "videos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(clip, path)
        return tmp_path / "videos"

    return make


@pytest.fixture
def sampled(monkeypatch):
    """The sampler gives a tone at once; what it was asked for is kept: labels, settings, size of the batch."""
    calls = []

    def synthesise(self, tokens, labels, noise, seeds, on_step=lambda: None):
        calls.append((list(labels), self.preset.generation, len(tokens)))
        wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(self.preset.media.samples) / 16_000)
        return np.tile(wave.astype(np.float32), (len(tokens), 1))

    monkeypatch.setattr(Sampler, "synthesise", synthesise)
    return calls


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MADE_FILMS}


def lines(out):
    return [json.loads(line) for line in (out / MADE_FILMS).read_text().splitlines()]


# --- the real command ----------------------------------------------------------------------------------


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


# --- the sound -----------------------------------------------------------------------------------------


def test_the_same_sound_as_one_by_one(generate, videos, tmp_path):
    """Windows of several films share batches; a film of more windows than a batch is made by itself."""
    folder = videos("short.mp4", "rain/other.mp4")
    for name, seconds in (("film.mp4", 15), ("long.mp4", 25)):
        make_media(folder / name, seconds=seconds, fps=4, audio=None, values=[9 * n % 256 for n in range(4 * seconds)])
    options = (*SMALL, "--set", "generation.batch=2", "--seed", 3)
    text = generate(folder, "-o", tmp_path / "out", "--suffix", "wav", *options)
    assert "4 made" in text
    for name, label in (("short", ""), ("rain/other", "rain"), ("film", ""), ("long", "")):
        generate(folder / f"{name}.mp4", "-o", tmp_path / "one.wav", "--label", label, *options)
        one, rate = read_wav(tmp_path / "one.wav")
        many, _ = read_wav(tmp_path / "out" / f"{name}.wav")
        assert len(one) == len(many) >= rate
        assert np.abs(one).max() > 0.003
        np.testing.assert_allclose(many, one, rtol=0, atol=2 / 32768)


def test_candidates(generate, videos, tmp_path):
    folder = videos("a.mp4")
    options = (*SMALL, "--candidates", 2, "--seed", 5)
    generate(folder, "-o", tmp_path / "out", "--suffix", "wav", *options)
    text = generate(folder / "a.mp4", "-o", tmp_path / "one.wav", *options)
    (line,) = lines(tmp_path / "out")
    assert f"seed {line['seed']}, token cosine {line['score']:.3f}" in text
    one, many = (read_wav(path)[0] for path in (tmp_path / "one.wav", tmp_path / "out" / "a.wav"))
    np.testing.assert_allclose(many, one, rtol=0, atol=2 / 32768)


def test_a_batch_has_windows_of_several_videos(generate, videos, sampled, tmp_path):
    generate(videos("a.mp4", "b.mp4", "c.mp4"), "-o", tmp_path / "out", *SMALL, "--set", "generation.batch=2")
    assert [size for _, _, size in sampled] == [2, 1]


def test_a_sound_that_is_not_finite_fails_alone(generate, videos, tmp_path, monkeypatch):
    def synthesise(self, tokens, labels, noise, seeds, on_step=lambda: None):
        waves = np.full((len(tokens), self.preset.media.samples), 0.1, np.float32)
        waves[0] = np.nan
        return waves

    monkeypatch.setattr(Sampler, "synthesise", synthesise)
    text = generate(videos("a.mp4", "b.mp4"), "-o", tmp_path / "out", *SMALL, code=8)
    assert "failed      a.mp4: the sampler gave NaN or Inf" in text
    assert files(tmp_path / "out") == {"b.mp4"}


def test_a_batch_that_fails_is_tried_one_by_one(generate, videos, tmp_path, monkeypatch):
    def synthesise(self, tokens, labels, noise, seeds, on_step=lambda: None):
        if "bad" in labels:
            raise RuntimeError("a defect")
        return np.full((len(tokens), self.preset.media.samples), 0.1, np.float32)

    monkeypatch.setattr(Sampler, "synthesise", synthesise)
    text = generate(videos("bad/a.mp4", "good/b.mp4"), "-o", tmp_path / "out", *SMALL, code=8)
    assert "RuntimeError: a defect" in text
    assert files(tmp_path / "out") == {"good/b.mp4"}


# --- a rerun -------------------------------------------------------------------------------------------


def test_a_rerun_makes_what_is_of_something_else_by_now(generate, videos, sampled, clip, tmp_path):
    folder, out = videos("rain/a.mp4", "rain/b.mp4", "c.mp4"), tmp_path / "out"

    def again(*more, code=0):
        text = generate(folder, "-o", out, *SMALL, *more, code=code)
        return text.split("videos", 1)[1].split("\n")[0].strip()

    assert again() == "3 made, 0 already there, 0 failed"
    before = {name: (out / name).stat().st_mtime_ns for name in files(out)}
    assert again("--set", "generation.batch=1") == "0 made, 3 already there, 0 failed"
    assert {name: (out / name).stat().st_mtime_ns for name in files(out)} == before
    os.utime(folder / "c.mp4")  # touched, and the same
    assert again() == "0 made, 3 already there, 0 failed"
    make_media(folder / "c.mp4", seconds=2)  # another video
    assert again() == "1 made, 2 already there, 0 failed"
    assert again("--label", "rain") == "1 made, 2 already there, 0 failed"  # c.mp4 had none
    assert again("--label", "rain", "--seed", 7) == "3 made, 0 already there, 0 failed"
    assert again("--label", "rain", "--seed", 7, "--suffix", "wav") == "3 made, 0 already there, 0 failed"
    assert again("--label", "rain", "--seed", 7) == "0 made, 3 already there, 0 failed"  # beside the wavs
    (out / "c.mp4").unlink()
    assert again("--label", "rain", "--seed", 7) == "1 made, 2 already there, 0 failed"
    with (out / MADE_FILMS).open("a") as record:  # what a killed writer left
        record.write('{"video": "rain/a.mp4", "outp')
    (out / "c.mp4").unlink()
    assert again("--label", "rain", "--seed", 7) == "1 made, 2 already there, 0 failed"
    assert again("--label", "rain", "--seed", 7) == "0 made, 3 already there, 0 failed"
    (folder / "c.mp4").write_bytes(b"no longer a video")
    assert again("--label", "rain", "--seed", 7, code=8) == "0 made, 2 already there, 1 failed"
    assert not (out / "c.mp4").exists(), "the sound of another video"


def test_files_of_others_are_not_written_over(generate, videos, sampled, tmp_path):
    folder, out = videos("a.mp4"), tmp_path / "out"
    out.mkdir()
    (out / "a.mp4").write_bytes(b"mine")
    assert "did not make" in generate(folder, "-o", out, *SMALL, code=6)
    assert "never written over" in generate(folder, "-o", folder, *SMALL, code=6)
    assert (out / "a.mp4").read_bytes() == b"mine"
    assert sampled == []


def test_outputs_are_no_inputs(generate, videos, sampled, tmp_path):
    """In a folder inside of the videos, or beside them with another suffix."""
    folder = videos("a.mp4", "rain/b.mp4")
    for out, suffix in ((folder / "made", ".mp4"), (folder, ".mkv")):
        for _ in range(2):
            generate(folder, "-o", out, *SMALL, "--suffix", suffix)
        assert {path.relative_to(folder).as_posix() for path in find_videos(folder).paths} == {"a.mp4", "rain/b.mp4"}
    assert {"a.mkv", "rain/b.mkv", "made/a.mp4", "made/rain/b.mp4"} <= files(folder)
    assert "holds no videos" in generate(folder / "made", "-o", folder / "made", *SMALL, code=4)


def test_tasks_share_a_folder(generate, videos, sampled, tmp_path):
    folder = videos("a.mp4", "b.mp4", "c.mp4")
    for task, made in ((0, 2), (1, 1)):
        text = generate(folder, "-o", tmp_path / "out", *SMALL, "--task-id", task, "--num-tasks", 2)
        assert f"{made} made" in text
    assert files(tmp_path / "out") == {"a.mp4", "b.mp4", "c.mp4"}


# --- labels --------------------------------------------------------------------------------------------


class TestLabels:
    def test_one_for_all(self, generate, videos, sampled, tmp_path):
        generate(videos("a.mp4", "rain/b.mp4"), "-o", tmp_path / "out", *SMALL, "--label", "bell ringing")
        assert [labels for labels, _, _ in sampled] == [["bell ringing", "bell ringing"]]

    def test_a_table(self, generate, videos, sampled, tmp_path):
        folder = videos("a.mp4", "rain/b.mp4", "c.mp4")
        (tmp_path / "labels.csv").write_bytes(
            '\ufefffile,label\nb.mp4,"glass, breaking"\na.mp4,bell\nx.mp4,y\n'.encode()
        )
        text = generate(folder, "-o", tmp_path / "out", *SMALL, "--labels", tmp_path / "labels.csv")
        assert [labels for labels, _, _ in sampled] == [["bell", "", "glass, breaking"]]
        assert "note: rows of --labels that name no video: 1 (x.mp4 (" in text
        assert "labels.csv:4))" in text
        assert "note: videos without a row in --labels, which have no label: 1 (c.mp4)" in text

    def read(self, tmp_path, text, name="labels.csv", videos=("a.mp4", "one/b.mp4", "two/b.mp4")):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return labels_of_table(tmp_path / name, [PurePath(video) for video in videos]).labels

    def test_tabs_paths_and_no_header(self, tmp_path):
        text = "one/b.mp4\tbell, large\n\n./two\\b.mp4\train\n"
        assert self.read(tmp_path, text, "labels.tsv") == ["", "bell, large", "rain"]

    @pytest.mark.parametrize("separator", [";", "\t"])
    def test_what_spreadsheets_write(self, tmp_path, separator):
        rows = ["file,label", 'a.mp4,"glass, breaking"', "one/b.mp4,rain"]
        text = "".join(f"{row}\r\n" for row in rows).replace(",", separator).replace(f"s{separator} b", "s, b")
        assert self.read(tmp_path, text) == ["glass, breaking", "rain", ""]
        assert self.read(tmp_path, f"sep={separator}\r\n{text}") == ["glass, breaking", "rain", ""]

    def test_paths_from_elsewhere(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "lists").mkdir()
        table = tmp_path / "lists" / "labels.csv"
        table.write_text(f"{tmp_path}/films/one/b.mp4,rain\nfilms/two/b.mp4,bell\n../films/a.mp4,dog\n")
        names = [PurePath(name) for name in ("a.mp4", "one/b.mp4", "two/b.mp4")]
        assert labels_of_table(table, names, Path("films")).labels == ["dog", "rain", "bell"]

    def test_accents_in_either_form(self, tmp_path):
        assert self.read(tmp_path, "caf\u00e9.mp4,x\n", videos=["cafe\u0301.mp4"]) == ["x"]

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("a.mp4,bell\na.mp4,rain\n", r"csv:2: 'a.mp4' has the label rain, and bell in .*csv:1"),
            ("a.mp4,bell\n./a.mp4,rain\n", r"csv:2: './a.mp4' has the label"),
            ("b.mp4,rain\n", r"csv:1: several videos are called 'b.mp4': one/b.mp4, two/b.mp4"),
            ("file,label\na.mp4\n", r"csv:2: 1 fields between commas instead of 2"),
            ("a.mp4,glass, breaking\n", r"csv:1: 3 fields .* quotation marks"),
            (",rain\n", r"csv:1: "),
            (
                "x.mp4,rain\ny.mp4,bell\n",
                r"none of its rows names a video: it has 2 \(x.mp4 .*the videos are 3 \(a.mp4,",
            ),
            ("file,label\n", r"lists no files"),
            ('a.mp4,"rain\n', r"csv:1: "),
        ],
    )
    def test_tables_that_cannot_be(self, tmp_path, text, says):
        with pytest.raises(InputError, match=says.replace("label rain, and bell", "label 'rain', and 'bell'")):
            self.read(tmp_path, text)

    def test_a_row_that_stands_twice_counts_once(self, tmp_path):
        assert self.read(tmp_path, "a.mp4,bell\na.mp4,bell\n") == ["bell", "", ""]

    def test_no_table(self, generate, videos, sampled, tmp_path):
        text = generate(videos("a.mp4"), "-o", tmp_path / "out", "--labels", tmp_path / "no.csv", code=4)
        assert "no.csv does not exist" in text


# --- names ---------------------------------------------------------------------------------------------


def test_names_that_would_collide():
    assert output_stems([PurePath("a.mkv"), PurePath("a.mp4"), PurePath("b/a.mp4")]) == ["a__mkv", "a", "a"]
    with pytest.raises(InputError, match=r"a__mkv.mp4 .*would both be written as 'a__mkv'|would both be written"):
        output_stems([PurePath("a.mkv"), PurePath("a.mp4"), PurePath("a__mkv.mp4")])


def test_a_picture_that_the_container_does_not_take(generate, sampled, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    make_picture(folder / "a.mkv", "libvpx")
    for _ in range(2):
        text = generate(folder, "-o", tmp_path / "out", *SMALL)
        assert files(tmp_path / "out") == {"a.mkv"}
    assert "1 already there" in text
    text = generate(folder, "-o", tmp_path / "none", "--suffix", "mov", "--video-codec", "copy", *SMALL, code=8)
    assert "vp8 cannot be copied into .mov" in text
    assert len(sampled) == 1, "it is said before anything is computed"


def test_videos_in_tars(generate, sampled, clip, tmp_path):
    (tmp_path / "videos").mkdir()
    with tarfile.open(tmp_path / "videos" / "shard.tar", "w") as tar:
        tar.add(clip, "a.mp4")
        text = b'{"caption": "bell ringing"}'
        entry = tarfile.TarInfo("a.json")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))
    for done in ("1 made, 0 already there", "0 made, 1 already there"):
        assert done in generate(tmp_path / "videos", "-o", tmp_path / "out", *SMALL)
    assert files(tmp_path / "out") == {"shard.tar/a.mp4"}
    assert [labels for labels, _, _ in sampled] == [["bell ringing"]]


def test_links(generate, videos, sampled, clip, tmp_path):
    folder = videos("a.mp4")
    os.symlink(clip, folder / "linked.mp4")
    os.symlink(folder, folder / "back")
    text = generate(folder, "-o", tmp_path / "out", *SMALL)
    assert files(tmp_path / "out") == {"a.mp4", "linked.mp4"}
    assert "back: it is a link back to" in " ".join(text.split())


# --- flags ---------------------------------------------------------------------------------------------


@pytest.fixture(params=["video", "folder"])
def made(request, generate, videos, tmp_path):
    """``made(suffix, *flags)``: the output of a film of 3 s with a tone of its own, given alone or in a folder."""

    def make(suffix, *flags, code=0):
        folder = videos()
        if not (folder / "a.mp4").exists():
            make_media(folder / "a.mp4", seconds=3, fps=20)
        path = tmp_path / "out" / f"a{suffix}"
        if request.param == "folder":
            text = generate(folder, "-o", tmp_path / "out", "--suffix", suffix, *SMALL, *flags, code=code)
        else:
            text = generate(folder / "a.mp4", "-o", path, *SMALL, *flags, code=code)
        return text if code else path

    return make


def streams(path):
    with av.open(str(path)) as file:
        sounds = [(stream.codec_context.codec.canonical_name, stream.rate) for stream in file.streams.audio]
        return sounds, file.duration / av.time_base, bool(file.streams.video)


@pytest.mark.parametrize(
    ("suffix", "sound"),
    [(".mp4", "aac"), (".mkv", "aac"), (".mov", "aac"), (".wav", "pcm_s16le"), (".flac", "flac")],
)
def test_suffixes(made, sampled, suffix, sound):
    rate = 48_000 if sound == "aac" else 16_000
    tracks, seconds, picture = streams(made(suffix))
    assert (tracks, picture) == ([(sound, rate)], sound == "aac")
    assert seconds == pytest.approx(3, abs=0.1)


def test_the_sampler_flags(made, sampled):
    made(
        ".wav", "--steps", 7, "--guidance", 2.5, "--scheduler", "EulerDiscreteScheduler", "--seed", 9,
        "--negative-prompt", "hiss: loud", "--set", "generation.steps=5", "--label", "bell",
    )  # fmt: skip
    ((labels, generation, _),) = sampled
    assert labels == ["bell"]
    chosen = (generation.steps, generation.guidance_scale, generation.scheduler, generation.seed)
    assert chosen == (7, 2.5, "EulerDiscreteScheduler", 9)
    assert generation.negative_prompt == "hiss: loud"


def test_a_part(made, sampled):
    _, seconds, _ = streams(made(".mp4", "--start", 1, "--duration", 1.5))
    assert seconds == pytest.approx(1.5, abs=0.1)
    assert len(read_wav(made(".wav", "--start", 1, "--duration", 1.5))[0]) == 24_000
    assert len(sampled) == 2


def test_the_rate(made, sampled):
    waveform, rate = read_wav(made(".wav", "--rate", 44_100))
    assert rate == 44_100
    assert len(waveform) == pytest.approx(3 * 44_100, abs=2)
    assert streams(made(".flac", "--rate", 48_000))[0] == [("flac", 48_000)]


def test_the_films_own_sound(made, sampled):
    """The sampler's tone and the film's own are of one pitch and phase: mixed at -60 dB it is ours alone, else both."""

    def loudness(path):
        sound = sound_of(path).ravel()
        return np.sqrt(np.square(sound[len(sound) // 3 : len(sound) // 2]).mean())

    assert loudness(made(".mkv", "--audio", "mix", "--gain", "-60")) == pytest.approx(0.3 / 2**0.5, rel=0.05)
    assert loudness(made(".mkv", "--audio", "mix")) == pytest.approx(0.6 / 2**0.5, rel=0.1)
    assert len(streams(made(".mkv", "--audio", "add-track"))[0]) == 2


@pytest.mark.parametrize(
    ("kind", "flags", "says"),
    [
        ("video", ("--labels", "x.csv"), "--labels is for a folder of videos, and "),
        ("video", ("--suffix", "mkv"), "--suffix is for a folder of videos"),
        ("video", ("--cache", "c"), "--cache is for a split of --cache"),
        ("video", ("--split", "test"), "--split is for a split"),
        ("video", ("--num-tasks", "2"), "--num-tasks is for a folder of videos or a split"),
        ("folder", ("--label", "x", "--labels", "x.csv"), "--label and --labels"),
        ("folder", ("--manifest", "m"), "--manifest is for a split"),
        ("folder", ("--rate", "44100"), "--rate is for .wav and .flac, and .mp4 files"),
        ("video", ("--gain", "3"), "--gain is of the video's own sound, which --audio replace"),
        ("video", ("--audio", "mix", "-o", "x.wav"), "--audio mix is for videos, and .wav files"),
        ("split", ("--label", "x"), "--label is for one video or a folder of videos, and no video was named"),
        ("split", ("--start", "1"), "--start is for one video"),
        ("split", ("--candidates", "2"), "--candidates is for one video"),
    ],
)
def test_flags_that_do_not_go_together(generate, videos, sampled, tmp_path, kind, flags, says):
    place = {"video": [videos("a.mp4") / "a.mp4"], "folder": [videos("a.mp4")], "split": []}[kind]
    assert says in generate(*place, *flags, code=2)


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (("--steps", 0), 3, "generation.steps is 0"),
        (("--guidance", -1), 3, "generation.guidance_scale is -1"),
        (("--scheduler", "Dream"), 4, "no scheduler 'Dream'"),
        (("--seed", -1), 3, "generation.seed is -1"),
        (("--candidates", 0), 4, "at least one"),
        (("--start", -1), 4, "start is -1"),
        (("--duration", 0), 4, "duration is 0"),
        (("--suffix", "avi"), 4, "no output of kind '.avi'"),
        (("--audio", "loud"), 4, "unknown way 'loud'"),
        (("--audio", "mix", "--gain", "99"), 4, "from -60 to 60 dB"),
        (("--suffix", "wav", "--rate", 5), 4, "8000"),
        (("--suffix", "webm", "--video-codec", "h264"), 4, "holds no H.264"),
    ],
)
def test_values_that_cannot_be(generate, videos, sampled, tmp_path, flags, code, says):
    assert says in generate(videos("a.mp4"), "-o", tmp_path / "out", *flags, code=code)
    assert not (tmp_path / "out").exists()


# --- the mapper ----------------------------------------------------------------------------------------


class TestMapper:
    def test_without_a_run_the_one_that_ships(self, clip, tmp_path, monkeypatch):
        """Nothing is trained and nothing is given but the film."""
        monkeypatch.undo()  # the models of micro
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        result = CliRunner().invoke(app, [str(clip), "-o", "out.mp4", "--steps", "2", "--device", "cpu"])
        assert result.exit_code == 0, result.output
        assert "the one that ships with preset micro" in result.output
        assert np.abs(sound_of(tmp_path / "out.mp4")).max() > 0.003

    def test_where_none_ships_it_is_said_before_anything_is_loaded(self, clip, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        result = CliRunner().invoke(app, [str(clip), "-o", "out.mp4", "--preset", "paper", "--device", "cpu"])
        assert result.exit_code == 5
        assert "no trained mapper ships with the preset 'paper'" in result.output
        assert all(word in result.output for word in ("make train", "the hub", "--run"))

    def test_the_run_of_the_preset_comes_first_for_a_split(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        micro, paper = load_preset("micro"), load_preset("paper")
        shipped = shipped_mapper(micro)
        assert [mapper_source(None, micro, split=split) for split in (True, False)] == [shipped, shipped]
        for name in ("micro", "paper"):
            (tmp_path / "runs" / name / "mapper").mkdir(parents=True)
        assert mapper_source(None, micro, split=True) == Path("runs/micro")
        assert mapper_source(None, micro, split=False) == shipped
        assert mapper_source(None, paper, split=False) == Path("runs/paper")
        assert mapper_source("me/mapper", micro, split=True) == "me/mapper"

    def test_a_bucket_is_no_run(self, clip, tmp_path):
        result = CliRunner().invoke(app, [str(clip), "-o", str(tmp_path / "o.mp4"), "--run", "s3://bucket/run"])
        assert (result.exit_code, "must be local" in result.output) == (4, True)
