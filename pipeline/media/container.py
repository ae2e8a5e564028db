"""What a container holds and claims: its streams, where they start, how long they are, and whether they are whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from common.errors import ClipError
from manifests.tars import find_member

TIME_TOLERANCE = 1e-3  # seconds; time stamps are rounded to the stream's time base
TRUNCATION_TOLERANCE = 0.5  # seconds by which a stream may end before its declared end

# Containers whose header says how long they are (FFmpeg's names). Others are read to their end for it, by
# FFmpeg (``_MEASURED``) or by us.
_CLAIMING = frozenset({"mov", "matroska", "avi", "asf", "flv"})
_MEASURED = frozenset({"mpegts", "mpeg", "ogg", "gif"})
# What names other files is no film: a stranger's playlist would show any film of this machine.
_PLAYLISTS = frozenset({"hls", "applehttp", "concat", "dash", "webm_dash_manifest", "imf", "sdp"})
_WHOLE = ",".join(sorted({name for names in av.formats_available for name in names.split(",")} - _PLAYLISTS))
# A tag that is no UTF-8: PyAV below 19 fails over it unless told not to, 19 keeps its bytes as surrogates by itself.
_ANY_TAGS: dict[str, Any] = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}


@dataclass(frozen=True)
class MediaInfo:
    """What a container holds, read without decoding. ``duration_s`` is measured where none is declared."""

    duration_s: float
    fps: float
    width: int
    height: int
    has_audio: bool
    audio_rate: int


def check_file(path: Path) -> None:
    """Raise :class:`ClipError` ``missing_file``, ``empty_file`` or, for one that may not be read, ``unreadable``."""
    try:
        if (member := find_member(path)) is not None and member.size == 0:
            raise ClipError("empty_file", f"{path} has no bytes")
        if member is not None:
            return
        if not path.is_file():
            raise ClipError("missing_file", f"{path} is not a file" if path.exists() else f"{path} does not exist")
        if path.stat().st_size == 0:
            raise ClipError("empty_file", f"{path} has no bytes")
    except (OSError, ValueError) as error:
        raise ClipError("unreadable", f"{path}: {getattr(error, 'strerror', None) or error}") from error


def url_of(path: Path) -> str:
    """What FFmpeg is given to open a file: its path, or the place of one in a tar (:mod:`manifests.tars`)."""
    member = find_member(path)
    return str(path) if member is None else member.url


def open_media(file: Any, **arguments: Any) -> Any:
    """``av.open`` to read a name or an open file, in whatever encoding its tags are. Raises as PyAV does."""
    return av.open(file, **_ANY_TAGS, **arguments)


def open_container(path: Path) -> Any:
    """An open PyAV container; use as a context manager. Raises :class:`ClipError`, also for a playlist."""
    check_file(path)
    try:
        return open_media(url_of(path), options={"format_whitelist": _WHOLE})
    except av.error.ArgumentError as error:
        reason = f"{path} is not a media file that can be opened, or a playlist, which names others ({error})"
        raise ClipError("unreadable", reason) from error
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise ClipError("unreadable", f"{path} is not a media file that can be opened ({error})") from error


def kind_of(container: Any) -> str:
    """FFmpeg's first name of the container's format: ``mov``, ``matroska``, ``avi``, ``mpegts``, ..."""
    return container.format.name.split(",")[0]


def video_stream(container: Any, path: Path) -> Any:
    """The first video stream that is no cover art; raises :class:`ClipError` ``no_video``."""
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic and stream.codec_context is not None:
            return stream
    raise ClipError("no_video", f"{path} has no video stream")


def audio_stream(container: Any, path: Path) -> Any:
    """The first audio stream that is marked default, else the first; raises :class:`ClipError` ``no_audio``."""
    streams = [stream for stream in container.streams.audio if stream.codec_context is not None]
    for stream in streams:
        if stream.disposition & av.stream.Disposition.default:
            return stream
    if streams:
        return streams[0]
    raise ClipError("no_audio", f"{path} has no audio stream")


def origin_of(container: Any) -> float:
    """Time of the container's start, to which both streams are aligned, as players do."""
    return container.start_time / av.time_base if container.start_time else 0.0


def declared_seconds(container: Any) -> float | None:
    """The whole container's length from its start, if its header says so."""
    if kind_of(container) not in _CLAIMING or not container.duration or container.duration < 0:
        return None
    return container.duration / av.time_base - max(origin_of(container), 0.0)


def declared_stream_seconds(container: Any, stream: Any) -> float | None:
    """One stream's length, if the container's header or the stream's tag (Matroska) says so."""
    if kind_of(container) not in _CLAIMING:
        return None
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    for name, value in stream.metadata.items():
        if name.upper().startswith("DURATION"):
            try:
                hours, minutes, seconds = value.strip("\0 ").split(":")
                return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
            except ValueError:
                return None
    return None


class Packets:
    """The packets of the sound and picture streams of a container, in file order, and how far they reach.

    ``ends``: stream index -> seconds from the container's start, by presentation and by decoding time,
    whichever is later. ``at_end``: whether the file was read to its end.
    """

    def __init__(self, container: Any, begin: float | None = None):
        """Read from ``begin`` (seconds from the container's start) or, where seeking leads, from before it."""
        self.container, self.origin = container, origin_of(container)
        self.ends: dict[int, float] = {}
        self.at_end = False
        if begin is not None:
            container.seek(round((self.origin + begin) * av.time_base), backward=True)

    def __iter__(self) -> Iterator[Any]:
        streams = [*self.container.streams.video, *self.container.streams.audio]
        reader = self.container.demux(streams)
        while True:
            try:
                packet = next(reader)
            except StopIteration:
                break
            except IndexError:  # a packet of a stream that was not there when the file was opened (MPEG-TS)
                reader = self.container.demux(streams)
                continue
            except av.error.FFmpegError:  # what follows cannot be read: to us the file ends here
                break
            stamps = [stamp for stamp in (packet.pts, packet.dts) if stamp is not None]
            if not stamps:
                if packet.size == 0:  # PyAV's mark of a stream's end
                    continue
            else:
                length = packet.duration or 0
                end = float((max(stamps) + length) * packet.time_base) - self.origin
                self.ends[packet.stream_index] = max(end, self.ends.get(packet.stream_index, end))
            yield packet
        self.at_end = True

    def missing_from(self, until: float, tolerance: float = TRUNCATION_TOLERANCE) -> tuple[float, float] | None:
        """Declared and true length if the file ends before ``until`` and before what it declares, else None."""
        declared = declared_seconds(self.container)
        held = max(self.ends.values(), default=0.0)
        if not self.at_end or declared is None or held + tolerance >= min(declared, until):
            return None
        return declared, held


def beginnings(start: float, first_margin: float) -> Iterator[float | None]:
    """Where to try to read a window from: ever further before it, in the end (None) from the start."""
    margin = first_margin
    while start - margin > 0:
        yield start - margin
        margin = max(2 * margin, 2.0)
    yield None


def probe(path: str | Path) -> MediaInfo:
    """Read the container's header, and its packets if it does not say how long it is. Raises :class:`ClipError`."""
    path = Path(path)
    with open_container(path) as container:
        video = video_stream(container, path)
        try:
            audio = audio_stream(container, path)
        except ClipError:
            audio = None
        duration = container.duration / av.time_base if container.duration and container.duration > 0 else None
        if duration is None or kind_of(container) not in _CLAIMING | _MEASURED:
            packets = Packets(container)
            for _ in packets:
                pass
            duration = max(packets.ends.values(), default=0.0)
        return MediaInfo(
            duration_s=float(duration),
            fps=float(video.average_rate or 0.0),
            width=video.codec_context.width,
            height=video.codec_context.height,
            has_audio=audio is not None,
            audio_rate=audio.codec_context.sample_rate if audio is not None else 0,
        )
