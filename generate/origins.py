"""What a clip's sound was made from, written into its wav: a rerun makes again what is of something else by now."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manifests.manifest import Clip
from pipeline.media.writing import wav_comment
from pipeline.sources import SourceFile


@dataclass(frozen=True)
class Origin:
    """Of one clip: ``conditions``, a digest of its label and visual features, and its ``video``.

    What else decides the sound (mapper, seed, settings) is the same for all of OUT.
    """

    conditions: str
    video: SourceFile

    @staticmethod
    def of(clip: Clip, features: Mapping[str, np.ndarray]) -> Origin:
        """``features``: stage -> (steps, width), as cached."""
        digest = hashlib.sha256(json.dumps(clip.label).encode())
        for stage, array in sorted(features.items()):
            digest.update(f"{stage} {array.dtype} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return Origin(digest.hexdigest()[:32], SourceFile(clip.path))

    def to_text(self) -> str:
        """For the comment of the wav."""
        return json.dumps({"conditions": self.conditions, "video": self.video.state})

    def made(self, wav: Path) -> bool:
        """Whether this wav was made from it. True where it does not say: versions before did not write it."""
        return _said(wav).get("conditions", self.conditions) == self.conditions and of_this_video(wav, self.video)


def of_this_video(wav: Path, video: SourceFile) -> bool:
    """Whether this wav was made from the video as it is now; True where it does not say, or the video is gone."""
    try:
        return video.same_as(_said(wav).get("video"))
    except (AttributeError, TypeError):
        return True


def _said(wav: Path) -> dict[str, Any]:
    try:
        said = json.loads(wav_comment(wav) or "{}")
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
