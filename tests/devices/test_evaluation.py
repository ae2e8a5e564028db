"""Evaluation on the second device: every network's features, and scores from files to a table, as on the CPU."""

import numpy as np
import pytest
import torch
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

from evaluation.evaluate import Side, Work, evaluate
from evaluation.networks import NETWORKS, seeded_network
from evaluation.networks.imagebind import ImageBind
from pipeline.media.writing import write_wav
from presets import load_preset
from tests.media_factory import tone
from tests.second_device import NAME, counting, no_float64

# Long enough for every window, short enough for a test: the networks take any length.
SECONDS = {"synchformer": 1.6, "micro": 8.0, "onsets": 2.0}


def small_network(name, monkeypatch):
    """The network with drawn weights; of the two large ones, and of PaSST, one block of each kind."""
    monkeypatch.setattr(ImageBind, "depths", (1, 1))
    network = seeded_network(NETWORKS[name])
    if name == "clap":
        sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 32}
        audio = {"depths": [1, 1], "num_attention_heads": [1, 1], "patch_embeds_hidden_size": 16, "hidden_size": 32}
        network.model = ClapModel(ClapConfig(text_config=sizes, audio_config=audio, projection_dim=16)).eval()
        network.extractor = ClapFeatureExtractor(truncation="rand_trunc")
    if name == "passt":
        network.blocks = network.blocks[:1]
    if name == "synchformer":
        network.vfeat_extractor.blocks = network.vfeat_extractor.blocks[:1]
        network.afeat_extractor.ast["encoder"]["layer"] = network.afeat_extractor.ast["encoder"]["layer"][:1]
    return network


def flat(made):
    return torch.cat([values.cpu().float().flatten() for parts in made.values() for values in parts.values()])


@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_network(name, monkeypatch):
    network = small_network(name, monkeypatch)
    random = torch.Generator().manual_seed(0)
    samples = round(SECONDS.get(name, network.sound.seconds) * network.sound.rate)
    inputs = {"encode": 0.1 * torch.randn(2, samples, generator=random)}
    if network.video_caches:
        frames = 24 if name == "synchformer" else network.picture.frames * 3
        inputs["encode_video"] = torch.randint(0, 255, (1, frames, 3, 224, 224), dtype=torch.uint8, generator=random)
    wanted = {method: flat(getattr(network, method)(x)) for method, x in inputs.items()}
    network.to(NAME)
    for method, x in inputs.items():
        on_device = x.to(NAME)
        with counting() as count:
            made = getattr(network, method)(on_device)
        assert (flat(made) - wanted[method]).norm() / wanted[method].norm() < 1e-5
        assert count.synchronisations == 0, count.where
        # Where a library, or our own finder of onsets, works on the CPU, the sound goes there, once.
        assert count.downloads == (name in ("clap", "onsets")), count.where


@pytest.mark.parametrize("name", ["imagebind", "micro"])
def test_no_network_needs_float64(name, monkeypatch):
    """Apple's MPS has none. These two have a spectrogram of their own."""
    network = small_network(name, monkeypatch)
    waveforms = torch.from_numpy(tone(8.0))[None]
    wanted = flat(network.encode(waveforms))
    with no_float64():
        made = network.to(NAME).encode(waveforms.to(NAME))
    assert (flat(made) - wanted).norm() / wanted.norm() < 1e-3


def scores(folder, monkeypatch, names):
    """The values of both devices, by metric."""
    monkeypatch.setattr(
        "evaluation.evaluate.load_network", lambda kind, _, device: small_network(kind.name, monkeypatch).to(device)
    )
    for device in ("cpu", NAME):
        sides = [Side(folder / side, folder / device / side) for side in ("generated", "reference")]
        result = evaluate(load_preset("micro"), names, *sides, Work(device=device))
        assert not result.excluded
        yield result.values


def test_scores_from_sound(tmp_path, monkeypatch):
    for number in range(2):
        sound = tone(8.2, frequency=300.0 * (number + 1)) * (1 + np.sign(np.sin(np.arange(131_200) / 4000))) / 2
        write_wav(tmp_path / "generated" / f"clip{number}.wav", sound.astype(np.float32), 16_000)
        write_wav(tmp_path / "reference" / f"clip{number}.wav", sound[::-1].astype(np.float32), 16_000)
    theirs, ours = scores(tmp_path, monkeypatch, ["micro", "onsets"])
    assert {"KL_micro", "onset_F1"} <= set(theirs)
    assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)


def test_desync_compares_cached_features_on_the_device(tmp_path, monkeypatch):
    random = torch.Generator().manual_seed(0)
    entries = {
        "generated/synchformer_audio.pth": torch.randn(24, 6, 768, generator=random),
        "reference/synchformer_video.pth": torch.randn(24, 8, 768, generator=random),
    }
    for device in ("cpu", NAME):
        for name, features in entries.items():
            path = tmp_path / device / name
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"clip": features}, path)
    theirs, ours = scores(tmp_path, monkeypatch, ["synchformer"])
    assert ours["DeSync"] == pytest.approx(theirs["DeSync"], abs=1e-4)
