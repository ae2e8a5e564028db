"""The picture of a film, or of a part of it, as packets of another file: copied bit for bit, or encoded as H.264."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import av

from common.errors import InputError
from pipeline.media.container import TIME_TOLERANCE, beginnings, kind_of, open_container, origin_of, video_stream
from pipeline.media.picture import display_matrix

_TRIED_PACKETS = 32
_ENCODERS = {
    "": ("libx264", {"preset": "veryfast", "crf": "18"}),
    "webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "6", "row-mt": "1", "crf": "24", "b": "0"}),
}
# FFmpeg's numbers: the colour space of pictures that are no YUV, the range from 16 to 235, and "not said".
_RGB, _LIMITED, _UNSPECIFIED = 0, 1, 2

Timed = tuple[float, Any]  # seconds in the output at which a packet is due, and the packet
Chooser = Callable[[Any, Path], Any]  # of one stream of an open container


@dataclass(frozen=True)
class Part:
    """Of a film: ``duration`` seconds (None: the rest) from ``start`` seconds after its begin.

    Raises :class:`InputError` for values that are none.
    """

    start: float = 0.0
    duration: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and self.start >= 0):
            raise InputError(f"a part of a film starts 0 s or more after its begin, not {self.start:g}")
        if self.duration is not None and not (math.isfinite(self.duration) and self.duration > 0):
            raise InputError(f"a part of a film is longer than 0 s, not {self.duration:g}")

    @property
    def length(self) -> float:
        return math.inf if self.duration is None else self.duration

    @property
    def whole(self) -> bool:
        return self.start == 0 and self.duration is None


WHOLE = Part()


def open_source(video: str | Path) -> Any:
    return open_container(Path(video).absolute())  # FFmpeg takes what stands before a colon for a protocol


def copy_of(stream: Any, target: Any, tag: str = "") -> Any:
    """A stream of ``target`` for the packets of ``stream``."""
    # opaque: the codec is known by its id. The name of a decoder (libdav1d) is none of an encoder.
    copy = target.add_stream_from_template(stream, opaque=True)
    if tag:
        copy.codec_context.codec_tag = tag
    return copy


def can_copy(video: str | Path, choose: Chooser, container: str, tag: str = "", part: Part = WHOLE) -> bool:
    """Whether the part's first packets can be written into a container, in memory, and are found there again."""
    buffer = io.BytesIO()
    try:
        with open_source(video) as source:
            stream = choose(source, Path(video))
            name, kind = stream.codec_context.codec.canonical_name, stream.type
            if kind == "video" and _shown_unknown(source, stream):
                return False
            with av.open(buffer, "w", format=container) as target:
                copy = copy_of(stream, target, tag)
                for _, packet in islice(copied_packets(source, stream, copy, part), _TRIED_PACKETS):
                    target.mux(packet)
        buffer.seek(0)
        with av.open(buffer, "r") as written:
            found = getattr(written.streams, kind)[0].codec_context
            same = found is not None and found.codec.canonical_name == name
            return same and next(written.decode(**{kind: 0}), None) is not None
    except (av.error.FFmpegError, ValueError, IndexError):
        return False


def _shown_unknown(source: Any, stream: Any) -> bool:
    """AVI does not say when a frame is shown: with B-frames, whose order is not that of decoding, only decoding tells.

    (For MPEG-4 part 2 FFmpeg finds the times from the frames' own headers.)
    """
    context = stream.codec_context
    reordered = context.codec.canonical_name in ("h264", "hevc") and context.has_b_frames
    return bool(kind_of(source) == "avi" and reordered)


def _packets_before(source: Any, stream: Any, start: float) -> Iterator[Any]:
    """Packets from a key frame at or before ``start`` on (seconds from the film's begin); all of them where none is."""
    origin = origin_of(source)
    for begin in beginnings(start, 0.0) if start > 0 else (None,):
        if start > 0:
            try:
                source.seek(round((origin + (begin or 0.0)) * av.time_base), backward=True)
            except av.error.FFmpegError:
                if begin is None:
                    raise
                continue
        packets = (packet for packet in source.demux(stream) if packet.size)
        first = next((packet for packet in packets if packet.is_keyframe), None)
        if first is None:
            if begin is None:
                return
            continue
        stamp = first.dts if first.pts is None else first.pts
        late = stamp is None or float(stamp * stream.time_base) - origin > start + TIME_TOLERANCE
        if begin is None or not late:
            yield from chain([first], packets)
            return


def key_frames_around(video: str | Path, start: float) -> tuple[float | None, float | None, bool]:
    """Times of the last key frame before ``start`` and of the first one at or after it, and whether a copy can begin.

    It can where nothing is shown between ``start`` and that key frame.
    """
    with open_source(video) as source:
        stream = video_stream(source, Path(video))
        if kind_of(source) == "avi":  # no times of presentation
            return None, None, False
        origin, before, first, after = origin_of(source), None, None, 0
        lost: list[float] = []
        for packet in _packets_before(source, stream, start):
            if packet.pts is None:
                return before, first, False
            time = float(packet.pts * stream.time_base) - origin
            if first is None and packet.is_keyframe:
                before, first = (time, None) if time < start - TIME_TOLERANCE else (before, time)
            if first is not None:
                after += 1
            if time >= start - TIME_TOLERANCE and (first is None or time < first):
                lost.append(time)
            if after > _TRIED_PACKETS:
                break
        exact = first is not None and not any(time < first - TIME_TOLERANCE for time in lost)
        return before, first, exact


def copied_packets(source: Any, stream: Any, copy: Any, part: Part = WHOLE) -> Iterator[Timed]:
    """Packets of the part, their time stamps counted from its start.

    A picture begins with the first key frame of the part, and ends with the frames that the last ones of the part
    refer to: a few may be later. Sound is cut between packets.
    """
    origin, base, last = round((origin_of(source) + part.start) / stream.time_base), stream.time_base, None

    def moved() -> Iterator[Any]:
        for packet in _packets_before(source, stream, part.start):
            if packet.pts is not None:
                packet.pts -= origin
            if packet.dts is not None:  # the first packets of Matroska with B-frames have none, the muxer finds it
                packet.dts -= origin
            yield packet

    begun = _begun(moved(), base) if part.start else moved()
    for packet in begun if part.duration is None else _ended(begun, base, part.duration):
        if packet.dts is not None:
            if last is not None and packet.dts <= last:  # rounding, or a splice: containers want it to increase
                packet.dts = last + 1
                packet.pts = packet.dts if packet.pts is None else max(packet.pts, packet.dts)
            last = packet.dts
        time = packet.dts if packet.dts is not None else packet.pts
        packet.stream = copy
        yield (float(time * base) if time is not None else 0.0), packet


def _shown_at(packet: Any, base: Any) -> float | None:
    stamp = packet.dts if packet.pts is None else packet.pts
    return None if stamp is None else float(stamp * base)


def _begun(packets: Iterator[Any], base: Any) -> Iterator[Any]:
    """Without what is before the first key frame of the part, or is shown before it."""
    first: float | None = None
    for packet in packets:
        time = _shown_at(packet, base)
        if first is None and time is not None and packet.is_keyframe and time >= -TIME_TOLERANCE:
            first = time
        if first is not None and (time is None or time >= first):
            yield packet


def _ended(packets: Iterator[Any], base: Any, end: float) -> Iterator[Any]:
    """Without what is after ``end`` (seconds) and no packet before it refers to."""
    late: list[Any] = []
    for packet in packets:
        time = _shown_at(packet, base)
        if time is None or time < end - TIME_TOLERANCE:
            yield from late
            yield packet
            late.clear()
        elif packet.stream.type == "audio" or len(late) == _TRIED_PACKETS:
            return
        else:
            late.append(packet)


def encoded_packets(source: Any, stream: Any, target: Any, part: Part = WHOLE) -> Iterator[Timed]:
    """The picture as H.264 (VP9 in webm) 4:2:0, upright, of even size, each frame at its time. Adds the stream at once.

    A part begins with the frame that is on screen at its start. Raises ValueError where no frame can be decoded.
    """
    # As the container says, else the frames (decoding the first one overwrites it).
    said = {name: getattr(stream.codec_context, name) for name in ("color_primaries", "color_trc", "colorspace")}
    frames = _frames(source, stream, part)
    _, first = begun = next(frames, (0, None))
    if first is None:
        raise ValueError("no frame of it can be decoded")
    upright = _Upright(first)
    codec, options = _ENCODERS["webm" if target.format.name == "webm" else ""]
    encoder = target.add_stream(codec, rate=stream.average_rate or 25, time_base=stream.time_base)
    shape = (first.height, first.width) if upright.turned else (first.width, first.height)
    encoder.width, encoder.height = (max(2, side // 2 * 2) for side in shape)
    encoder.pix_fmt, encoder.options = "yuv420p", dict(options)
    for name in said:
        value = getattr(first, name) if said[name] == _UNSPECIFIED else said[name]
        setattr(encoder.codec_context, name, _UNSPECIFIED if (name, value) == ("colorspace", _RGB) else value)
    encoder.codec_context.color_range = _LIMITED
    if ratio := stream.codec_context.sample_aspect_ratio:
        encoder.codec_context.sample_aspect_ratio = 1 / ratio if upright.turned else ratio

    def encoded() -> Iterator[Any]:
        for stamp, frame in chain([begun], frames):
            image = upright(frame).reformat(encoder.width, encoder.height, format="yuv420p", dst_color_range="MPEG")
            image.pts, image.time_base = stamp, stream.time_base
            yield from encoder.encode(image)
        yield from encoder.encode(None)

    return ((float(packet.dts * packet.time_base), packet) for packet in encoded())


def _frames(source: Any, stream: Any, part: Part) -> Iterator[tuple[int, Any]]:
    """Frames of the part and their times from its start, in the stream's time base, ever later."""
    base, counted = stream.time_base, _shown_unknown(source, stream)
    step = max(1, round(1 / (base * stream.average_rate))) if stream.average_rate else 1
    origin, begin = round(origin_of(source) / base), round(part.start / base)
    end, tolerance = math.inf if part.duration is None else part.duration / base, TIME_TOLERANCE / base
    last, held = -step, None

    def decoded() -> Iterator[Any]:
        if counted or part.start == 0:  # the n-th frame is known by counting only
            yield from source.decode(stream)
            return
        for packet in _packets_before(source, stream, part.start):
            yield from stream.codec_context.decode(packet)
        yield from stream.codec_context.decode(None)

    for frame in decoded():
        time = last + step if frame.pts is None or counted else frame.pts - origin
        last = time if time > last else last + step
        shown = last - begin
        if part.start and shown < 0:
            held = frame
            continue
        if shown >= end - tolerance:
            break
        if held is not None and shown > tolerance:  # what is on screen when the part begins
            yield 0, held
        held = None
        yield shown, frame
    if held is not None:
        yield 0, held


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
