"""An audio model and a target of files of their own, a line of a registry each, go through the whole line."""

import json

import numpy as np
import pytest
import torch

from common.errors import CacheError, PresetError, WeightsError
from generate.sampling import load_sampler
from pipeline.cache import open_store
from pipeline.media.writing import read_wav
from presets import load_preset
from presets.audio_models import AUDIO_MODELS
from presets.encoders import ENCODERS
from tests.commands import run_here
from tests.end_to_end.test_new_encoder import FILE as MEAN_COLOUR
from tests.media_factory import make_media
from tests.tiny import TINY
from trainer.mapper import read_spec

LOUDNESS = '''
"""How loud each of five parts of a clip is, and how rough: an encoder of sound without weights."""

from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from pipeline.encoders.base import Encoder
from presets.checks import STRICT
from presets.encoders import EncoderConfig


@dataclass(config=STRICT, frozen=True)
class LoudnessConfig(EncoderConfig):
    encoder: ClassVar = "loudness:Loudness"
    reads: ClassVar = "waveform"
    dimension: ClassVar = 2


class Loudness(Encoder):
    name = "loudness"

    def encode(self, waveform: Tensor) -> Tensor:
        """(B, samples) -> (B, 5, 2)."""
        parts = waveform.to(self.device).unflatten(1, (5, -1))
        return torch.stack([parts.square().mean(-1).sqrt(), parts.diff(dim=-1).abs().mean(-1)], -1)
'''
SINES = '''
"""A sine for each token, as loud as its first value says, and a little of the start noise: no label is read."""

from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass

from generate.audio_model import AudioModel
from presets.audio_models import AudioModelConfig
from presets.checks import STRICT, Width


@dataclass(config=STRICT, frozen=True)
class SinesConfig(AudioModelConfig):
    loader: ClassVar = "sines:load"
    tokens: ClassVar = 5

    pitch: Width = 440


class Sines(AudioModel):
    sample_rate, latent_shape, latent_seconds, device = 8000, (1, 20), 0.5, torch.device("cpu")

    def __init__(self, pitch):
        super().__init__(fingerprint=f"sines-{pitch}")
        self.pitch = pitch

    def synthesise(self, tokens, labels, noise, seeds, samples, generation, rows=0, on_step=lambda: None):
        """As long a part for each token."""
        time = torch.arange(samples) / self.sample_rate
        level = (0.2 + tokens[..., 0].sigmoid() / 2).repeat_interleave(samples // tokens.shape[1], dim=1)
        hiss = noise[:, 0].repeat_interleave(samples // noise.shape[2], dim=1)
        for _ in range(generation.steps):
            on_step()
        return level * torch.sin(2 * torch.pi * self.pitch * time) + hiss / 100


def load(preset, device, cache):
    return Sines(preset.audio.pitch)
'''
SETTINGS = (
    "target=loudness", "audio_model=sines", "audio_models.sines.pitch=500", "mapper.encoders=[mean_colour]",
    "mapper.layers=1", "mapper.width=2", "mapper.heads=2", "training.epochs=1", "generation.steps=3",
    "cache.decode_workers=0",
)  # fmt: skip
SET = [word for setting in SETTINGS for word in ("--set", setting)]


@pytest.fixture
def registered(tmp_path, monkeypatch):
    for name, text in (("mean_colour", MEAN_COLOUR), ("loudness", LOUDNESS), ("sines", SINES)):
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for registry in (ENCODERS, AUDIO_MODELS):
        monkeypatch.setattr(registry, "_places", dict(registry._places))
    ENCODERS.add("mean_colour", "mean_colour:MeanColourConfig")
    ENCODERS.add("loudness", "loudness:LoudnessConfig")
    AUDIO_MODELS.add("sines", "sines:SinesConfig")


def test_the_whole_line(registered, tmp_path):
    clips, cache, run, out = (tmp_path / name for name in ("clips", "cache", "run", "out"))
    for split in ("train", "validation", "test"):
        make_media(clips / split / "tone" / f"{split}.mp4", seconds=3, size=(64, 64))
    run_here("pipeline", "extract", "--manifest", clips, "--cache", cache, "--device", "cpu", *SET)
    assert set(open_store(cache).stages()) == {"mean_colour", "loudness"}, "no label is read, so none is encoded"
    run_here("trainer", "--cache", cache, "--run", run, "--device", "cpu", *SET)
    spec = read_spec(run / "mapper")
    assert (spec.target, spec.target_encoder) == ((5, 2), "loudness")
    assert "Predicts 5 x 2 values of loudness" in (run / "mapper" / "README.md").read_text()

    words = ("generate", "--cache", cache, "--run", run, "-o", out, "--device", "cpu", *SET)
    assert "1 made, 0 already there, 0 failed" in run_here(*words)
    waveform, rate = read_wav(out / "wav" / "test.wav")
    assert (len(waveform), rate) == (80_000, 8000)
    assert abs(np.fft.rfft(waveform)).argmax() == 5000, "500 Hz for 10 s"
    assert json.loads((out / "settings.json").read_text())["sines"] == "sines-500"
    assert "0 made, 1 already there" in run_here(*words)
    said = run_here(*words, "--set", "audio_models.sines.pitch=501", code=CacheError.exit_code)
    assert "sines: sines-500 there, sines-501 here" in said

    longer = make_media(tmp_path / "film.mp4", seconds=12, size=(64, 64))
    said = run_here(
        "generate", longer, "--run", run, "-o", tmp_path / "film.wav", "--device", "cpu", "--candidates", 2, *SET
    )
    assert "token cosine" in said
    waveform, rate = read_wav(tmp_path / "film.wav")
    assert (round(len(waveform) / rate), rate) == (12, 8000)


def test_a_mapper_and_an_audio_model_that_do_not_fit(registered, tmp_path, run_of_the_tiny_preset):
    """Each says what it has and what is wanted, before weights are read."""
    for assignment, said in (
        ("target=loudness", "predicts features of audiomae; preset 'tiny' needs loudness"),
        ("audio_model=sines", "predicts 8 tokens a clip; preset 'tiny' needs 5"),
        ("encoders.audiomae.width=48", "predicts 96 values a token; preset 'tiny' needs 48"),
    ):
        with pytest.raises(WeightsError, match=said):
            load_sampler(load_preset(TINY, [assignment]), run_of_the_tiny_preset)


def test_settings_are_checked_where_the_preset_is_read(registered):
    assert load_preset(TINY).audio_models.sines.pitch == 440
    assert load_preset(TINY, ["audio_model=sines", "generation.steps=5000"]).audio.pitch == 440
    for assignment, said in (
        ("audio_model=audioldm3", "audio_model is audioldm3, and must be one of audioldm2, audioldm, sines"),
        ("audio_models.sines.pitch=0", "audio_models.sines.pitch is 0, and must be a whole number from 1"),
        ("audio_models.sine.pitch=3", "no setting of audio_models: did you mean audio_models.sines"),
        ("target=cavp", "target is cavp, and must be one of audiomae, clap, loudness"),
    ):
        with pytest.raises(PresetError, match=said):
            load_preset(TINY, [assignment])


@pytest.fixture
def run_of_the_tiny_preset(tmp_path):
    from trainer.mapper import MapperSpec
    from trainer.registry import build_mapper

    spec = MapperSpec(load_preset(TINY).mapper, {"cavp": 64, "timechat": 96}, {"cavp": 40, "timechat": 10}, (8, 96))
    torch.manual_seed(0)
    build_mapper(spec).save_pretrained(tmp_path / "mapper")
    return tmp_path / "mapper"
