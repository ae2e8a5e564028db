"""Parts of the feature networks, and their files. What the networks give is compared in test_golden.py."""

import numpy as np
import pytest
import torch

from common.errors import WeightsError
from evaluation.networks import NETWORKS, load_network
from evaluation.networks.synchformer import DividedAttention
from evaluation.networks.vggish import VGGish
from pipeline.mel import MelSettings, MelSpectrogram


def test_a_file_that_is_not_the_official_one_is_named(tmp_path):
    """One that is fills every weight: test_golden.py."""
    weights = {"features.0.weight": torch.zeros(64, 1, 3, 3), "stranger": torch.ones(2)}
    torch.save(weights, tmp_path / "vggish-10086976.pth")
    with pytest.raises(WeightsError, match=r"(?s)missing.*unexpected.*stranger"):
        load_network(VGGish, tmp_path)


@pytest.mark.parametrize(("name", "fetched"), [("panns", True), ("imagebind", True), ("clap", False), ("micro", False)])
def test_the_download_is_offered_only_for_what_it_fetches(tmp_path, name, fetched):
    with pytest.raises(WeightsError, match="licence") as raised:
        load_network(NETWORKS[name], tmp_path)
    assert ("make weights PRESET=paper" in str(raised.value)) == fetched


def test_a_mel_spectrogram_finds_a_tone_where_it_is():
    settings = MelSettings(16_000, 1024, 400, 160, 64, 0, 8000, scale="htk", edge=512)
    time = np.arange(16_000) / 16_000
    tone = torch.from_numpy(np.sin(2 * np.pi * 1000 * time)).float()[None]
    energy = MelSpectrogram(settings)(tone)
    assert energy.shape == (1, 101, 64)
    mel = 2595 * np.log10(1 + 1000 / 700) / (2595 * np.log10(1 + 8000 / 700)) * 65 - 1
    assert int(energy.mean(1).argmax()) == pytest.approx(mel, abs=1)


def test_divided_attention_is_attention_over_one_axis_at_a_time():
    """Against the definition, token by token: the class token sees all, others their group and the class token."""
    torch.manual_seed(0)
    attention = DividedAttention(16, 2)
    frames, places = 3, 4
    hidden = torch.randn(2, 1 + frames * places, 16)
    query, key, value = attention.split(hidden)
    for over_time in (False, True):
        wanted = torch.empty_like(query)
        for token in range(1 + frames * places):
            frame, place = divmod(token - 1, places)
            if token == 0:
                seen = list(range(1 + frames * places))
            elif over_time:
                seen = [0, *(1 + f * places + place for f in range(frames))]
            else:
                seen = [0, *(1 + frame * places + p for p in range(places))]
            weights = (query[:, :, token : token + 1] @ key[:, :, seen].transpose(2, 3) / 8**0.5).softmax(-1)
            wanted[:, :, token] = (weights @ value[:, :, seen])[:, :, 0]
        assert torch.allclose(attention(hidden, frames, over_time), attention.join(wanted), atol=1e-6)
