"""From a wav and an mp4 to feature files, against what av-benchmark's own code gives for the same input and weights."""

import numpy as np
import pytest
import torch

from evaluation.caches import read_cache
from evaluation.extract import extract
from evaluation.networks import NETWORKS, seeded_network
from evaluation.networks.imagebind import ImageBind
from evaluation.networks.synchformer import Synchformer
from evaluation.resampling import resample
from evaluation.sounds import SoundInput
from tests.evaluation.official import load_official, write_float_wav, write_lossless
from tests.recipe import draw, golden, pictures, sound

TOLERANCE = 5e-6  # of the norm; measured: 2e-7 to 1.6e-6
FILES = {  # feature file, part of the entry, golden key, which of our values it holds
    "panns": [("pann_features.pth", "2048", "2048", ...), ("pann_features.pth", "logits", "logits", ...)],
    "vggish": [("vggish_features.pth", "", "features", ...)],
    "passt": [("passt_features_embed.pth", "", "features", ...), ("passt_logits.pth", "", "logits", ...)],
    "imagebind": [("imagebind_audio.pth", "", "audio", ...), ("imagebind_video.pth", "", "video", ...)],
    "synchformer": [
        ("synchformer_audio.pth", "", "audio_every4", np.s_[::4, :, ::2]),
        ("synchformer_video.pth", "", "video", np.s_[:3, :, ::2]),
    ],
}

SPECTROGRAMS = {
    "panns": ("decibels", "logmel_every20", lambda x: x[0].T[::20]),
    "vggish": ("examples", "examples_first", lambda x: x[0, 0]),
    "passt": ("bank", "mel_every50", lambda x: x[0, :, ::50]),
}


def error(ours, theirs):
    """Of the norm."""
    ours = torch.as_tensor(ours).float()
    assert ours.shape == theirs.shape
    return float((ours - theirs).norm() / theirs.norm())


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """The golden inputs as files: 32-bit float wavs, and pictures in mp4 that are kept to the bit."""
    folder = tmp_path_factory.mktemp("inputs")
    write_float_wav(folder / "sound" / "clip.wav", sound().numpy(), 16_000)
    write_float_wav(folder / "sound32" / "clip.wav", sound(256_000, 32_000).numpy(), 32_000)
    many = pictures(32).permute(0, 2, 3, 1).numpy()
    write_lossless(folder / "synchformer" / "clip.mp4", [many[min(n, 31)] for n in range(200)], np.arange(200) / 25)
    four = pictures(4, "input/pictures4").permute(0, 2, 3, 1).numpy()
    write_lossless(folder / "imagebind" / "clip.mp4", [four[n // 50] for n in range(200)], np.arange(200) / 25)
    return folder


def compare(name, network, inputs, tmp_path):
    assert extract(network, {"clip": inputs / "sound" / "clip.wav"}, tmp_path) == {}
    if network.video_caches:
        assert extract(network, {"clip": inputs / name / "clip.mp4"}, tmp_path, video=True) == {}
    expected = golden(name)
    for file, part, key, of in FILES[name]:
        entry = read_cache(tmp_path / file)["clip"]
        off = error((entry[part] if part else entry)[of], expected[key])
        print(f"{name} {file} {key}: {off:.1e}")
        assert off < TOLERANCE, key


@pytest.mark.parametrize("name", ["panns", "vggish", "passt"])
def test_features_from_files_are_av_benchmarks(name, inputs, tmp_path):
    network = load_official(name, tmp_path / "weights")
    heard = torch.from_numpy(network.sound.read(inputs / "sound" / "clip.wav"))[None]
    method, key, of = SPECTROGRAMS[name]
    assert error(of(getattr(network, method)(heard)), golden(name)[key]) < TOLERANCE
    compare(name, network, inputs, tmp_path / "features")
    if name == "passt":  # what is at 32 kHz already is not resampled
        extract(network, {"clip": inputs / "sound32" / "clip.wav"}, tmp_path / "features32")
        for file, _, key, _ in FILES[name]:
            ours = read_cache(tmp_path / "features32" / file)["clip"]
            assert error(ours, golden(name)[f"{key}_of_32k"]) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", ["imagebind", "synchformer"])
def test_features_of_picture_and_sound_from_files_are_av_benchmarks(name, inputs, tmp_path):
    network = load_official(name, tmp_path / "weights")
    compare(name, network, inputs, tmp_path / "features")
    if name == "synchformer":
        seen, heard = (torch.from_numpy(draw(f"input/{n}", (2, 24, p, 768))) for n, p in (("seen", 8), ("heard", 6)))
        logits = network.compare(seen, heard)
        assert error(logits[:, 0], golden(name)["logits_first"]) < TOLERANCE
        assert error(logits[:, 1], golden(name)["logits_last"]) < TOLERANCE


class Shallow(ImageBind):
    """All of ImageBind but its depth."""

    depths = (1, 1)


class TestFrontEnds:
    """The input of each network, without the network."""

    def test_sound_is_resampled_as_by_torchaudio(self):
        centred = sound() - sound().mean()
        ours, expected = resample(centred, 16_000, 32_000), golden("passt")
        assert len(ours) == 256_000
        assert float((ours[:1000] - expected["resampled_first_1000"]).abs().max()) < 1e-6
        assert float((ours[120_000:121_000] - expected["resampled_from_120000"]).abs().max()) < 1e-6

    def test_imagebinds_spectrogram_of_a_file(self, inputs):
        heard = torch.from_numpy(ImageBind.sound.read(inputs / "sound" / "clip.wav"))[None]
        ours = seeded_network(Shallow).bank(heard)[1, :, ::8]
        assert error(ours, golden("imagebind")["bank_window1_every8"]) < TOLERANCE

    def test_synchformers_picture_of_a_file(self, inputs):
        frames = Synchformer.picture.read(inputs / "synchformer" / "clip.mp4")
        assert frames.shape == (200, 3, 224, 224)
        fifth = Synchformer.scaled(torch.from_numpy(frames[5]))[:, ::8, ::8]
        assert error(fifth, golden("synchformer")["preprocessed_frame5_every8"]) < TOLERANCE

    def test_the_mean_is_that_of_the_whole_file_and_stays_where_av_benchmark_keeps_it(self, tmp_path):
        waveform = np.concatenate([np.full(128_000, 0.25), np.full(32_000, -0.75)])
        write_float_wav(tmp_path / "clip.wav", waveform, 16_000)
        assert {name: float(kind.sound.read(tmp_path / "clip.wav").mean()) for name, kind in NETWORKS.items()} == {
            **dict.fromkeys(NETWORKS, pytest.approx(0.25)),
            **dict.fromkeys(("panns", "vggish", "passt", "clap"), pytest.approx(0.2, abs=2e-4)),
        }

    def test_of_a_stereo_file_imagebind_hears_the_left_and_others_the_mean(self, tmp_path):
        write_float_wav(tmp_path / "clip.wav", np.stack([np.full(128_000, 0.5), np.full(128_000, 0.1)]), 16_000)
        assert float(ImageBind.sound.read(tmp_path / "clip.wav")[5]) == pytest.approx(0.5)
        assert float(Synchformer.sound.read(tmp_path / "clip.wav")[5]) == pytest.approx(0.3)
        assert SoundInput().read(tmp_path / "clip.wav").shape == (128_000,)
