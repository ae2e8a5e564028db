import numpy as np
import torch

from generate.mel import MEL_BINS, MEL_FRAMES, LogMel
from micro.vocoder import GriffinLim


def tone(hertz):
    return torch.sin(2 * torch.pi * hertz * torch.arange(16_000) / 16_000)[None] * 0.3


def test_log_mel_has_audioldm2s_shape_and_floor():
    mel = LogMel()(torch.zeros(2, 160_000))
    assert mel.shape == (2, MEL_FRAMES, MEL_BINS)
    assert torch.allclose(mel, torch.full_like(mel, np.log(1e-5)))


def test_griffin_lim_brings_back_pitch_and_loudness(tmp_path):
    GriffinLim(32).save_pretrained(tmp_path)
    vocoder = GriffinLim.from_pretrained(tmp_path)
    for hertz in (300.0, 1500.0):
        waveform = vocoder(LogMel()(tone(hertz), 100))[0]
        assert waveform.shape == (16_000,)
        spectrum = np.abs(np.fft.rfft(waveform.numpy()))
        assert abs(spectrum.argmax() - hertz) < 0.06 * hertz
        assert 0.3 < float(waveform.square().mean() / tone(hertz).square().mean()) < 3


def test_griffin_lim_does_not_mix_clips():
    mel = LogMel()(torch.cat([tone(300), tone(1500)]), 100)
    vocoder = GriffinLim(8)
    assert torch.allclose(vocoder(mel)[1], vocoder(mel[1:])[0], atol=1e-5)
