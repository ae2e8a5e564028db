"""Put generated sound beside a video's picture: copied bit for bit where the container takes it."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any

import av
import numpy as np

from pipeline.errors import ClipError, InputError
from pipeline.media.container import kind_of, open_container, origin_of, video_stream
from pipeline.media.picture import display_matrix
from pipeline.media_writing import MADE_BY, Sound, parts_of, read_wav_parts
from pipeline.writing import replacing

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
VIDEO_CODECS = ("auto", "copy", "h264")
_BLOCK_SECONDS = 0.25
_TRIED_PACKETS = 32
# FFmpeg's numbers: the colour space of pictures that are no YUV, the range from 16 to 235, and "not said".
_RGB, _LIMITED, _UNSPECIFIED = 0, 1, 2


@dataclass(frozen=True)
class Picture:
    """How a picture gets into the output: ``suffix`` of the file; copied under ``tag``, or ``encoded`` as H.264.

    ``note``: what the user should know where that is not what was asked for.
    """

    suffix: str
    encoded: bool = False
    tag: str = ""
    note: str = ""


def plan_picture(video: str | Path, suffix: str = ".mp4", codec: str = "auto") -> Picture:
    """Decide, by trying on the first packets, how the picture of ``video`` gets into a file of this suffix.

    ``codec``: ``copy`` never encodes, ``h264`` encodes what is not H.264, ``auto`` encodes only what no container
    here takes. Where a picture is to be copied and the container does not take it, Matroska does by itself.
    Raises :class:`ClipError` if there is no picture or no way, :class:`InputError` for H.264 in webm.
    """
    if codec == "h264" and suffix == ".webm":
        raise InputError("a webm file holds no H.264: take .mp4, .mov or .mkv")
    with _source(video) as source:
        stream = video_stream(source, Path(video))
        name = stream.codec_context.codec.canonical_name
        tag = stream.codec_context.codec_tag if kind_of(source) == "mov" else ""
    tried = [suffix] if codec == "h264" else list(dict.fromkeys((suffix, ".mkv")))
    for wanted in tried if codec != "h264" or name == "h264" else ():
        for kept in dict.fromkeys((tag, "")) if CONTAINERS[wanted] in ("mp4", "mov") else ("",):
            if _takes(video, CONTAINERS[wanted], kept):
                note = "" if wanted == suffix else f"{name} cannot be copied into {suffix}: {wanted} is written"
                return Picture(wanted, tag=kept, note=note)
    if codec == "h264":
        return Picture(suffix, encoded=True)
    fault = f"{name} cannot be copied into {' or '.join(tried)}"
    if codec == "copy":
        raise ClipError("unreadable", f"{video}: {fault}; --video-codec h264 encodes it again")
    return Picture(tried[-1] if suffix == ".webm" else suffix, True, note=f"{fault}: it is encoded again as H.264")


def mux(
    video: str | Path,
    sound: Sound | Path,
    sample_rate: int,
    out: str | Path,
    picture: Picture | None = None,
) -> None:
    """Write ``out``: the picture of ``video`` and the sound (Opus in webm, else AAC), interleaved by time.

    ``sound``: the waveform (samples,) in [-1, 1], its parts one after the other, or the wav with it. ``picture``: of
    :func:`plan_picture`; by default a copy into the container that the suffix of ``out`` names. Memory does not
    grow with the length. Raises :class:`ClipError` if the picture cannot be read or does not go into this
    container, :class:`pipeline.errors.WriteError` if ``out`` cannot be written.
    """
    suffix = Path(out).suffix.lower()
    picture = picture or plan_picture(video, suffix, "copy")
    how = "encoded as H.264 for" if picture.encoded else "copied into"
    try:
        if picture.suffix != suffix:
            raise ValueError(picture.note)
        with _source(video) as source, replacing(out) as temporary:
            stream = video_stream(source, Path(video))
            with av.open(str(temporary.absolute()), "w", format=CONTAINERS[suffix]) as target:
                target.metadata["comment"] = f"sound by {MADE_BY}"
                if picture.encoded:
                    packets = _encoded_packets(source, stream, target)
                else:
                    packets = _copied_packets(source, stream, _copy_of(stream, target, picture.tag))
                parts = read_wav_parts(sound) if isinstance(sound, Path) else sound
                _interleave(packets, _Sound(target, sample_rate, parts), target)
    except (av.error.FFmpegError, ValueError) as error:
        raise ClipError("unreadable", f"{video}: its picture cannot be {how} {suffix} ({error})") from error


def _source(video: str | Path) -> Any:
    return open_container(Path(video).absolute())  # FFmpeg takes what stands before a colon for a protocol


def _origin(source: Any, stream: Any) -> int:
    """The container's start, to which the sound belongs, in the stream's time base."""
    return round(origin_of(source) / stream.time_base)


def _takes(video: str | Path, container: str, tag: str) -> bool:
    """Whether the first packets can be written into a container, in memory, and are found there again."""
    buffer = io.BytesIO()
    try:
        with _source(video) as source:
            stream = video_stream(source, Path(video))
            name = stream.codec_context.codec.canonical_name
            if _shown_unknown(source, stream):
                return False
            with av.open(buffer, "w", format=container) as target:
                copy = _copy_of(stream, target, tag)
                for _, packet in islice(_copied_packets(source, stream, copy), _TRIED_PACKETS):
                    target.mux(packet)
        buffer.seek(0)
        with av.open(buffer, "r") as written:
            found = written.streams.video[0].codec_context
            same = found is not None and found.codec.canonical_name == name
            return same and next(written.decode(video=0), None) is not None
    except (av.error.FFmpegError, ValueError, IndexError):
        return False


def _shown_unknown(source: Any, stream: Any) -> bool:
    """AVI does not say when a frame is shown: with B-frames, whose order is not that of decoding, only decoding tells.

    (For MPEG-4 part 2 FFmpeg finds the times from the frames' own headers.)
    """
    context = stream.codec_context
    reordered = context.codec.canonical_name in ("h264", "hevc") and context.has_b_frames
    return bool(kind_of(source) == "avi" and reordered)


def _copy_of(stream: Any, target: Any, tag: str) -> Any:
    # opaque: the codec is known by its id. The name of a decoder (libdav1d) is none of an encoder.
    copy = target.add_stream_from_template(stream, opaque=True)
    if tag:
        copy.codec_context.codec_tag = tag
    return copy


def _copied_packets(source: Any, stream: Any, copy: Any) -> Iterator[tuple[float, Any]]:
    """Packets of the picture and when they are due, their time stamps counted from the container's start."""
    origin, base, last = _origin(source, stream), stream.time_base, None
    for packet in source.demux(stream):
        if packet.size == 0:  # the end
            continue
        if packet.pts is not None:
            packet.pts -= origin
        if packet.dts is not None:  # the first packets of Matroska with B-frames have none, the muxer finds it
            packet.dts -= origin
            if last is not None and packet.dts <= last:  # rounding, or a splice: containers want it to increase
                packet.dts = last + 1
                packet.pts = packet.dts if packet.pts is None else max(packet.pts, packet.dts)
            last = packet.dts
        time = packet.dts if packet.dts is not None else packet.pts
        packet.stream = copy
        yield (float(time * base) if time is not None else 0.0), packet


def _encoded_packets(source: Any, stream: Any, target: Any) -> Iterator[tuple[float, Any]]:
    """The picture as H.264 4:2:0, upright, of even size, each frame at its own time. Adds the stream at once."""
    # As the container says, else the frames (decoding the first one overwrites it).
    said = {name: getattr(stream.codec_context, name) for name in ("color_primaries", "color_trc", "colorspace")}
    frames = source.decode(stream)
    first = next(frames, None)
    if first is None:
        raise ValueError("no frame of it can be decoded")
    upright = _Upright(first)
    encoder = target.add_stream("libx264", rate=stream.average_rate or 25, time_base=stream.time_base)
    shape = (first.height, first.width) if upright.turned else (first.width, first.height)
    encoder.width, encoder.height = (max(2, side // 2 * 2) for side in shape)
    encoder.pix_fmt, encoder.options = "yuv420p", {"preset": "veryfast", "crf": "18"}
    for name in said:
        value = getattr(first, name) if said[name] == _UNSPECIFIED else said[name]
        setattr(encoder.codec_context, name, _UNSPECIFIED if (name, value) == ("colorspace", _RGB) else value)
    encoder.codec_context.color_range = _LIMITED
    if ratio := stream.codec_context.sample_aspect_ratio:
        encoder.codec_context.sample_aspect_ratio = 1 / ratio if upright.turned else ratio
    step = max(1, round(1 / (stream.time_base * stream.average_rate))) if stream.average_rate else 1

    def encoded() -> Iterator[Any]:
        origin, last, counted = _origin(source, stream), -step, _shown_unknown(source, stream)
        for frame in chain([first], frames):
            time = last + step if frame.pts is None or counted else frame.pts - origin
            last = time if time > last else last + step
            image = upright(frame).reformat(encoder.width, encoder.height, format="yuv420p", dst_color_range="MPEG")
            image.pts, image.time_base = last, stream.time_base
            yield from encoder.encode(image)
        yield from encoder.encode(None)

    return ((float(packet.dts * packet.time_base), packet) for packet in encoded())


class _Upright:
    """Turns and mirrors frames as their display matrix says: an encoder does not keep it."""

    def __init__(self, frame: Any):
        a, b, c, d = display_matrix(frame) or (1, 0, 0, 1)
        self.turned = abs(b) > abs(a)
        # The point (x, y) is shown at (a x + c y, b x + d y); transpose=0 brings it to (y, x).
        right, down = (c, b) if self.turned else (a, d)
        flips = (["hflip"] if right < 0 else []) + (["vflip"] if down < 0 else [])
        self.filters = (["transpose"] if self.turned else []) + flips
        self.graph: Any = None

    def __call__(self, frame: Any) -> Any:
        if not self.filters:
            return frame
        if self.graph is None:
            self.graph = av.filter.Graph()
            node = self.graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format.name, time_base=frame.time_base
            )
            for name in [*self.filters, "buffersink"]:
                following = self.graph.add(name, "0" if name == "transpose" else None)
                node.link_to(following)
                node = following
            self.graph.configure()
        self.graph.push(frame)
        return self.graph.pull()


class _Sound:
    """The sound as a stream of ``target``, written as far as the picture is."""

    def __init__(self, target: Any, sample_rate: int, sound: Sound):
        self.target, self.rate, self.written = target, sample_rate, 0
        self.blocks = parts_of(sound)
        self.block, self.position = np.zeros(0, np.float32), 0
        codec = "libopus" if target.format.name == "webm" else "aac"
        self.stream = target.add_stream(codec, rate=sample_rate, layout="mono")
        self.stream.bit_rate = 96_000

    def _next(self) -> np.ndarray | None:
        while self.position >= len(self.block):
            if (block := next(self.blocks, None)) is None:
                return None
            self.block, self.position = np.asarray(block, np.float32), 0
        part = self.block[self.position : self.position + round(_BLOCK_SECONDS * self.rate)]
        self.position += len(part)
        return part

    def write_until(self, seconds: float) -> None:
        """Encode and write the sound up to this time; all that is left and the end for infinity."""
        while self.written < seconds * self.rate:
            if (part := self._next()) is None:
                if math.isinf(seconds):
                    self.target.mux(self.stream.encode(None))
                return
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part)[None], format="flt", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = self.rate, self.written, Fraction(1, self.rate)
            self.target.mux(self.stream.encode(frame))
            self.written += len(part)


def _interleave(packets: Iterator[tuple[float, Any]], sound: _Sound, target: Any) -> None:
    for due, packet in packets:
        sound.write_until(due)
        target.mux(packet)
    sound.write_until(math.inf)
