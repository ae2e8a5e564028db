"""Feature networks by name. A new one is a file here and a line in :data:`NETWORKS`."""

from __future__ import annotations

from evaluation.networks.base import FeatureNetwork, load_network, seeded_network
from evaluation.networks.clap import CLAP
from evaluation.networks.imagebind import ImageBind
from evaluation.networks.micro import MicroClassifier
from evaluation.networks.onsets import Onsets
from evaluation.networks.panns import PANNs
from evaluation.networks.passt import PaSST
from evaluation.networks.synchformer import Synchformer
from evaluation.networks.vggish import VGGish

_KINDS = (PANNs, VGGish, PaSST, ImageBind, Synchformer, CLAP, MicroClassifier, Onsets)
NETWORKS: dict[str, type[FeatureNetwork]] = {kind.name: kind for kind in _KINDS}

__all__ = ["NETWORKS", "FeatureNetwork", "load_network", "seeded_network"]
