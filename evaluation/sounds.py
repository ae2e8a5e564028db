"""A clip's sound as av-benchmark gives it to a network: native samples as float, then mean, resampling and cut."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from common.errors import ClipError
from evaluation.resampling import needed, resample
from pipeline.media import check_file
from pipeline.media.container import open_media, url_of

_TRUNCATION_TOLERANCE = 0.5  # seconds by which a stream may end before its declared end


@dataclass(frozen=True)
class SoundInput:
    """What a network hears: the first ``seconds`` at ``rate`` Hz, one channel.

    ``without_mean``: the mean of the whole file over time is subtracted. ``left_only``: the first channel instead of
    the mean of all.
    """

    rate: int = 16_000
    seconds: float = 8.0  # paper section 4.2
    without_mean: bool = False
    left_only: bool = False

    @property
    def samples(self) -> int:
        return round(self.rate * self.seconds)

    def read(self, path: str | Path) -> np.ndarray:
        """float32 (samples,), values of a 16-bit file / 32768; those of a float file as they are.

        Before a stream that starts late there are zeros. Raises :class:`ClipError` ``no_audio``, ``unreadable``,
        ``truncated``, and ``too_short`` for a file that does not last ``seconds``.
        """
        path = Path(path)
        check_file(path)
        return self.read_open(url_of(path), path)

    def read_open(self, file: Any, path: Path) -> np.ndarray:
        """:meth:`read` of a name or an open file; ``path`` is for messages."""
        try:
            with open_media(file) as container:
                waveform, rate = self._decode(container, path)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise ClipError("unreadable", f"{path}: the sound cannot be decoded ({error})") from error
        out = resample(torch.from_numpy(waveform), rate, self.rate, self.samples).numpy()
        if len(out) < self.samples:
            raise ClipError(
                "too_short", f"{path} has {len(waveform) / rate:.3f} s of sound, {self.seconds:g} s are needed"
            )
        return out

    def _decode(self, container: Any, path: Path) -> tuple[np.ndarray, int]:
        """The first samples at the file's own rate, as many as the resampler wants, and the rate."""
        if not container.streams.audio:
            raise ClipError("no_audio", f"{path} has no audio stream")
        stream = container.streams.audio[0]
        rate = stream.codec_context.sample_rate
        if not rate:
            raise ClipError("unreadable", f"{path} does not say its sample rate")
        wanted = needed(self.samples, rate, self.rate)
        origin = container.start_time / av.time_base if container.start_time else 0.0
        to_float = av.AudioResampler(format="fltp")
        kept: list[np.ndarray] = []
        position: int | None = None  # of the next sample, from the container's start
        heard, total = 0, 0.0
        for frame in container.decode(stream):
            if position is None:
                position = round(((frame.time or 0.0) - origin) * rate)
                kept.append(np.zeros(max(position, 0), np.float32))
            for piece in to_float.resample(frame):
                channels = piece.to_ndarray()
                mono = channels[0] if self.left_only else channels.mean(axis=0, dtype=np.float32)
                mono = mono[max(-position, 0) :]
                if position < wanted:
                    kept.append(mono)
                position += piece.samples
                heard += len(mono)
                total += float(mono.sum(dtype=np.float64))
            if position >= wanted and not self.without_mean:
                break
        if position is None or not heard:
            raise ClipError("too_short", f"{path} has no sound")
        claimed = float(stream.duration * stream.time_base) if stream.duration is not None else 0.0
        if position < wanted and position / rate + _TRUNCATION_TOLERANCE < min(claimed, wanted / rate):
            raise ClipError("truncated", f"{path} claims {claimed:.2f} s of sound and holds {position / rate:.2f} s")
        waveform = np.concatenate(kept)[:wanted]
        if self.without_mean:
            waveform = waveform - np.float32(total / heard)
        return waveform, rate
