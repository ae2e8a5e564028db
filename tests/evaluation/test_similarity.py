"""VisualSound's filter on one's own clips. The network is a stand-in of a few numbers; all around it is real."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from common.errors import WeightsError
from evaluation import extract as extraction
from evaluation import similarity
from evaluation.__main__ import app
from evaluation.networks.imagebind import ImageBind
from manifests.builders import clips_from_folder
from manifests.manifest import make_manifest, read_manifest, write_manifest
from pipeline.probing import probe_clips
from tests.media_factory import make_media, tone

SIZE = (32, 48)


class Loudness(ImageBind):
    """ImageBind's readers; a bright picture fits a loud sound, a dark one a quiet sound."""

    seen = 0

    def __init__(self):
        torch.nn.Module.__init__(self)

    def encode(self, waveforms):
        type(self).seen += len(waveforms)
        high = (waveforms.square().mean(dim=1).sqrt() > 0.1).float()
        return {"imagebind_audio.pth": {"": torch.stack([high, 1 - high], dim=1)}}

    def encode_video(self, frames):
        type(self).seen += len(frames)
        high = (frames.float().mean(dim=(1, 2, 3, 4)) > 128).float()
        return {"imagebind_video.pth": {"": torch.stack([high, 1 - high], dim=1)}}


@pytest.fixture
def clips(tmp_path, monkeypatch):
    """Two that fit, one that does not, and four that cannot be judged."""
    folder = tmp_path / "clips" / "train"
    for name, level, loudness in (("fits", 200, 0.5), ("quiet", 20, 0.01), ("odd", 20, 0.5)):
        make_media(folder / f"{name}.mp4", fps=4, size=SIZE, values=[level] * 40, audio=tone(10, amplitude=loudness))
    make_media(folder / "mute.mp4", fps=4, size=SIZE, audio=None)
    make_media(folder / "short.mp4", fps=4, size=SIZE, seconds=5)
    (folder / "broken.mp4").write_bytes(b"no video")
    Loudness.seen = 0
    monkeypatch.setattr(similarity, "load_network", lambda kind, folder, device: Loudness())
    return tmp_path / "clips"


def run(*arguments):
    return CliRunner().invoke(app, ["filter", *map(str, arguments)])


def test_what_fits_is_kept_with_its_score_and_the_rest_is_named(clips, tmp_path):
    result = run("--manifest", clips, "--out", tmp_path / "fit.parquet", "--device", "cpu")
    assert result.exit_code == 0, result.output
    kept = {row["clip_id"]: row["imagebind_similarity"] for row in pq.read_table(tmp_path / "fit.parquet").to_pylist()}
    assert kept == {"fits": 1.0, "quiet": 1.0}
    assert [clip.clip_id for clip in read_manifest(tmp_path / "fit.parquet").clips] == ["fits", "quiet"]
    others = {row["clip_id"]: row for row in pq.read_table(tmp_path / "fit.left_out.parquet").to_pylist()}
    assert set(others) == {"odd", "mute", "short", "broken"}
    assert others["odd"]["imagebind_similarity"] == 0.0
    assert others["odd"]["reason"] == "similarity 0.000 is under 0.3"
    assert others["mute"]["imagebind_similarity"] is None
    for clip_id, why in (("mute", "no_audio"), ("short", "too_short"), ("broken", "unreadable")):
        assert why in others[clip_id]["reason"]
        assert f"excluded {clip_id}" in result.output


def test_it_goes_on_where_it_was_stopped(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "SAVE_EVERY", 1)
    made = make_manifest(probe_clips(clips_from_folder(clips)), 4)
    write_manifest(made, tmp_path / "all.parquet")
    encode = Loudness.encode_video
    calls = []

    def interrupted(self, frames):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(self, frames)

    arguments = ("--manifest", tmp_path / "all.parquet", "--out", tmp_path / "fit.parquet", "--batch", 1)
    monkeypatch.setattr(Loudness, "encode_video", interrupted)
    assert run(*arguments).exit_code == 130
    monkeypatch.setattr(Loudness, "encode_video", encode)
    before = Loudness.seen
    assert run(*arguments).exit_code == 0
    assert Loudness.seen - before == 1  # of three pictures two were there, and every sound
    assert run(*arguments, "--threshold", -1).exit_code == 0  # another threshold needs no network
    assert Loudness.seen - before == 1
    assert [clip.clip_id for clip in read_manifest(tmp_path / "fit.parquet").clips] == ["fits", "odd", "quiet"]


def test_a_threshold_that_nothing_passes_is_an_error_with_examples(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(similarity, "cosine_per_clip", lambda seen, heard: np.full(len(seen), 0.1))
    result = run("--manifest", clips, "--out", tmp_path / "fit.parquet")
    assert result.exit_code == 4
    assert "no clip of 6 passes the filter" in result.output
    assert not (tmp_path / "fit.parquet").exists()


@pytest.mark.parametrize("preset", ["paper", "micro"])
def test_without_the_weights_it_says_which_are_needed(preset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_media(tmp_path / "clips" / "a.mp4", fps=4, size=SIZE)
    result = run("--manifest", "clips", "--out", "fit.parquet", "--preset", preset)
    assert result.exit_code == WeightsError.exit_code
    assert "imagebind_huge.pth from https://dl.fbaipublicfiles.com/imagebind/imagebind_huge.pth" in result.output


@pytest.mark.parametrize("name", ["mine.parquet", "fits.mp4", "mine.left_out.parquet"])
def test_no_input_is_written_over(clips, tmp_path, monkeypatch, name):
    """Neither the manifest (also where the file of what is left out would be) nor a video; said before any work."""
    made = make_manifest(probe_clips(clips_from_folder(clips)), 4)
    manifest = tmp_path / ("mine.parquet" if name == "fits.mp4" else name)
    write_manifest(made, manifest)
    video = clips / "train" / "fits.mp4"
    before = {path: path.read_bytes() for path in (manifest, video)}
    out = video if name == "fits.mp4" else tmp_path / "mine.parquet"
    result = run("--manifest", manifest, "--out", out)
    assert result.exit_code == 6
    assert "which is never written over" in result.output
    assert {path: path.read_bytes() for path in before} == before
    assert Loudness.seen == 0
