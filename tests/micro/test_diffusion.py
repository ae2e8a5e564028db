"""Training of AudioLDM-2-micro's UNet: which conditions a clip is given."""

import pytest
import torch
from diffusers import AudioLDM2UNet2DConditionModel

from generate.audioldm2 import Conditioning
from micro import diffusion
from micro.data import LABELS
from micro.fit import Machine
from presets import load_preset

EMPTY, NEGATIVE = len(LABELS), -1.0  # what all numbers of the text of the empty prompt, and of the negative one, are


@pytest.mark.parametrize(("drop", "untold"), [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)])
def test_a_clip_has_its_tokens_and_label_or_no_label_or_neither(drop, untold, tmp_path, monkeypatch):
    monkeypatch.setattr(diffusion, "_DROP", drop)
    monkeypatch.setattr(diffusion, "_UNTOLD", untold)
    monkeypatch.setattr(diffusion, "_VALIDATION", 2)
    seen = []
    forward = AudioLDM2UNet2DConditionModel.forward

    def spy(self, *args, **kwargs):
        seen.append((kwargs["encoder_hidden_states"], kwargs["encoder_hidden_states_1"][:, 0, 0]))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(AudioLDM2UNet2DConditionModel, "forward", spy)
    count, tokens = len(LABELS) + 2, torch.randn(len(LABELS) + 2, 8, 96)
    text = torch.arange(EMPTY + 1.0)[:, None, None].expand(-1, 3, 64)
    none = Conditioning(torch.full((1, 8, 96), 7.0), torch.full((1, 3, 64), NEGATIVE), torch.ones(1, 3).long())
    mask = torch.ones(EMPTY + 1, 3).long()
    diffusion.train_unet(
        load_preset("micro", ["weights.source=seeded"]), tmp_path, torch.randn(count, 8, 16, 8), tokens, (text, mask),
        none, 1, Machine(), batch=4,
    )  # fmt: skip
    (trained, told), (_, labelled), (_, unlabelled) = seen  # a step, and both figures of what is held out
    assert set(told.tolist()) <= {NEGATIVE} if drop else set(told.tolist()) <= ({EMPTY} if untold else {*range(EMPTY)})
    assert bool((trained == 7).all()) is bool(drop)
    assert [{*labelled.tolist()}, {*unlabelled.tolist()}] == [{0.0, 1.0}, {float(EMPTY)}]
