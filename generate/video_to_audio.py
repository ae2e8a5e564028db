"""One video in, one waveform out, without a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from generate.sampling import Sampler, load_sampler
from pipeline.encoders import load_encoder
from pipeline.media import decode_clip
from presets import Preset, load_preset


class VideoToAudio:
    """``VideoToAudio.from_pretrained(run)(video, label=...) -> waveform, sample_rate``."""

    def __init__(self, sampler: Sampler, encoders: dict[str, Any]):
        self.sampler, self.encoders = sampler, encoders
        sampler.check_encoders({name: encoder.fingerprint for name, encoder in encoders.items()})

    @classmethod
    def from_pretrained(
        cls, mapper_folder: str | Path, preset: Preset | str = "micro", device: str = "cpu"
    ) -> VideoToAudio:
        """Load the encoders, a trained mapper and AudioLDM-2 of a preset; raises WeightsError."""
        settings = load_preset(preset) if isinstance(preset, str) else preset
        sampler = load_sampler(settings, mapper_folder, device)
        names = sampler.encoders
        return cls(sampler, {name: load_encoder(name, preset=settings, device=device) for name in names})

    def __call__(self, video: str | Path, label: str = "") -> tuple[np.ndarray, int]:
        """Sound of the first 10 s: float32 (160000,) in [-1, 1], and its rate. Raises ClipError."""
        decoded = decode_clip(video, self.sampler.preset.media, audio=False)
        frames = torch.from_numpy(decoded.frames).permute(0, 3, 1, 2)[None]
        visual = {}
        for name, encoder in self.encoders.items():
            times = (decoded.times,) if name == "timechat" else ()
            visual[name] = encoder.encode(frames, *times)
        waveform = self.sampler.generate(visual, [label], [Path(video).stem])[0]
        return waveform, self.sampler.audioldm2.sample_rate
