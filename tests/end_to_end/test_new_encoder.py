"""An encoder of a file of its own and one line of the registry goes through the whole line."""

import numpy as np
import pytest

from common.errors import PresetError
from pipeline.cache import open_store
from pipeline.media import decode_clip
from presets import load_preset
from presets.encoders import ENCODERS
from tests.commands import run_here
from tests.media_factory import make_media
from tests.tiny import TINY

FILE = '''
"""The mean colour of the cells of a picture: an encoder without weights."""

from typing import ClassVar

from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from pipeline.encoders.base import Encoder
from presets.checks import STRICT, Count
from presets.encoders import EncoderConfig


@dataclass(config=STRICT, frozen=True)
class MeanColourConfig(EncoderConfig):
    encoder: ClassVar = "mean_colour:MeanColour"
    reads: ClassVar = "frames"

    cells: Count = 2


class MeanColour(Encoder):
    name = "mean_colour"

    def encode(self, frames: Tensor) -> Tensor:
        """uint8 (B, T, 3, H, W) -> (B, T, 3 * cells * cells), in [0, 1]."""
        frames = frames.to(self.device).float() / 255
        return adaptive_avg_pool2d(frames.flatten(0, 1), self.config.cells).reshape(*frames.shape[:2], -1)
'''
SETTINGS = (
    "mapper.encoders=[mean_colour]", "encoders.mean_colour.cells=1", "mapper.layers=1", "training.epochs=1",
    "generation.steps=1", "cache.decode_workers=0",
)  # fmt: skip
SET = [word for setting in SETTINGS for word in ("--set", setting)]


@pytest.fixture
def registered(tmp_path, monkeypatch):
    (tmp_path / "mean_colour.py").write_text(FILE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(ENCODERS, "_places", dict(ENCODERS._places))
    ENCODERS.add("mean_colour", "mean_colour:MeanColourConfig")


def test_the_whole_line(registered, tmp_path):
    clips, cache, run, out = (tmp_path / name for name in ("clips", "cache", "run", "out"))
    for split in ("train", "validation", "test"):
        film = make_media(clips / split / "tone" / f"{split}.mp4", seconds=3, size=(64, 64))
    run_here("pipeline", "extract", "--manifest", clips, "--cache", cache, "--device", "cpu", *SET)
    store = open_store(cache)
    assert set(store.stages()) == {"mean_colour", "audiomae", "flan_t5"}
    made = store.read("mean_colour", 0)
    row = made.clip_ids.index("test")
    assert made.features.shape == (3, 40, 3)
    wanted = decode_clip(film, load_preset(TINY).media).frames.mean(axis=(1, 2)) / 255
    np.testing.assert_allclose(made.features[row], wanted, atol=1e-3)
    assert made.fingerprint["config"] == {"cells": 1, "precision": "float32"}
    said = run_here("pipeline", "status", cache, "--preset", TINY, *SET)
    assert "mean_colour" in said
    assert "cavp" not in said
    again = run_here("pipeline", "extract", "--manifest", clips, "--cache", cache, "--device", "cpu", *SET)
    assert "0 made, 3 already there" in again

    run_here("trainer", "--cache", cache, "--run", run, "--device", "cpu", *SET)
    said = run_here("generate", "--cache", cache, "--run", run, "-o", out, "--device", "cpu", *SET)
    assert "1 made, 0 already there, 0 failed" in said
    run_here("generate", film, "--run", run, "-o", tmp_path / "one.wav", "--device", "cpu", *SET)
    assert (tmp_path / "one.wav").stat().st_size > 16_000


def test_its_settings_are_checked_where_the_preset_is_read(registered):
    """And what is wrong is said as of every other encoder."""
    assert load_preset(TINY).encoders.mean_colour.cells == 2
    assert "mean_colour" not in load_preset(TINY).stages
    for assignment, said in (
        ("encoders.mean_colour.cells=0", "encoders.mean_colour.cells is 0, and must be a whole number from 1"),
        (
            "encoders.mean_colour.cell=3",
            "is no setting of encoders.mean_colour: did you mean encoders.mean_colour.cells",
        ),
        ("encoders.mean_color.cells=3", "is no setting of encoders: did you mean encoders.mean_colour"),
        ("mapper.encoders=[audiomae]", "one or more of cavp, timechat, clip, mean_colour, each once"),
    ):
        with pytest.raises(PresetError, match=said):
            load_preset(TINY, [assignment])
