"""The stages of V2A-Mapper through the real command on a real encoded film, in both formats of the cache."""

import numpy as np
import pytest
import torch

from pipeline.cache import open_store
from pipeline.encoders import load_encoder
from pipeline.media import decode_clip
from presets import load_preset
from tests.commands import run_here
from tests.media_factory import make_media, tone
from tests.tiny import TINY


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    sound = tone(4, 44_100, 500) + tone(4, 44_100, 9_000)  # of which 16 kHz keeps one
    make_media(folder / "tones" / "a.mp4", seconds=4, audio=sound, rate=44_100, layout="stereo")
    make_media(folder / "tones" / "mute.mp4", seconds=3, audio=None)
    return folder


@pytest.mark.parametrize(
    ("cache_format", "stages"), [("hdf5", ["clip", "clap", "audiomae"]), ("webdataset", ["clip", "clap"])]
)
def test_extraction(clips, tmp_path, cache_format, stages):
    words = ["--manifest", clips, "--cache", tmp_path, "--format", cache_format, "--device", "cpu"]
    preset = load_preset(TINY, ["cache.decode_workers=0"])
    said = run_here("pipeline", "extract", *words, "--stage", ",".join(stages), "--set", "cache.decode_workers=0")
    assert "no_audio" in said
    store = open_store(tmp_path, cache_format)
    found = {stage: store.read(stage, 0) for stage in stages}
    assert found["clip"].features.shape == (2, 40, 64)
    assert found["clap"].features.shape == (1, 1, 64)
    assert [record.clip_id for record in found["clap"].left_out] == ["mute"]
    film = decode_clip(clips / "tones" / "a.mp4", preset.media, rates=[48_000])
    for stage in stages:
        row = found[stage].clip_ids.index("a")
        wanted = load_encoder(stage, preset=preset).encode_clips([film])[0].numpy()
        np.testing.assert_allclose(found[stage].features[row], wanted, rtol=2e-3, atol=2e-3)
    assert found["clap"].fingerprint["config"]["sample_rate"] == 48_000
    if "audiomae" in found:
        alone = torch.from_numpy(decode_clip(clips / "tones" / "a.mp4", preset.media).waveform[None])
        wanted = load_encoder("audiomae", preset=preset).encode(alone)[0].numpy().astype(np.float16)
        assert np.array_equal(found["audiomae"].features[0], wanted), "not one bit is moved by the sound at 48 kHz"
        assert found["clap"].fingerprint["media"] == found["audiomae"].fingerprint["media"]

    path = store.path("clap", 0)
    path.write_bytes(path.read_bytes()[:1000])
    again = run_here("pipeline", "extract", *words, "--stage", "clip,clap", "--set", "cache.decode_workers=0")
    assert "1 made, 1 already there" in again
    assert np.array_equal(store.read("clap", 0).features, found["clap"].features)
