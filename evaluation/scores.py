"""The columns of the table: which features each metric takes, and how (paper section 4.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from evaluation import metrics
from evaluation.caches import Entry, rows
from evaluation.events import compare_onsets
from evaluation.networks import FeatureNetwork
from evaluation.networks.clap import CLAP
from evaluation.networks.synchformer import Synchformer
from pipeline.errors import InputError

_COMPARED = 64  # clips whose offset is told at a time


@dataclass(frozen=True)
class Metric:
    """One column of the table.

    ``compute`` takes the features of both sides and the matched clip ids, and gives the value and, where it
    is a mean over clips, the clips' own values.
    """

    name: str
    network: str
    higher_is_better: bool
    compute: Callable[[Features, Features, Sequence[str]], tuple[float, np.ndarray | None]]


@dataclass
class Features:
    """One side: finite entries by feature file, and what was left out."""

    caches: dict[str, dict[str, Entry]]
    network: FeatureNetwork | None = None  # where a metric needs more than features
    excluded: dict[str, str] = field(default_factory=dict)  # clip id -> reason

    def all(self, cache: str, part: str = "") -> np.ndarray:
        """Every clip's entry, stacked; raises :class:`InputError` for a file that is not there."""
        return self.of(sorted(self.caches.get(cache, ())), cache, part)

    def of(self, clip_ids: Sequence[str], cache: str, part: str = "") -> np.ndarray:
        """Entries of these clips, stacked; likewise."""
        if cache not in self.caches:
            raise InputError(f"there is no {cache} on one side, only {', '.join(self.caches)}")
        return rows(self.caches[cache], [c for c in clip_ids if c in self.caches[cache]], part, cache)


def _frechet(cache: str, part: str = "") -> Any:
    return lambda generated, reference, ids: (
        metrics.frechet_distance(generated.all(cache, part), reference.all(cache, part)),
        None,
    )


def _kl(cache: str, part: str = "") -> Any:
    def compute(generated: Features, reference: Features, ids: Sequence[str]) -> tuple[float, np.ndarray]:
        values = metrics.kl_per_clip(generated.of(ids, cache, part), reference.of(ids, cache, part))
        return float(values.mean()), values

    return compute


def _inception(cache: str, part: str = "") -> Any:
    return lambda generated, reference, ids: (metrics.inception_score(generated.all(cache, part))[0], None)


def _onset_f1(generated: Features, reference: Features, ids: Sequence[str]) -> tuple[float, np.ndarray]:
    """Of the clips whose reference has onsets: F1 of the generated onsets within 0.15 s."""
    pairs = zip(generated.of(ids, "onsets.pth"), reference.of(ids, "onsets.pth"), strict=True)
    values = np.array([compare_onsets(r[r >= 0], g[g >= 0]).f1 for g, r in pairs if (r >= 0).any()])
    if not len(values):
        raise InputError("no reference clip has an onset")
    return float(values.mean()), values


def _imagebind(generated: Features, reference: Features, ids: Sequence[str]) -> tuple[float, np.ndarray]:
    values = 100 * metrics.cosine_per_clip(
        reference.of(ids, "imagebind_video.pth"), generated.of(ids, "imagebind_audio.pth")
    )
    return float(values.mean()), values


def _clap(generated: Features, reference: Features, ids: Sequence[str]) -> tuple[float, np.ndarray]:
    values = metrics.cosine_per_clip(reference.of(ids, CLAP.text_caches[0]), generated.of(ids, CLAP.caches[0]))
    return float(values.mean()), values


def _desync(generated: Features, reference: Features, ids: Sequence[str]) -> tuple[float, np.ndarray]:
    network = generated.network
    assert isinstance(network, Synchformer)
    device = next(network.parameters()).device
    parts = []
    for first in range(0, len(ids), _COMPARED):
        some = ids[first : first + _COMPARED]
        seen = torch.from_numpy(reference.of(some, "synchformer_video.pth")).to(device)
        heard = torch.from_numpy(generated.of(some, "synchformer_audio.pth")).to(device)
        parts.append(network.compare(seen, heard).cpu().numpy())
    values = metrics.desync_per_clip(np.concatenate(parts))
    return float(values.mean()), values


METRICS: tuple[Metric, ...] = (
    Metric("FD_PaSST", "passt", False, _frechet("passt_features_embed.pth")),
    Metric("FD_PANNs", "panns", False, _frechet("pann_features.pth", "2048")),
    Metric("FD_VGG", "vggish", False, _frechet("vggish_features.pth", "frames")),
    Metric("KL_PANNs", "panns", False, _kl("pann_features.pth", "logits")),
    Metric("KL_PaSST", "passt", False, _kl("passt_logits.pth")),
    Metric("IS", "panns", True, _inception("pann_features.pth", "logits")),
    Metric("IS_PaSST", "passt", True, _inception("passt_logits.pth")),
    Metric("IB_score", "imagebind", True, _imagebind),
    Metric("DeSync", "synchformer", False, _desync),
    Metric("CLAP_score", "clap", True, _clap),
    Metric("FD_micro", "micro", False, _frechet("micro_features.pth", "64")),
    Metric("KL_micro", "micro", False, _kl("micro_features.pth", "logits")),
    Metric("IS_micro", "micro", True, _inception("micro_features.pth", "logits")),
    Metric("onset_F1", "onsets", True, _onset_f1),
)
