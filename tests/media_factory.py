"""Real encoded media of every awkward kind, made at test time."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = 16_000


def grey_frame(value: int, height: int = 96, width: int = 128) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def tone(seconds: float, rate: int = RATE, frequency: float = 440.0, amplitude: float = 0.3) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def make_media(
    path: Path,
    *,
    seconds: float = 10.0,
    fps: int = 20,
    times: list[float] | None = None,
    size: tuple[int, int] = (96, 128),
    video: bool = True,
    audio: np.ndarray | bool | None = True,
    rate: int = RATE,
    layout: str = "mono",
    video_start: float = 0.0,
    audio_start: float = 0.0,
    values: list | None = None,
    codec: str = "libx264",
    faststart: bool = False,
) -> Path:
    """A file whose frame shown at time t has grey level 10 + 20 * t (or ``values``), with a tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", options=options) as container:
        picture = sound = None
        if video:
            picture = container.add_stream(codec, rate=fps)
            picture.height, picture.width = size
            picture.pix_fmt = "yuv420p" if size[0] % 2 == 0 and size[1] % 2 == 0 else "yuv444p"
            picture.time_base = Fraction(1, 1000)
            picture.codec_context.time_base = Fraction(1, 1000)
            if codec == "libx264":
                picture.options = {"preset": "ultrafast", "crf": "10", "g": "20", "bf": "0"}
        if audio is not None and audio is not False:
            sound = container.add_stream("aac", rate=rate, layout=layout)
        if picture is not None:
            moments = times if times is not None else [n / fps for n in range(round(seconds * fps))]
            for number, moment in enumerate(moments):
                level = 10 + 20 * moment if values is None else values[number]
                image = level if isinstance(level, np.ndarray) else grey_frame(round(float(level)), *size)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts = round((moment + video_start) * 1000)
                frame.time_base = Fraction(1, 1000)
                container.mux(picture.encode(frame))
            container.mux(picture.encode(None))
        if sound is not None:
            wave = tone(seconds, rate) if audio is True else np.asarray(audio, np.float32)
            channels = {"mono": 1, "stereo": 2, "5.1": 6}[layout]
            for first in range(0, len(wave), 1024):
                block = np.repeat(wave[None, first : first + 1024], channels, axis=0)
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout=layout)
                frame.sample_rate = rate
                frame.time_base = Fraction(1, rate)
                frame.pts = first + round(audio_start * rate)
                container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return path


def set_matrix(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Set the display matrix of the first track of an mp4: (x, y) is shown at (a x + c y, b x + d y)."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in matrix)
    values = [a, b, 0, c, d, 0, 0, 0, 1 << 30]
    data[start : start + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
    path.write_bytes(data)
    return path


def rotate(path: Path) -> Path:
    """A quarter turn clockwise, as phones do."""
    return set_matrix(path, (0, 1, -1, 0))


def tagged(source: Path, target: Path, title: str, language: str = "") -> Path:
    """The same packets under a title, and a language of the sound, written in Latin-1."""
    marks = {title: "T" * len(title), language: "L" * len(language)}
    with av.open(str(source)) as given, av.open(str(target), "w") as copy:
        streams = {stream.index: copy.add_stream_from_template(stream) for stream in given.streams}
        copy.metadata["title"] = marks[title]
        if language:
            copy.streams.audio[0].metadata["language"] = marks[language]
        for packet in given.demux():
            if packet.size:
                packet.stream = streams[packet.stream_index]
                copy.mux(packet)
    data = target.read_bytes()
    for text, mark in marks.items():
        if text:
            assert data.count(mark.encode()) == 1
            data = data.replace(mark.encode(), text.encode("latin-1"))
    target.write_bytes(data)
    return target
