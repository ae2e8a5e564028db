"""The interface of every network whose features are compared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from common.hashing import sha256_file
from evaluation.pictures import PictureInput
from evaluation.sounds import SoundInput
from pipeline.frozen import Frozen, check_files, drawn, fill_official
from presets import Preset
from presets.official import CheckpointFile


class FeatureNetwork(Frozen, ABC):
    """A frozen network that turns a clip's sound or picture into features.

    ``caches`` are the feature files of av-benchmark that it fills from what ``sound`` reads. A network that compares
    sound with picture has ``video_caches`` too, filled by ``encode_video`` from what ``picture`` reads.
    """

    files: ClassVar[tuple[CheckpointFile, ...]]
    caches: ClassVar[tuple[str, ...]]
    sound: ClassVar[SoundInput] = SoundInput()
    picture: ClassVar[PictureInput | None] = None
    video_caches: ClassVar[tuple[str, ...]] = ()  # of the reference's picture, where sound is compared with that
    text_caches: ClassVar[tuple[str, ...]] = ()  # of the reference's texts, likewise
    scores_itself: ClassVar[bool] = False  # its metric needs the network as well as features
    batch: ClassVar[tuple[int, int]] = (16, 64)  # sounds at a time, on a CPU and elsewhere
    video_batch: ClassVar[tuple[int, int]] = (1, 4)  # pictures at a time, likewise
    fingerprint: str = "seeded"

    @classmethod
    def folder(cls, preset: Preset, *, fetch: bool = True) -> Path:
        """Where its official files lie by their names. ``fetch``: a folder of the hub may be fetched."""
        return preset.weights.path

    @abstractmethod
    def encode(self, waveforms: Tensor) -> dict[str, dict[str, Tensor]]:
        """What ``sound`` reads of B clips, (B, samples) -> cache -> part -> (B, ...); part "" is the whole entry."""

    def encode_video(self, frames: Tensor) -> dict[str, dict[str, Tensor]]:
        """What ``picture`` reads of B clips, uint8 (B, T, 3, 224, 224) -> cache -> part -> (B, ...)."""
        raise TypeError(f"{self.name} does not look at pictures")

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts -> (N, D), on the CPU."""
        raise TypeError(f"{self.name} does not read texts")

    @staticmethod
    def fingerprint_of(paths: Mapping[str, Path]) -> str:
        """Of its official files."""
        return "-".join(sha256_file(path)[:16] for path in paths.values())


def load_network(kind: type[FeatureNetwork], folder: Path, device: str = "cpu") -> FeatureNetwork:
    """A network with its official weights, in evaluation mode; raises :class:`WeightsError`."""
    paths = {file.role: folder / file.filename for file in kind.files}
    or_else = f" (or features made elsewhere, {', '.join(kind.caches)})"
    paths = check_files(f"network '{kind.name}'", kind.files, paths, or_else)
    network = kind()
    fill_official(network, paths)
    return network.ready(device)


def seeded_network(kind: type[FeatureNetwork], seed: int = 0) -> FeatureNetwork:
    """The network at its published size with drawn weights: for shapes and times, never for scores."""
    return drawn(kind, seed).ready("cpu")
