"""Writing media: H.264/AAC mp4 and 16-bit wav, always through a temporary name."""

from __future__ import annotations

import struct
import wave
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from common.errors import InputError
from common.writing import replacing
from pipeline.media.resampling import check_rate, resampled

MADE_BY = "MFM-Mapper"  # in the metadata of what this program writes
Sound = np.ndarray | Iterable[np.ndarray]


def parts_of(sound: Sound) -> Iterator[np.ndarray]:
    """A waveform, or its parts, as parts; raises ValueError for NaN or Inf, which no file of sound can say, and
    :class:`common.errors.InputError` for what is no float (samples,): integers would be taken for clipped sound."""
    for part in [sound] if isinstance(sound, np.ndarray) else sound:
        if not isinstance(part, np.ndarray) or part.ndim != 1 or part.dtype.kind != "f":
            found = f"{part.dtype} {tuple(part.shape)}" if hasattr(part, "dtype") else type(part).__name__
            raise InputError(f"a sound is a float array (samples,) in [-1, 1], or such parts of it, not {found}")
        if not np.isfinite(part).all():
            raise ValueError("the waveform has values that are not finite")
        yield part


def to_16_bit(waveform: np.ndarray) -> np.ndarray:
    """Float in [-1, 1] as 16-bit integers; values outside are clipped."""
    return np.round(np.clip(waveform, -1.0, 1.0) * 32767).astype("<i2")


def at_rate(sound: Sound, sample_rate: int, rate: int | None) -> tuple[Iterator[np.ndarray], int]:
    """The parts of a sound at ``rate`` in Hz, None for its own, and that rate.

    Raises :class:`common.errors.InputError` for a rate that no file here has, ValueError as :func:`parts_of`.
    """
    check_rate(rate)
    rate = rate or sample_rate
    return resampled(parts_of(sound), sample_rate, rate), rate


def write_wav(
    path: str | Path, waveform: Sound, sample_rate: int, comment: str = "", *, rate: int | None = None
) -> None:
    """Write float (samples,) in [-1, 1], or its parts one after the other, as 16-bit mono with our name in it.

    ``comment``: one line that :func:`wav_comment` gives back. ``rate``: Hz of the file, from 8000 to 192000,
    instead of the sound's own. Raises ValueError for NaN or Inf, :class:`common.errors.InputError` for another
    rate, :class:`common.errors.WriteError` if the file cannot be written.
    """
    parts, sample_rate = at_rate(waveform, sample_rate, rate)
    with replacing(path) as temporary:
        with wave.open(str(temporary), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(sample_rate)
            for part in parts:
                file.writeframes(to_16_bit(part).tobytes())
        with temporary.open("rb+") as raw:  # RIFF's own places for the name of the software and a comment
            fields = _riff_field(b"ISFT", MADE_BY) + (_riff_field(b"ICMT", comment) if comment else b"")
            raw.seek(0, 2)
            raw.write(struct.pack("<4sI4s", b"LIST", 4 + len(fields), b"INFO") + fields)
            size = raw.tell() - 8
            raw.seek(4)
            raw.write(struct.pack("<I", size))


def _riff_field(name: bytes, text: str) -> bytes:
    data = f"{text}\0".encode()
    data += b"\0" * (len(data) % 2)
    return struct.pack("<4sI", name, len(data)) + data


def wav_comment(path: str | Path) -> str:
    """The ``comment`` of :func:`write_wav`; empty where there is none, or no wav that can be read."""
    try:
        with Path(path).open("rb") as file:
            if file.read(4) != b"RIFF" or file.read(8)[4:] != b"WAVE":
                return ""
            while len(head := file.read(8)) == 8:
                name, size = struct.unpack("<4sI", head)
                if name != b"LIST":
                    file.seek(size + size % 2, 1)
                elif file.read(4) == b"INFO":
                    end = file.tell() + size - 4
                    while file.tell() < end and len(head := file.read(8)) == 8:
                        name, size = struct.unpack("<4sI", head)
                        if name == b"ICMT":
                            return file.read(min(size, 65536)).partition(b"\0")[0].decode(errors="replace")
                        file.seek(size + size % 2, 1)
                else:
                    file.seek(size - 4 + size % 2, 1)
    except OSError:
        pass
    return ""


def write_flac(path: str | Path, waveform: Sound, sample_rate: int, *, rate: int | None = None) -> None:
    """The same samples as :func:`write_wav`, losslessly compressed."""
    parts, sample_rate = at_rate(waveform, sample_rate, rate)
    with replacing(path) as temporary, av.open(str(temporary.absolute()), "w", format="flac") as container:
        stream: Any = container.add_stream("flac", rate=sample_rate, layout="mono")
        written = 0
        for part in parts:
            frame = av.AudioFrame.from_ndarray(to_16_bit(part)[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = sample_rate, written, Fraction(1, sample_rate)
            container.mux(stream.encode(frame))
            written += len(part)
        container.mux(stream.encode(None))


def read_wav(path: str | Path) -> tuple[np.ndarray, int]:
    """Read a 16-bit mono wav: float32 (samples,) in [-1, 1] and its rate."""
    with wave.open(str(path), "rb") as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        return samples.astype(np.float32) / 32768, file.getframerate()


def read_wav_parts(path: str | Path, samples: int = 160_000) -> Iterator[np.ndarray]:
    """A 16-bit mono wav as float32 parts of so many samples."""
    with wave.open(str(path), "rb") as file:
        while len(data := file.readframes(samples)):
            yield np.frombuffer(data, "<i2").astype(np.float32) / 32768


def encode_aac(container: Any, stream: Any, waveform: np.ndarray, sample_rate: int) -> None:
    """Encode float (samples,) into an audio stream of an open output container and flush it."""
    size = stream.codec_context.frame_size or 1024
    for position in range(0, len(waveform), size):
        block = np.ascontiguousarray(waveform[position : position + size], np.float32)[None]
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
        frame.sample_rate = sample_rate
        frame.pts = position
        frame.time_base = Fraction(1, sample_rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def write_video(
    path: str | Path,
    frames: Iterable[np.ndarray],
    frames_per_second: int,
    waveform: np.ndarray | None,
    sample_rate: int = 16_000,
) -> None:
    """Write RGB uint8 frames (H, W, 3), H and W even, and optional sound as H.264/AAC mp4."""
    with replacing(path) as temporary, av.open(str(temporary), "w") as container:
        video: Any = container.add_stream("libx264", rate=frames_per_second)
        video.pix_fmt = "yuv420p"
        video.options = {"preset": "veryfast", "crf": "20", "threads": "1"}
        audio = container.add_stream("aac", rate=sample_rate, layout="mono") if waveform is not None else None
        for number, image in enumerate(frames):
            if number == 0:
                video.height, video.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts = number
            frame.time_base = Fraction(1, frames_per_second)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None and waveform is not None:
            encode_aac(container, audio, waveform, sample_rate)
