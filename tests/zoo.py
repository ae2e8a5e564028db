"""A zoo of media whose every moment can be read back: numbered pictures, and ticks at known seconds.

``ZOO`` names the recipes that need nothing but an encoder; tests ask the session's ``zoo`` fixture for a file.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from tests.media_factory import RATE, tone

TICKS = (0.5, 1.7, 2.3, 3.1, 4.2, 5.6, 6.4, 7.0, 8.9, 9.5, 10.3, 11.8, 12.6, 14.1, 15.9, 16.7, 18.2, 19.4)
_BITS, _COLUMNS, _ROWS = 10, 5, 4
WIDTH, HEIGHT = 128, 96  # a size that H.263 has


def numbered_frame(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """uint8 (height, width, 3): ten bits as black and white cells, and below them their complement."""
    bits = [(number >> place) & 1 for place in range(_BITS)]
    cells = np.array([*bits, *(1 - bit for bit in bits)]).reshape(_ROWS, _COLUMNS)
    rows, columns = np.arange(height) * _ROWS // height, np.arange(width) * _COLUMNS // width
    grey = np.where(cells[rows][:, columns] == 1, 230, 25).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def read_number(image: np.ndarray) -> int | None:
    """The number of a picture of any size; None for black, ValueError for one that is none."""
    height, width = image.shape[:2]
    grey = image.astype(float).mean(axis=2)
    cells = np.array(
        [
            grey[
                int((row + 0.3) * height / _ROWS) : int((row + 0.7) * height / _ROWS),
                int((column + 0.3) * width / _COLUMNS) : int((column + 0.7) * width / _COLUMNS),
            ].mean()
            for row in range(_ROWS)
            for column in range(_COLUMNS)
        ]
    )
    if grey.max() < 12:
        return None
    bits = cells > 127
    if (bits[:_BITS] == bits[_BITS:]).any() or np.abs(cells - 127).min() < 30:
        raise ValueError(f"not a numbered picture: {cells.round()}")
    return int(sum(1 << place for place in range(_BITS) if bits[place]))


def read_numbers(frames: np.ndarray) -> list[int | None]:
    return [read_number(frame) for frame in frames]


def ticking(seconds: float, rate: int, ticks: tuple[float, ...] = TICKS) -> np.ndarray:
    """float32 (samples,): a burst of 30 ms of 1 kHz at each of the times."""
    wave = np.zeros(round(seconds * rate), np.float32)
    burst = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(round(0.03 * rate)) / rate)
    for tick in ticks:
        first = round(tick * rate)
        if first + len(burst) <= len(wave):
            wave[first : first + len(burst)] = burst
    return wave


def heard_ticks(waveform: np.ndarray, rate: int = RATE) -> list[float]:
    """Seconds at which bursts begin."""
    loud = np.flatnonzero(np.abs(waveform) > 0.15)
    if not len(loud):
        return []
    begins = loud[np.concatenate([[True], np.diff(loud) > 0.05 * rate])]
    return [float(first / rate) for first in begins]


def make_numbered(
    path: Path,
    *,
    video: str | None = "libx264",
    audio: str | None = "aac",
    seconds: float = 10.0,
    fps: int = 10,
    times: list[float] | None = None,
    rate: int = 48_000,
    sound_seconds: float | None = None,
    missing_sound: tuple[float, float] | None = None,
    picture_start: float = 0.0,
    sound_start: float = 0.0,
    form: str | None = None,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    second_sound: bool = False,
    sound: np.ndarray | None = None,
    sound_jitter: float = 0.0,
    to_pipe: bool = False,
) -> Path:
    """Frame ``n`` shows the number ``n`` from ``n / fps`` (or ``times[n]``) on; ticks are heard at ``TICKS``.

    ``missing_sound``: seconds whose packets of sound are left out, time stamps kept. ``second_sound``: a
    first track that is one long tone and a second, the ticks, that is marked default. ``sound``: instead of
    ticks. ``sound_jitter``: seconds by which its packets are late and early by turns. ``to_pipe``: written to
    something that cannot seek, so that no length stands in the header.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    target = _Pipe(path) if to_pipe else str(path)
    with av.open(target, "w", format=form, options=container_options or {}) as container:
        packets: list = []
        if video is not None:
            picture = container.add_stream(video, rate=fps)
            picture.width, picture.height, picture.pix_fmt = WIDTH, HEIGHT, pix_fmt
            picture.options = options or {}
            picture.thread_count = 1
            if times is not None:
                picture.codec_context.time_base = Fraction(1, 1000)
        sounds = []
        if audio is not None:
            sounds = [container.add_stream(audio, rate=rate, layout="mono") for _ in range(2 if second_sound else 1)]
            for track in sounds:
                track.bit_rate = 64_000
            if second_sound:
                sounds[0].disposition = av.stream.Disposition(0)
                sounds[1].disposition = av.stream.Disposition.default
        if video is not None:
            moments = times if times is not None else [n / fps for n in range(round(seconds * fps))]
            for number, moment in enumerate(moments):
                frame = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")
                unit = Fraction(1, 1000) if times is not None else Fraction(1, fps)
                frame.pts, frame.time_base = round((moment + picture_start) / unit), unit
                packets += picture.encode(frame)
            packets += picture.encode(None)
        length = seconds if sound_seconds is None else sound_seconds
        for place, track in enumerate(sounds):
            wave = tone(length, rate) if second_sound and place == 0 else ticking(length, rate)
            wave = wave if sound is None else sound
            packets += _encoded(track, wave, rate, sound_start, missing_sound, sound_jitter)
        # In the order of their times, as muxers that cannot wait need them.
        packets = [packet for packet in packets if packet.dts is not None]
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    if to_pipe:
        target.close()
    return path


def _encoded(
    stream: Any, wave: np.ndarray, rate: int, start: float, missing: tuple[float, float] | None, jitter: float
) -> list[av.Packet]:
    context = stream.codec_context
    context.open()
    size = context.frame_size or 1024
    made = []
    resampler = av.AudioResampler(format=context.format, layout="mono", rate=rate)
    for first in range(0, len(wave), size):
        frame = av.AudioFrame.from_ndarray(wave[None, first : first + size], format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), first + round(start * rate)
        for piece in resampler.resample(frame):
            made += stream.encode(piece)
    made += stream.encode(None)
    for number, packet in enumerate(made):
        moved = packet.pts + round((-1) ** number * jitter / packet.time_base)
        packet.pts = packet.dts = moved
    if missing is not None:
        low, high = missing
        made = [packet for packet in made if not low <= packet.pts * packet.time_base < high]
    return made


class _Pipe:
    """A file that cannot seek."""

    def __init__(self, path: Path):
        self.file = path.open("wb")

    def write(self, data: bytes) -> int:
        return self.file.write(data)

    def close(self) -> None:
        self.file.close()


_LONG_GOP = {"preset": "veryfast", "g": "250", "bf": "3"}
_VPX = {"cpu-used": "8", "deadline": "realtime"}
_GOP = {"g": "50", "bf": "2"}

# All are 20 s long. What each is for is said in tests/pipeline/test_zoo.py.
ZOO: dict[str, dict[str, Any]] = {
    "h264.mp4": {"options": _LONG_GOP},
    "hevc.mp4": {"video": "libx265", "options": {"preset": "ultrafast", "x265-params": "log-level=0"}},
    "mpeg4.mp4": {"video": "mpeg4", "options": _GOP},
    "fragments.mp4": {"options": _LONG_GOP, "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "prores.mov": {"video": "prores_ks", "pix_fmt": "yuv422p10le"},
    "h264.mkv": {"options": _LONG_GOP},
    "vp9.webm": {"video": "libvpx-vp9", "audio": "libopus", "options": _VPX},
    "vp8.webm": {"video": "libvpx", "audio": "libopus", "options": _VPX},
    "mpeg4.avi": {"video": "mpeg4", "audio": "pcm_s16le", "options": _GOP},
    "h264.avi": {"audio": "pcm_s16le", "options": _LONG_GOP},
    "mjpeg.avi": {"video": "mjpeg", "audio": "pcm_s16le", "pix_fmt": "yuvj420p"},
    "wmv2.wmv": {"video": "wmv2", "audio": "wmav2", "options": {"g": "50"}},
    "flv1.flv": {"video": "flv", "audio": "libmp3lame", "rate": 44_100, "options": {"g": "50"}},
    "h264.flv": {"rate": 44_100, "options": _LONG_GOP},
    "h264.ts": {"options": _LONG_GOP},
    "transport_stream.mp4": {"options": _LONG_GOP, "form": "mpegts"},
    "mpeg2.ts": {"video": "mpeg2video", "audio": "mp2", "fps": 25, "options": {"g": "100", "bf": "2"}},
    "mpeg4.ts": {"video": "mpeg4", "audio": "mp2", "options": {"g": "100", "bf": "2"}},
    "mpeg2.mpg": {"video": "mpeg2video", "audio": "mp2", "fps": 25, "options": {"g": "50", "bf": "2"}},
    "h263.3gp": {"video": "h263", "rate": 16_000, "options": {"g": "50"}},
    "vp8.ogv": {"video": "libvpx", "audio": "libopus", "form": "ogg", "options": _VPX},
    "picture.gif": {"video": "gif", "audio": None, "pix_fmt": "rgb8"},
    "to_a_pipe.mkv": {"options": _LONG_GOP, "to_pipe": True, "form": "matroska"},
    "to_a_pipe.webm": {"video": "libvpx-vp9", "audio": "libopus", "options": _VPX, "to_pipe": True, "form": "webm"},
}
