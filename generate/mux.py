"""Put a generated waveform beside an untouched video stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np

from pipeline.errors import ClipError
from pipeline.media_writing import encode_aac, replacing


def mux(video: str | Path, waveform: np.ndarray, sample_rate: int, out: str | Path) -> None:
    """Write ``out`` (mp4): the packets of ``video``'s picture as they are, and the waveform as AAC.

    No frame is decoded or encoded again. Raises :class:`ClipError` if the video cannot be read or its
    codec does not go into mp4.
    """
    try:
        with av.open(str(video), metadata_errors="ignore") as source, replacing(out) as temporary:
            streams = [s for s in source.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
            if not streams:
                raise ClipError("no_video", f"{video} has no video stream")
            _copy(source, streams[0], waveform, sample_rate, temporary)
    except (av.error.FFmpegError, ValueError) as error:
        raise ClipError("unreadable", f"{video}: its picture cannot be copied into an mp4 ({error})") from error


def _copy(source: Any, picture: Any, waveform: np.ndarray, sample_rate: int, path: Path) -> None:
    with av.open(str(path), "w") as target:
        video: Any = target.add_stream_from_template(picture)
        audio: Any = target.add_stream("aac", rate=sample_rate, layout="mono")
        audio.bit_rate = 96_000
        # Time stamps keep their distance from the container's start, to which the sound belongs.
        origin = round((source.start_time or 0) / av.time_base / picture.time_base)
        for packet in source.demux(picture):
            if packet.dts is None:
                continue
            packet.stream = video
            if origin:
                packet.pts, packet.dts = packet.pts - origin, packet.dts - origin
            target.mux(packet)
        encode_aac(target, audio, waveform, sample_rate)
