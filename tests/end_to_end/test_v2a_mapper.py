"""V2A-Mapper's line, clip -> v2a -> clap -> audioldm, through the real commands on real encoded files."""

import json

import numpy as np
import pytest

from common.errors import CacheError, WeightsError
from generate.video_to_audio import VideoToAudio
from pipeline.cache import open_store
from pipeline.media.writing import read_wav
from presets import load_preset
from tests.commands import run_here
from tests.media_factory import make_media
from tests.tiny import TINY

SETTINGS = (
    "target=clap", "audio_model=audioldm", "mapper.kind=v2a", "mapper.encoders=[clip]", "mapper.layers=1",
    "mapper.width=32", "mapper.dropout=0", "mapper.sampling_steps=3", "training.epochs=1", "generation.steps=2",
    "cache.decode_workers=0",
)  # fmt: skip
SET = [word for setting in SETTINGS for word in ("--set", setting)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two clips to train on and two to generate; the mapper saw one epoch."""
    folder = tmp_path_factory.mktemp("trained")
    for number, split in enumerate(("train", "train", "test", "test")):
        make_media(folder / "clips" / split / "tone" / f"clip{number}.mp4", seconds=3 + number, size=(64, 64))
    run_here(
        "pipeline", "extract", "--manifest", folder / "clips", "--cache", folder / "cache", "--device", "cpu", *SET
    )
    run_here("trainer", "--cache", folder / "cache", "--run", folder / "run", "--device", "cpu", *SET)
    return folder


def generate(folder, *words, code=0):
    return run_here("generate", *words, "--run", folder / "run", "--device", "cpu", *SET, code=code)


def test_a_split_again_and_with_other_settings(trained, tmp_path):
    assert set(open_store(trained / "cache").stages()) == {"clip", "clap"}, "no label is read, so none is encoded"
    words = ("--cache", trained / "cache", "-o", tmp_path)
    assert "2 made, 0 already there, 0 failed" in generate(trained, *words)
    sounds = [read_wav(tmp_path / "wav" / f"clip{number}.wav")[0] for number in (2, 3)]
    assert all(len(sound) == 160_000 and np.abs(sound).max() > 1e-3 for sound in sounds)
    assert not np.array_equal(*sounds)
    assert len(json.loads((tmp_path / "settings.json").read_text())["audioldm"]) == 32
    (tmp_path / "wav" / "clip3.wav").unlink()
    assert "1 made, 1 already there" in generate(trained, *words)
    again = read_wav(tmp_path / "wav" / "clip3.wav")[0]
    assert np.linalg.norm(again - sounds[1]) < 1e-3 * np.linalg.norm(again), "whatever is beside it in a batch"
    zeros = ("--set", "audio_models.audioldm.negative=zeros")
    assert "audioldm: " in generate(trained, *words, *zeros, code=CacheError.exit_code)


def test_a_film_and_a_folder(trained, tmp_path):
    film = make_media(tmp_path / "films" / "long.mp4", seconds=12, size=(64, 64))
    make_media(tmp_path / "films" / "short.mp4", seconds=2, size=(64, 64))
    said = generate(trained, tmp_path / "films", "-o", tmp_path / "out")
    assert "2 made" in said
    assert "0 made, 2 already there" in generate(trained, tmp_path / "films", "-o", tmp_path / "out")
    said = generate(trained, film, "-o", tmp_path / "alone.wav", "--candidates", 2)
    assert "token cosine" in said
    waveform, rate = read_wav(tmp_path / "alone.wav")
    assert (round(len(waveform) / rate), rate) == (12, 16_000)


def test_a_mapper_of_another_target_is_refused(trained):
    """What fits AudioLDM-2 alone, and the other way round."""
    with pytest.raises(WeightsError, match="predicts features of clap; preset 'tiny' needs audiomae"):
        VideoToAudio.from_pretrained(trained / "run", load_preset(TINY, ["audio_model=audioldm2"]), "cpu")
    with pytest.raises(WeightsError, match="predicts 1 tokens a clip; preset 'tiny' needs 8"):
        VideoToAudio.from_pretrained(trained / "run", load_preset(TINY, ["target=clap"]), "cpu")
