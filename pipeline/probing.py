"""What the files of clips hold: length, size, frame rate, sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from common.errors import ClipError, MFMError
from manifests.manifest import Clip
from pipeline.decoding import Call, DecodePool
from pipeline.media import MediaInfo, probe
from pipeline.sources import SourceFile
from presets.config import MediaConfig


def _probed(clip: Clip, found: MediaInfo | MFMError) -> Clip:
    """The clip with its media columns, or with the status and the reason why they cannot be filled."""
    if isinstance(found, MFMError):
        kind = found.kind if isinstance(found, ClipError) else "unreadable"
        return replace(clip, status=kind, reason=found.message if isinstance(found, ClipError) else str(found))
    seen = SourceFile(clip.path).size_and_time
    if not seen:
        return replace(clip, status="unreadable", reason=f"{clip.path} cannot be read any more")
    return replace(
        clip,
        **asdict(found),
        bytes=int(seen.partition("-")[0]),
        file_fingerprint=seen,
        status="ok",
        reason="" if found.has_audio else "no audio stream",
    )


def probe_clips(clips: Sequence[Clip], workers: int = 8, seconds: float = 60.0) -> list[Clip]:
    """Probe each file once, in workers that are killed after ``seconds`` with one file.

    Several at a time: it is mostly headers, and waiting for the disk is what costs.
    """
    calls = [Call(probe, (clip.path,), path=clip.path) for clip in clips]
    with DecodePool(MediaConfig(), min(workers, 1 + len(clips) // 8), seconds) as pool:
        return [_probed(clip, found) for clip, found in zip(clips, pool.map(calls), strict=True)]
