"""Feature networks by name. A new one is a file and a line in :data:`NETWORKS`."""

from __future__ import annotations

from common.registry import Registry
from evaluation.networks.base import FeatureNetwork, load_network, seeded_network

NETWORKS = Registry(
    "network",
    panns="evaluation.networks.panns:PANNs",
    vggish="evaluation.networks.vggish:VGGish",
    passt="evaluation.networks.passt:PaSST",
    imagebind="evaluation.networks.imagebind:ImageBind",
    synchformer="evaluation.networks.synchformer:Synchformer",
    clap="evaluation.networks.clap:CLAP",
    micro="micro.networks:MicroClassifier",
    onsets="micro.onset_network:Onsets",
)

__all__ = ["NETWORKS", "FeatureNetwork", "load_network", "seeded_network"]
