"""A split from cached features, in this process: clips that fail, hostile ids and labels, tasks side by side."""

import errno
import json
import os
import threading
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from common.errors import CacheError, DeviceMemoryError, WriteError
from generate.audioldm2 import AudioLDM2
from generate.found import Found
from generate.mappers import note_other_preset
from generate.records import About, Outcome, prepare_folder, write_records
from generate.sampling import Sampler, Sound, load_sampler
from generate.split import _sampled, generate_split
from manifests.manifest import Clip
from pipeline.cache import open_store
from pipeline.media.writing import read_wav, wav_comment, write_wav
from pipeline.sources import SourceFile
from presets import load_preset
from tests.generate import refusing
from tests.generate.test_mux import make_picture, pictures
from tests.media_factory import make_media
from tests.tiny import TINY


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_media(tmp_path_factory.mktemp("clip") / "clip.mp4", seconds=1)


def made(out):
    return {row["clip_id"]: row for row in pq.read_table(out / "made.parquet").to_pylist()}


def noise(self, batch, on_step=None):
    return Sound(torch.full((len(batch.clip_ids), 160_000), 0.1))


@pytest.fixture
def any_sound(monkeypatch):
    """For tests of what becomes of the sound."""
    monkeypatch.setattr(Sampler, "start", noise)


class Links(HTMLParser):
    """What a browser would fetch."""

    def __init__(self, page):
        super().__init__()
        self.found, self.tags = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.found += [value for name, value in attributes if name in ("src", "href")]


ODD = {
    "-rf": "cash $x_{$ register",
    "100% #1?a=b&c": "<script>alert(1)</script> & [/bold]",
    "a [official] é": "",
    "x" * 251: "label \\frac{ " * 40,
}


def test_odd_ids_and_labels(generate, make_cache, clip, tmp_path, monkeypatch):
    monkeypatch.setattr("common.console.LINE_SECONDS", 0.0)
    cache = make_cache(tmp_path / "cache", {clip_id: (clip, label) for clip_id, label in ODD.items()})
    text = generate("--cache", cache, "-o", tmp_path / "out")
    assert "4 made, 0 already there, 0 failed" in text
    assert "\\frac{ label" in text  # as it is, in the progress
    rows = made(tmp_path / "out")
    assert set(rows) == set(ODD)
    for clip_id, row in rows.items():
        assert (row["wav"], row["video"]) == (f"wav/{clip_id}.wav", f"mp4/{clip_id}.mp4")
        assert pictures(tmp_path / "out" / row["video"]) == pictures(clip)
        assert len(read_wav(tmp_path / "out" / row["wav"])[0]) == 160_000
    page = Links((tmp_path / "out/report.html").read_text())
    assert "script" not in page.tags
    assert len(page.found) == 4 * 4
    for link in page.found:
        parts = urlsplit(link)
        assert not parts.scheme
        assert not parts.query
        assert not parts.fragment
        assert (tmp_path / "out" / unquote(parts.path)).stat().st_size > 100


@pytest.fixture
def sampler(run_folder):
    return load_sampler(load_preset(TINY, ["generation.steps=1"]), run_folder / "mapper")


HOSTILE = ["../../victim", "/{tmp}/victim", "..", "a\0b", "a\nb", "x" * 300]


def test_ids_that_lead_elsewhere(sampler, make_cache, clip, tmp_path):
    """Whatever a manifest got past its reader: nothing is written outside OUT, and the others are made."""
    (tmp_path / "victim.wav").write_bytes(b"untouched")
    ids = [clip_id.replace("{tmp}", str(tmp_path)[1:]) for clip_id in HOSTILE]
    store = open_store(make_cache(tmp_path / "cache", {"good": (clip, "l")}), "hdf5")
    clips = [Clip(clip_id, "", 0, "l", "test", str(clip)) for clip_id in [*ids, "good"]]
    outcome = generate_split(sampler, store, clips, tmp_path / "deep" / "out")
    assert (outcome.done, set(outcome.failed)) == (["good"], set(ids))
    assert all("cannot be the name of a file" in reason for reason in outcome.failed.values())
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "deep", "victim.wav"}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    assert (tmp_path / "victim.wav").read_bytes() == b"untouched"
    assert made(tmp_path / "deep" / "out")["good"]["wav"] == "wav/good.wav"


def test_one_clip_that_fails_does_not_end_the_job(generate, make_cache, clip, tmp_path, monkeypatch):
    """A damaged file, NaN and Inf in the sound, a label on which the text encoder breaks: each named, exit code 8."""
    (tmp_path / "broken.mp4").write_bytes(clip.read_bytes()[:2000])
    clips = {name: (clip, name) for name in ("good1", "good2", "nan", "inf", "text")}
    cache = make_cache(tmp_path / "cache", {**clips, "broken": (tmp_path / "broken.mp4", "")})
    order = sorted([*clips, "broken"])
    decode, encode, at = AudioLDM2.decode_on_device, AudioLDM2.encode_labels, {"row": 0}

    def encode_labels(self, labels):
        if "text" in labels:
            raise RuntimeError("no such token")
        at["labels"] = labels
        return encode(self, labels)

    def decode_broken(self, latents, samples, batch=4):
        waveforms = decode(self, latents, samples, batch).clone()
        for row, label in enumerate(at["labels"]):
            if label in ("nan", "inf"):
                waveforms[row, 7] = float(label)
        return waveforms

    monkeypatch.setattr(AudioLDM2, "encode_labels", encode_labels)
    monkeypatch.setattr(AudioLDM2, "decode_on_device", decode_broken)
    text = generate("--cache", cache, "-o", tmp_path / "out", "--set", "generation.batch=3", code=8)
    assert "2 made, 0 already there, 4 failed" in text
    rows = made(tmp_path / "out")
    assert list(rows) == order
    assert [clip_id for clip_id in order if rows[clip_id]["wav"]] == ["good1", "good2"]
    assert "non_finite: the sampler gave NaN or Inf" in rows["nan"]["reason"]
    assert "non_finite: the sampler gave NaN or Inf" in rows["inf"]["reason"]
    assert rows["text"]["reason"] == "RuntimeError: no such token"
    assert "broken.mp4" in rows["broken"]["reason"]
    for folder in ("wav", "wav_8s"):
        assert {path.stem for path in (tmp_path / "out" / folder).iterdir()} == {"good1", "good2"}
    monkeypatch.undo()
    monkeypatch.setattr(Sampler, "start", noise)
    text = generate("--cache", cache, "-o", tmp_path / "out", code=8)
    assert "3 made, 2 already there, 1 failed" in text
    assert {clip_id: row["reason"] == "" for clip_id, row in made(tmp_path / "out").items()} == {
        clip_id: clip_id != "broken" for clip_id in order
    }


@pytest.mark.usefixtures("any_sound")
def test_many_failures_are_named_where_they_all_are(generate, make_cache, tmp_path):
    cache = make_cache(tmp_path / "cache", {f"clip{n:02}": (tmp_path / "gone.mp4", "") for n in range(12)})
    text = generate("--cache", cache, "-o", tmp_path / "out", "--set", "generation.batch=6", code=8)
    assert text.count("failed clip") == 10
    assert "12 of 12 clips could not be generated (10 are named above)" in text
    assert f"{tmp_path / 'out' / 'made.parquet'} has every clip" in text
    assert all("gone.mp4" in row["reason"] for row in made(tmp_path / "out").values())


def test_pictures_that_mp4_does_not_take(generate, make_cache, tmp_path):
    videos = {
        "vp8": make_picture(tmp_path / "vp8.webm", "libvpx"),
        "wmv": make_picture(tmp_path / "wmv.wmv", "wmv2"),
        "av1": make_picture(tmp_path / "av1.mp4", "libsvtav1"),
    }
    cache = make_cache(tmp_path / "cache", {clip_id: (path, "") for clip_id, path in videos.items()})
    text = generate("--cache", cache, "-o", tmp_path / "out")
    assert "3 made" in text
    assert "notes" in text
    rows = made(tmp_path / "out")
    assert [rows[name]["video"] for name in ("av1", "vp8", "wmv")] == ["mp4/av1.mp4", "mp4/vp8.mkv", "mp4/wmv.mp4"]
    assert "vp8 cannot be copied into .mp4: .mkv is written" in rows["vp8"]["note"]
    assert "encoded again" in rows["wmv"]["note"]
    assert pictures(tmp_path / "out/mp4/vp8.mkv") == pictures(videos["vp8"])
    assert "mp4/vp8.mkv" in Links((tmp_path / "out/report.html").read_text()).found
    # Never encoded: the clip has its sound, and is told why it has no video; what was said of it is kept.
    for _ in range(2):
        generate("--cache", cache, "-o", tmp_path / "copy", "--video-codec", "copy")
        rows = made(tmp_path / "copy")
        assert (rows["wmv"]["wav"], rows["wmv"]["video"]) == ("wav/wmv.wav", "")
        assert "wmv2 cannot be copied into .mp4 or .mkv" in rows["wmv"]["note"]
    generate("--cache", cache, "-o", tmp_path / "h264", "--video-codec", "h264")
    for clip_id in videos:
        with av.open(str(tmp_path / "h264/mp4" / f"{clip_id}.mp4")) as container:
            assert container.streams.video[0].codec_context.name == "h264"
    assert "auto, copy, h264" in generate("--cache", cache, "-o", tmp_path / "no", "--video-codec", "vp9", code=4)


class TestInputsAndFoldersThatCannotBe:
    @pytest.fixture(autouse=True)
    def nothing_is_computed(self, monkeypatch):
        def refuse(*arguments, **options):
            raise AssertionError("the sampler was loaded")

        monkeypatch.setattr("generate.sampling.load_sampler", refuse)

    @pytest.mark.parametrize("link", [None, os.symlink, os.link])
    def test_an_input_in_its_place(self, generate, make_cache, clip, tmp_path, link):
        """The user's own folder is called mp4, and OUT is the one above."""
        video = tmp_path / "videos" / "mp4" / "song.mp4"
        video.parent.mkdir(parents=True)
        if link is None:
            video.write_bytes(clip.read_bytes())
        else:
            (tmp_path / "true.mp4").write_bytes(clip.read_bytes())
            link(tmp_path / "true.mp4", video)
        path = video if link is None else tmp_path / "true.mp4"
        cache = make_cache(tmp_path / "cache", {"song": (path, "")})
        text = generate("--cache", cache, "-o", tmp_path / "videos", code=6)
        assert "never written over" in text
        assert video.read_bytes() == clip.read_bytes()
        assert [p.name for p in (tmp_path / "videos").iterdir()] == ["mp4"]

    def test_out_is_a_file_or_below_one(self, generate, make_cache, clip, tmp_path):
        cache = make_cache(tmp_path / "cache", {"song": (clip, "")})
        (tmp_path / "file").write_text("x")
        for out in ("file", "file/out"):
            assert "is a file, not a folder" in generate("--cache", cache, "-o", tmp_path / out, code=6)


@pytest.mark.parametrize(
    ("number", "words", "where"),
    [
        (errno.ENOSPC, "the disk is full", "wav_8s"),
        (errno.EROFS, "read-only", "png"),
        (errno.EDQUOT, "quota", "wav_8s"),
        (errno.EACCES, "denied", "png"),
    ],
)
@pytest.mark.usefixtures("any_sound")
def test_a_disk_that_takes_no_more_blames_no_clip(
    sampler, make_cache, clip, tmp_path, monkeypatch, number, words, where
):
    """The kernel's answer to a write in a worker, put in: root may write everywhere, and a disk is rarely full."""
    store = open_store(make_cache(tmp_path / "cache", {"a": (clip, ""), "b": (clip, "")}), "hdf5")
    clips = [Clip(name, "", 0, "", "test", str(clip)) for name in ("a", "b")]
    monkeypatch.setenv("REFUSED", f"{number} /{where}/")
    monkeypatch.setattr("generate.clip_files.write_clip", refusing.write_clip)
    with pytest.raises(WriteError, match=words) as caught:
        generate_split(sampler, store, clips, tmp_path / "out")
    assert caught.value.exit_code == 6
    assert "clip.mp4" not in str(caught.value)
    assert not list((tmp_path / "out").glob("wav/*"))
    assert_nothing_is_left(tmp_path / "out")
    assert {row["reason"] for row in made(tmp_path / "out").values()} == {"not made yet"}
    monkeypatch.delenv("REFUSED")  # there is room again
    if number == errno.ENOSPC:
        assert generate_split(sampler, store, clips, tmp_path / "out").done == ["a", "b"]


def assert_nothing_is_left(out):
    assert [path for path in out.rglob("*") if path.name.startswith(".")] == []


# --- what tasks share ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("any_sound")
def test_reasons_of_other_tasks_are_kept(generate, make_cache, clip, tmp_path):
    names = [f"clip{n}" for n in range(4)]
    bad = tmp_path / "gone.mp4"
    cache = make_cache(tmp_path / "cache", {name: (bad if name in ("clip1", "clip2") else clip, "") for name in names})
    for task in (0, 1):
        generate("--cache", cache, "-o", tmp_path / "out", "--task-id", task, "--num-tasks", 2, code=8)
    rows = made(tmp_path / "out")
    assert [bool(rows[name]["wav"]) for name in names] == [True, False, False, True]
    assert all("gone.mp4" in rows[name]["reason"] for name in ("clip1", "clip2"))


def test_tasks_that_end_together_lose_nothing(tmp_path):
    """Twelve tasks of two clips each write the shared files at the same time, several times."""
    clips = [Clip(f"clip{n:02}", "", 0, "l", "test", "") for n in range(24)]
    start = threading.Barrier(12)

    def task(number):
        start.wait()
        prepare_folder(tmp_path, {"steps": 1})
        outcome = Outcome(failed={f"clip{n:02}": f"reason {n}" for n in (number, number + 12)})
        write_records(About(load_preset(TINY), {"steps": 1}), clips, outcome, tmp_path)

    threads = [threading.Thread(target=task, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: row["reason"] for name, row in made(tmp_path).items()} == {
        f"clip{n:02}": f"reason {n}" for n in range(24)
    }
    assert {path.name for path in tmp_path.iterdir()} == {"tasks.lock", "made.parquet", "report.html", "settings.json"}


def test_tasks_of_other_settings_never_mix(tmp_path):
    """Whoever is first decides; all others of other settings are told so."""
    start, refused = threading.Barrier(6), []

    def task(number):
        start.wait()
        try:
            prepare_folder(tmp_path, {"steps": number})
        except CacheError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=task, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 5
    assert all("another steps" in text for text in refused)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"steps": '])
def test_damaged_settings(tmp_path, text):
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(CacheError, match=r"settings\.json"):
        prepare_folder(tmp_path, {"steps": 1})


def test_a_folder_of_something_else(tmp_path):
    (tmp_path / "report.html").write_text("my thesis")
    with pytest.raises(CacheError, match="did not write"):
        prepare_folder(tmp_path, {"steps": 1})
    assert (tmp_path / "report.html").read_text() == "my thesis"


def test_a_damaged_list_is_made_anew(tmp_path):
    write_wav(tmp_path / "wav" / "a.wav", np.zeros(10), 16_000)
    (tmp_path / "made.parquet").write_bytes(b"PAR1")
    write_records(About(load_preset(TINY), {}), [Clip("a", "", 0, "", "test", "")], Outcome(), tmp_path)
    assert made(tmp_path)["a"]["wav"] == "wav/a.wav"
    assert json.loads(pq.read_table(tmp_path / "made.parquet").schema.metadata[b"settings"])["preset"] == "tiny"


def test_a_batch_that_fails_is_tried_clip_by_clip(sampler):
    clips = [Clip(name, "", 0, name, "test", "") for name in ("a", "b", "c")]
    features = {"cavp": np.zeros((40, 64), np.float32), "timechat": np.zeros((10, 96), np.float32)}
    batch = [Found(clip, "lacks", "", features) for clip in clips]

    def sampled():
        ((given, made),) = _sampled(sampler, iter([batch]), Outcome())
        assert given is batch
        return made

    whole = sampled()
    real = sampler.audio_model.encode_labels

    def fails(labels):
        if "b" in labels:
            raise RuntimeError("no b")
        return real(labels)

    sampler.audio_model.encode_labels = fails
    alone = sampled()
    assert str(alone[1]) == "no b"
    for row in (0, 2):
        np.testing.assert_allclose(alone[row], whole[row], atol=5e-3)

    def too_large(labels):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    sampler.audio_model.encode_labels = too_large
    with pytest.raises(DeviceMemoryError, match=r"generation\.batch.*2 GiB") as caught:
        sampled()
    assert caught.value.exit_code == 8


def test_what_was_made_of_something_else_is_made_again(generate, make_cache, clip, tmp_path):
    """A video replaced in place by one without sound, and another label: no old sound or truth is taken for theirs."""
    folder, out = tmp_path / "media", tmp_path / "out"
    folder.mkdir()
    videos = {name: folder / f"{name}.mp4" for name in ("kept", "replaced", "relabelled")}
    for path in videos.values():
        path.write_bytes(clip.read_bytes())
    labels = dict.fromkeys(videos, "dog")
    cache = make_cache(tmp_path / "cache", {name: (path, labels[name]) for name, path in videos.items()})
    assert "3 made" in generate("--cache", cache, "--out", out)
    before = {path: path.read_bytes() for path in out.rglob("*.wav")}
    os.utime(videos["kept"])  # copied about: its content is the same
    make_media(videos["replaced"], seconds=1, audio=False)
    cache = make_cache(
        tmp_path / "cache2", {name: (path, "cat" if name == "relabelled" else "dog") for name, path in videos.items()}
    )
    text = generate("--cache", cache, "--out", out)
    assert "2 made, 1 already there" in text
    assert "made again" in text
    assert not (out / "truth" / "replaced.wav").exists()
    after = {path: path.read_bytes() for path in out.rglob("*.wav")}
    assert {path.stem for path in after if after[path] != before[path]} >= {"relabelled"}
    assert all(after[path] == before[path] for path in after if path.stem == "kept")
    assert "0 made, 3 already there" in generate("--cache", cache, "--out", out)
    videos["kept"].unlink()  # gone: its sound stays right
    assert "0 made, 3 already there" in generate("--cache", cache, "--out", out)


@pytest.mark.parametrize("text", ["", '{"conditions": "x", "video": ""}', "[1]", "é" * 999])
def test_the_comment_of_a_wav(tmp_path, text):
    path = tmp_path / "a.wav"
    write_wav(path, np.zeros(101, np.float32), 16_000, text)
    assert wav_comment(path) == text
    assert len(read_wav(path)[0]) == 101
    with av.open(str(path)) as file:
        assert file.metadata.get("comment", "") == text
    path.write_bytes(path.read_bytes()[:60])
    assert wav_comment(path) == "" == wav_comment(tmp_path / "none.wav")


def test_a_mapper_of_another_preset_is_said(capsys):
    """AudioLDM-2 of one preset makes noise of the tokens of another's AudioMAE."""
    settings = load_preset(TINY)
    note_other_preset("mi[/x]cro", settings)
    assert "trained with preset 'mi[/x]cro', and this is 'tiny'" in capsys.readouterr().out
    for same in ("tiny", None):
        note_other_preset(same, settings)
    assert capsys.readouterr().out == ""


def test_features_of_another_video_are_not_put_beside_a_new_one(generate, make_cache, clip, tmp_path):
    """Replaced in place and not extracted again: old features and the new picture and truth do not belong together."""
    videos = {name: tmp_path / "media" / f"{name}.mp4" for name in ("kept", "replaced")}
    for path in videos.values():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(clip.read_bytes())
    cache = make_cache(tmp_path / "cache", {name: (path, "dog") for name, path in videos.items()})
    store = open_store(cache)
    states = {name: SourceFile(path).state for name, path in videos.items()}
    for stage in store.stages():
        store.write(stage, 0, replace(store.read(stage, 0), files=states))
    assert "2 made" in generate("--cache", cache, "--out", tmp_path / "before")
    make_media(videos["replaced"], seconds=1, audio=False)
    os.utime(videos["kept"])
    for out, there in (("before", True), ("after", False)):
        text = generate("--cache", cache, "--out", tmp_path / out, code=8)
        assert "1 failed" in text
        assert "run make extract" in " ".join(text.split())
        assert (tmp_path / out / "wav" / "replaced.wav").exists() is there
        assert (tmp_path / out / "wav" / "kept.wav").exists()
