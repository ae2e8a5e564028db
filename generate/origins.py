"""What a clip's sound was made from, written into its wav: a rerun makes again what is of something else by now."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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
        try:
            said = json.loads(wav_comment(wav) or "{}")
            return said.get("conditions", self.conditions) == self.conditions and self.video.same_as(said.get("video"))
        except (ValueError, AttributeError, TypeError):
            return True
