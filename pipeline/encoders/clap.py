"""LAION's CLAP (Wu et al. 2023), its sound half: the target of V2A-Mapper, and what AudioLDM is conditioned on.

Waveform -> log-mel spectrogram in decibels -> HTS-AT -> projection -> unit length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import ClapAudioConfig, ClapAudioModelWithProjection

from pipeline.encoders.base import Encoder
from pipeline.encoders.clip_settings import CLAPConfig
from pipeline.encoders.halves import check_preprocessor, files_of, load_half
from pipeline.mel import MelSettings, MelSpectrogram

# Our settings, and the same in transformers' configuration of the model and of ClapFeatureExtractor.
_SIZES = {
    "mel_bins": "num_mel_bins",
    "spec_size": "spec_size",
    "patch_size": "patch_size",
    "window": "window_size",
    "width": "patch_embeds_hidden_size",
    "layers": "depths",
    "heads": "num_attention_heads",
    "embedding": "projection_dim",
}
_EXTRACTOR = {
    "sample_rate": "sampling_rate",
    "seconds": "max_length_s",
    "fft": "fft_window_size",
    "hop": "hop_length",
    "mel_bins": "feature_size",
    "lowest": "frequency_min",
    "highest": "frequency_max",
}


class CLAPSpectrogram(nn.Module):
    """Waveforms (B, samples) -> decibels (B, 1, steps, mel_bins), as ``ClapFeatureExtractor`` without fusion.

    Shorter ones are repeated as often as they fit whole, then followed by zeros (``repeatpad``). Of longer ones the
    beginning is taken: the extractor's ``rand_trunc`` takes a random part, which no cache could repeat.
    """

    def __init__(self, config: CLAPConfig):
        super().__init__()
        self.samples = config.samples
        self.mel = MelSpectrogram(
            MelSettings(
                rate=config.sample_rate,
                fft=config.fft,
                window=config.fft,
                hop=config.hop,
                bins=config.mel_bins,
                low=config.lowest,
                high=config.highest,
                norm="slaney",
                edge=config.fft // 2,
                floor=1e-10,
                double=True,
            )
        )

    def forward(self, waveform: Tensor) -> Tensor:
        waveform = waveform[:, : self.samples]
        waveform = waveform.repeat(1, self.samples // waveform.shape[1])
        waveform = nn.functional.pad(waveform, (0, self.samples - waveform.shape[1]))
        return 10 / math.log(10) * self.mel(waveform)[:, None]


class CLAP(Encoder):
    """Waveform -> one vector a clip."""

    name = "clap"
    full_precision = ("audio_projection",)
    config: CLAPConfig

    def __init__(self, config: CLAPConfig):
        super().__init__(config)
        self.spectrogram = CLAPSpectrogram(config)
        self.take(ClapAudioModelWithProjection(ClapAudioConfig(**self.sizes())))

    def sizes(self) -> dict[str, Any]:
        """The settings as transformers calls them."""
        stages = len(self.config.layers)
        return {
            **{theirs: getattr(self.config, ours) for ours, theirs in _SIZES.items()},
            "patch_stride": [self.config.patch_size] * 2,
            "hidden_size": self.config.width * 2 ** (stages - 1),
            "num_hidden_layers": stages,
            "enable_fusion": False,
        }

    def take(self, model: Any) -> None:
        """Its two parts, as they differ in precision."""
        self.audio_model, self.audio_projection = model.audio_model, model.audio_projection

    def load(self, paths: Mapping[str, Path]) -> None:
        """The folder of the whole CLAP, or of its audio half; raises :class:`common.errors.WeightsError`."""
        folder = paths["clap"]
        self.take(load_half(ClapAudioModelWithProjection, folder, self.config.files[0], self.sizes(), "encoders.clap"))
        wanted = {theirs: getattr(self.config, ours) for ours, theirs in _EXTRACTOR.items()}
        fixed = {"truncation": "rand_trunc", "padding": "repeatpad"}
        check_preprocessor(folder, {**wanted, **fixed}, "encoders.clap")

    @staticmethod
    def fingerprint_of(paths: Mapping[str, Path]) -> str:
        return Encoder.fingerprint_of(files_of(paths["clap"]))

    @torch.inference_mode()
    def encode(self, waveform: Tensor | np.ndarray) -> Tensor:
        """Waveform (B, samples), float at ``config.sample_rate`` Hz -> (B, 1, 512), unit length.

        Source: ``ClapModel.get_audio_features`` of transformers. Raises ValueError for another shape.
        """
        tensor = torch.as_tensor(waveform)
        if tensor.ndim != 2 or not tensor.shape[1] or not tensor.is_floating_point():
            raise ValueError(f"waveform must be float (B, samples), not {tensor.dtype} {tuple(tensor.shape)}")
        spectrogram = self.spectrogram(tensor.to(self.device, torch.float32))
        with self.autocast():
            pooled = self.audio_model(input_features=spectrogram).pooler_output
        return nn.functional.normalize(self.audio_projection(pooled.float()), dim=-1)[:, None]
