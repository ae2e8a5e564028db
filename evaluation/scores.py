"""The columns of the table: which features each metric takes, and how (paper section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from common.registry import Registry
from evaluation import metrics
from evaluation.metric import Features, Metric, frechet, inception, kl
from evaluation.networks.clap import CLAP
from evaluation.networks.synchformer import Synchformer

_COMPARED = 64  # clips whose offset is told at a time


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


# Name -> column, in the order of the table.
METRICS = Registry(
    "metric",
    FD_PaSST=Metric("FD_PaSST", "passt", False, frechet("passt_features_embed.pth")),
    FD_PANNs=Metric("FD_PANNs", "panns", False, frechet("pann_features.pth", "2048")),
    FD_VGG=Metric("FD_VGG", "vggish", False, frechet("vggish_features.pth", "frames")),
    KL_PANNs=Metric("KL_PANNs", "panns", False, kl("pann_features.pth", "logits")),
    KL_PaSST=Metric("KL_PaSST", "passt", False, kl("passt_logits.pth")),
    IS=Metric("IS", "panns", True, inception("pann_features.pth", "logits")),
    IS_PaSST=Metric("IS_PaSST", "passt", True, inception("passt_logits.pth")),
    IB_score=Metric("IB_score", "imagebind", True, _imagebind),
    DeSync=Metric("DeSync", "synchformer", False, _desync),
    CLAP_score=Metric("CLAP_score", "clap", True, _clap),
    FD_micro="micro.metrics:FD_MICRO",
    KL_micro="micro.metrics:KL_MICRO",
    IS_micro="micro.metrics:IS_MICRO",
    onset_F1="micro.metrics:ONSET_F1",
)
