"""The evaluation's networks load files as their authors' scripts saved them."""

import torch

from evaluation.networks import load_network, seeded_network
from evaluation.networks.panns import PANNs
from tests import layouts


def test_panns_loads_what_its_training_script_saved(tmp_path):
    network = seeded_network(PANNs, seed=3)
    state = {key: value for key, value in network.state_dict().items() if not key.startswith("mel.")}
    state |= {"spectrogram_extractor.stft.conv_real.weight": torch.zeros(3), "logmel_extractor.melW": torch.zeros(3)}
    path = tmp_path / PANNs.files[0].filename
    torch.save(layouts.panns(state), path, _use_new_zipfile_serialization=False)
    loaded = load_network(PANNs, tmp_path)
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, network.state_dict()[key]), key
