"""Folders of videos, models that are loaded once for all tests of this process, and a sampler that is quick."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from generate.sampling import Sampler
from generate.video_to_audio import VideoToAudio
from pipeline.decoding import DecodePool
from presets import load_preset
from tests.generate.folder.made import SMALL
from tests.media_factory import make_media
from tests.tiny import TINY


@pytest.fixture(scope="package")
def loaded(run_folder):
    return VideoToAudio.from_pretrained(run_folder, load_preset(TINY, SMALL[1:]))


@pytest.fixture(scope="package")
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


@pytest.fixture(scope="package")
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
