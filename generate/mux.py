"""Put generated sound beside a video's picture: copied bit for bit where the container takes it."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from common.errors import ClipError, InputError
from common.outputs import check_output
from common.writing import replacing
from generate import sound_track
from generate.picture_track import (
    Part,
    Timed,
    can_copy,
    copied_packets,
    copy_of,
    encoded_packets,
    key_frames_around,
    open_source,
)
from generate.sound_track import OWN_TITLE, TITLE, add_track, name_track
from pipeline.media.container import audio_stream, kind_of, video_stream
from pipeline.media.writing import MADE_BY, Sound, parts_of, read_wav_parts

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
VIDEO_CODECS = ("auto", "copy", "h264")
AUDIO = ("replace", "mix", "add-track")
LARGEST_GAIN = 60.0  # dB, up and down
# What FFmpeg writes into mp4 and hardly anything else reads there: it is encoded again.
_UNUSUAL = {"mp4": ("pcm_", "vorbis")}


@dataclass(frozen=True)
class Picture:
    """How a picture gets into the output: ``suffix`` of the file; copied under ``tag``, or ``encoded`` as H.264
    (in webm as VP9).

    ``note``: what the user should know where that is not what was asked for.
    """

    suffix: str
    encoded: bool = False
    tag: str = ""
    note: str = ""


@dataclass(frozen=True)
class OwnSound:
    """What becomes of a film's own sound: ``audio`` is one of :data:`AUDIO`, replace where it has none.

    A second track is ``copied`` bit for bit, or encoded again with so many ``channels``. ``note``: as of
    :class:`Picture`.
    """

    audio: str = "replace"
    copied: bool = False
    channels: int = 1
    note: str = ""


def plan_picture(
    video: str | Path,
    suffix: str = ".mp4",
    codec: str = "auto",
    *,
    start: float = 0.0,
    duration: float | None = None,
    fallback: bool = True,
) -> Picture:
    """Decide, by trying on the first packets, how the picture of ``video`` gets into a file of this suffix.

    ``codec``: ``copy`` never encodes, ``h264`` encodes what is not H.264, ``auto`` encodes only what no container
    here takes, and a part whose ``start`` (seconds) is not at a key frame: a copy would begin at another moment.
    Where a picture is to be copied and the container does not take it, Matroska does by itself, unless
    ``fallback`` is False. Raises :class:`ClipError` if there is no picture or no way, :class:`InputError` for
    H.264 in webm (where a part is encoded as VP9), and for ``copy`` from between two key frames.
    """
    part = Part(start, duration)
    if codec == "h264" and suffix == ".webm":
        raise InputError("a webm file holds no H.264: take .mp4, .mov or .mkv")
    with open_source(video) as source:
        stream = video_stream(source, Path(video))
        name = stream.codec_context.codec.canonical_name
        tag = stream.codec_context.codec_tag if kind_of(source) == "mov" else ""
    inexact = _inexact(video, part) if start else ""
    if inexact and codec == "copy":
        raise InputError(f"{video}: its picture cannot be copied {inexact}")
    tried = [suffix] if codec == "h264" or not fallback else list(dict.fromkeys((suffix, ".mkv")))
    for wanted in tried if not inexact and (codec != "h264" or name == "h264") else ():
        for kept in dict.fromkeys((tag, "")) if CONTAINERS[wanted] in ("mp4", "mov") else ("",):
            if can_copy(video, video_stream, CONTAINERS[wanted], kept, part):
                note = "" if wanted == suffix else f"{name} cannot be copied into {suffix}: {wanted} is written"
                return Picture(wanted, tag=kept, note=note)
    if codec == "h264":
        return Picture(suffix, encoded=True)
    fault = f"{name} cannot be copied into {' or '.join(tried)}"
    if codec == "copy":
        raise ClipError("unreadable", f"{video}: {fault}; --video-codec h264 encodes it again")
    if inexact:
        made = "VP9" if suffix == ".webm" else "H.264"
        return Picture(suffix, True, note=f"the part starts {inexact.partition(':')[0]}: it is encoded again as {made}")
    return Picture(tried[-1] if suffix == ".webm" else suffix, True, note=f"{fault}: it is encoded again as H.264")


def _inexact(video: str | Path, part: Part) -> str:
    """Why a copy cannot begin at the part's start, and where it could; empty if it can."""
    before, after, exact = key_frames_around(video, part.start)
    if exact:
        return ""
    known = " and ".join(f"{time:.3f}".rstrip("0").rstrip(".") for time in (before, after) if time is not None)
    near = f"there are some at {known} s. To go on: start at one, or" if known else "to go on,"
    return f"at {part.start:g} s, where no key frame is known: {near} take --video-codec auto, which encodes it again"


def check_audio(audio: str = "replace", gain: float = 0.0) -> None:
    """Raise :class:`InputError` for an unknown way, or a gain of the original sound where none is kept."""
    if audio not in AUDIO:
        raise InputError(f"unknown way '{audio}' for the film's own sound: there are {', '.join(AUDIO)}")
    if not (math.isfinite(gain) and abs(gain) <= LARGEST_GAIN):
        raise InputError(f"the gain of the original sound is from -{LARGEST_GAIN:g} to {LARGEST_GAIN:g} dB")
    if gain and audio == "replace":
        raise InputError("a gain is for the original sound, which is replaced: take --audio mix or --audio add-track")


def plan_own_sound(
    video: str | Path, suffix: str, audio: str = "replace", gain: float = 0.0, *, start: float = 0.0
) -> OwnSound:
    """Decide, by trying on the first packets, what becomes of a film's own sound in a file of this suffix.

    ``add-track`` copies it where the container takes it and ``gain`` is 0 dB, else encodes it again. Raises
    :class:`InputError` as :func:`check_audio`, :class:`ClipError` if the film cannot be opened.
    """
    check_audio(audio, gain)
    if audio == "replace":
        return OwnSound()
    with open_source(video) as source:
        try:
            name = audio_stream(source, Path(video)).codec_context.codec.canonical_name
        except ClipError:
            return OwnSound(note="it has no sound of its own: the generated sound is the only one")
    if (frame := sound_track.first_frame(video)) is None:
        return OwnSound(note="its own sound cannot be decoded: the generated sound is the only one")
    many = frame.layout.nb_channels
    channels = 1 if many == 1 else 2
    container, made = CONTAINERS[suffix], "Opus" if suffix == ".webm" else "AAC"
    why = ""
    if audio == "add-track":
        usual = not name.startswith(_UNUSUAL.get(container, ("-",)))
        if gain:
            why = f"its own sound is encoded again as {made}, for its gain of {gain:g} dB"
        elif usual and can_copy(video, audio_stream, container, part=Part(start)):
            return OwnSound(audio, copied=True, channels=channels)
        else:
            why = f"its own sound, {name}, cannot be copied into {suffix}: it is encoded again as {made}"
    if many > channels:
        why = "; ".join(filter(None, (why, f"the {many} channels of its own sound become {channels}")))
    return OwnSound(audio, channels=channels, note=why)


def mux(
    video: str | Path,
    sound: Sound | Path,
    sample_rate: int,
    out: str | Path,
    picture: Picture | None = None,
    *,
    audio: str = "replace",
    gain: float = 0.0,
    start: float = 0.0,
    duration: float | None = None,
) -> None:
    """Write ``out``: the picture of ``video`` and the sound (Opus in webm, else AAC, at 48 kHz), by time.

    ``sound``: the waveform (samples,) in [-1, 1], its parts one after the other, or the wav with it. ``picture``: of
    :func:`plan_picture`, with the same ``start`` and ``duration``; by default a copy into the container that the
    suffix of ``out`` names.

    ``audio``: ``replace`` writes our sound alone; ``mix`` adds the film's own to it, at ``gain`` dB, turned down
    around peaks that would clip; ``add-track`` makes ours the first track and the film's own the second, copied
    where the container takes it and ``gain`` is 0. A film without sound is as with ``replace``.

    ``start``, ``duration``: seconds; only this part of the film is written, and the first sample of ``sound`` is
    heard at its start. A copied picture may end a few frames late, with those that the last ones refer to.

    Memory does not grow with the length. Raises :class:`ClipError` if the picture cannot be read or does not go
    into this container, :class:`InputError` for arguments that cannot be,
    :class:`common.errors.WriteError` if ``out`` cannot be written, or is the video itself.
    """
    suffix, part = Path(out).suffix.lower(), Part(start, duration)
    if suffix not in CONTAINERS:
        raise InputError(f"{out}: a film is written as {', '.join(CONTAINERS)}")
    if sample_rate <= 0:
        raise InputError(f"the rate of the sound is {sample_rate}, and must be more than 0 Hz")
    check_output(Path(out), [Path(video)])
    picture = picture or plan_picture(video, suffix, "copy", start=start, duration=duration)
    own = plan_own_sound(video, suffix, audio, gain, start=start)
    what = "its picture" if own.audio == "replace" else "its picture or its own sound"
    how = "encoded again for" if picture.encoded else "copied into"
    try:
        if picture.suffix != suffix:
            raise ValueError(picture.note)
        ours = sound_track.generated(
            parts_of(read_wav_parts(sound) if isinstance(sound, Path) else sound), sample_rate, part.length
        )
        with open_source(video) as source, open_source(video) as second, replacing(out) as temporary:
            stream = video_stream(source, Path(video))
            with av.open(str(temporary.absolute()), "w", format=CONTAINERS[suffix]) as target:
                target.metadata["comment"] = f"sound by {MADE_BY}"
                if picture.encoded:
                    tracks = [encoded_packets(source, stream, target, part)]
                else:
                    tracks = [copied_packets(source, stream, copy_of(stream, target, picture.tag), part)]
                target.streams.video[0].disposition = av.stream.Disposition.default
                tracks += _sound_tracks(video, second, target, ours, own, gain, part)
                # What is due together lies together, and no track is read far ahead of the others.
                for _, packet in heapq.merge(*tracks, key=lambda timed: timed[0]):
                    target.mux(packet)
    except (av.error.FFmpegError, ValueError) as error:
        raise ClipError("unreadable", f"{video}: {what} cannot be {how} {suffix} ({error})") from error


def _sound_tracks(
    video: str | Path, source: Any, target: Any, ours: sound_track.Parts, own: OwnSound, gain: float, part: Part
) -> list[Iterator[Timed]]:
    """Adds our track to ``target``, and the film's own where it is to have one."""
    if own.audio == "mix":
        ours = sound_track.mixed(ours, sound_track.original(video, own.channels, gain, part), own.channels)
    channels = own.channels if own.audio == "mix" else 1
    track = add_track(target, channels, title=TITLE, default=True)
    tracks = [sound_track.encoded_packets(track, ours, channels)]
    if own.audio != "add-track":
        return tracks
    stream = audio_stream(source, Path(video))
    names = {"title": OWN_TITLE, "default": False, "language": stream.metadata.get("language", "")}
    if own.copied:
        copy = copy_of(stream, target)
        name_track(target, copy, **names)
        return [*tracks, copied_packets(source, stream, copy, part)]
    theirs = sound_track.original(video, own.channels, gain, part)
    track = add_track(target, own.channels, **names)
    return [*tracks, sound_track.encoded_packets(track, theirs, own.channels)]
