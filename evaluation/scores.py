"""The columns of the table: which features each metric takes, and how (paper section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from common.registry import load_part
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


METRICS: tuple[Metric, ...] = (
    Metric("FD_PaSST", "passt", False, frechet("passt_features_embed.pth")),
    Metric("FD_PANNs", "panns", False, frechet("pann_features.pth", "2048")),
    Metric("FD_VGG", "vggish", False, frechet("vggish_features.pth", "frames")),
    Metric("KL_PANNs", "panns", False, kl("pann_features.pth", "logits")),
    Metric("KL_PaSST", "passt", False, kl("passt_logits.pth")),
    Metric("IS", "panns", True, inception("pann_features.pth", "logits")),
    Metric("IS_PaSST", "passt", True, inception("passt_logits.pth")),
    Metric("IB_score", "imagebind", True, _imagebind),
    Metric("DeSync", "synchformer", False, _desync),
    Metric("CLAP_score", "clap", True, _clap),
    *load_part("micro.metrics:METRICS"),
)
