"""True sound and picture of clips from their own videos, as ``OUT/truth`` and ``OUT/mp4`` have them for some."""

from __future__ import annotations

import io
import wave
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import ClipError
from evaluation.pictures import PictureInput
from evaluation.sounds import SoundInput
from generate.clip_files import file_of
from generate.origins import of_this_video
from pipeline.media import check_file, decode_waveform, is_silent
from pipeline.media.writing import to_16_bit
from pipeline.sources import SourceFile
from presets.config import MediaConfig


@dataclass(frozen=True)
class TrueSound:
    """What a network hears of a clip's true sound: the window that extraction decodes, as a 16-bit wav.

    Bit for bit what is read of the file in ``OUT/truth``. What av-benchmark would read of the video itself differs:
    it resamples the stream at its own rate, and knows no window.
    """

    of: SoundInput
    media: MediaConfig

    def read(self, path: str | Path) -> np.ndarray:
        """float32 (samples,) as :meth:`SoundInput.read`; raises :class:`ClipError`, also ``silent``."""
        path = Path(path)
        check_file(path)
        waveform = decode_waveform(path, self.media, 0.0)
        if is_silent(waveform, self.media):
            raise ClipError("silent", f"{path}: peak under {self.media.silence_threshold_db:g} dB of full scale")
        memory = io.BytesIO()
        with wave.open(memory, "wb") as wav:
            wav.setnchannels(1)
            wav.setsampwidth(2)
            wav.setframerate(self.media.sample_rate)
            wav.writeframes(to_16_bit(waveform).tobytes())
        memory.seek(0)
        return self.of.read_open(memory, path)


@dataclass(frozen=True)
class TruePicture:
    """What a network sees of a clip's video, from the container's start on, where the clip begins."""

    of: PictureInput

    def read(self, path: str | Path) -> np.ndarray:
        """As :meth:`PictureInput.read`; raises :class:`ClipError`."""
        return self.of.read(path, from_origin=True)


def other_videos(out: Path, sources: Mapping[str, Path]) -> dict[str, str]:
    """Clips of OUT whose video is no longer the one that their sound was made for: clip id -> what to say of it."""
    return {
        clip_id: f"{path} is another file than when its sound was made: run make extract and make generate again"
        for clip_id, path in sources.items()
        if not of_this_video(file_of(out, "wav", clip_id), SourceFile(path))
    }


Reader = SoundInput | PictureInput | TrueSound | TruePicture
