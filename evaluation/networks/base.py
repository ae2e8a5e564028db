"""The interface of every network whose features are compared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from common.errors import WeightsError
from common.hashing import sha256_file
from evaluation.pictures import PictureInput
from evaluation.sounds import SoundInput
from pipeline.encoders.checkpoints import CheckpointFile, Rule, load_checked, read_state
from presets.official import OFFICIAL_FILES


class FeatureNetwork(nn.Module, ABC):
    """A frozen network that turns a clip's sound or picture into features.

    ``caches`` are the feature files of av-benchmark that it fills from what ``sound`` reads. A network that compares
    sound with picture has ``video_caches`` too, filled by ``encode_video`` from what ``picture`` reads.
    """

    name: ClassVar[str]
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

    @abstractmethod
    def encode(self, waveforms: Tensor) -> dict[str, dict[str, Tensor]]:
        """What ``sound`` reads of B clips, (B, samples) -> cache -> part -> (B, ...); part "" is the whole entry."""

    def encode_video(self, frames: Tensor) -> dict[str, dict[str, Tensor]]:
        """What ``picture`` reads of B clips, uint8 (B, T, 3, 224, 224) -> cache -> part -> (B, ...)."""
        raise TypeError(f"{self.name} does not look at pictures")

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts -> (N, D), on the CPU."""
        raise TypeError(f"{self.name} does not read texts")

    @abstractmethod
    def load(self, paths: Mapping[str, Path]) -> None:
        """Fill from official files by role; raises :class:`WeightsError`."""


def check_network_files(kind: type[FeatureNetwork], folder: Path) -> dict[str, Path]:
    """Official files by role; raises one :class:`WeightsError` that names all that are missing."""
    paths = {file.role: folder / file.filename for file in kind.files}
    missing = [file for file in kind.files if not paths[file.role].is_file()]
    if missing:
        lines = [f"  {paths[f.role]} from {f.source}, licence {f.licence}, {f.size_gb:g} GB" for f in missing]
        if kind.name in OFFICIAL_FILES:
            lines.append("  make weights PRESET=paper fetches them into weights/, where --preset paper looks")
        raise WeightsError(
            f"network '{kind.name}' needs weights that are not here (or features made elsewhere, "
            f"{', '.join(kind.caches)}):\n" + "\n".join(lines)
        )
    return paths


def fingerprint_files(paths: Sequence[Path]) -> str:
    return "-".join(sha256_file(path)[:16] for path in paths)


def load_network(kind: type[FeatureNetwork], folder: Path, device: str = "cpu") -> FeatureNetwork:
    """A network with its official weights, in evaluation mode; raises :class:`WeightsError`."""
    paths = check_network_files(kind, folder)
    network = kind()
    network.load(paths)
    network.fingerprint = fingerprint_files(list(paths.values()))
    return network.to(device).eval().requires_grad_(False)


def seeded_network(kind: type[FeatureNetwork], seed: int = 0) -> FeatureNetwork:
    """The network at its published size with drawn weights: for shapes and times, never for scores."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = kind()
    return network.eval().requires_grad_(False)


def load_own_keys(network: nn.Module, path: Path, ignored: tuple[str, ...] = (), prefix: str = "") -> None:
    """Fill a network whose parameters are named as the official file names them, after ``prefix``.

    Official keys that begin with one of ``ignored`` may be there; any other that is not ours, and any of
    ours that is not there, raises :class:`WeightsError`.
    """
    rules = [Rule(name, (prefix + name,), (tuple(tensor.shape),)) for name, tensor in network.state_dict().items()]
    official = read_state(path)
    load_checked(network, rules, official, files=[path], owned=lambda key: not key.startswith(ignored))
