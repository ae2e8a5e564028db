"""How often the host waits for the device: nowhere in the loops that a GPU's time is spent in."""

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from generate.audioldm import load_audioldm
from generate.audioldm2 import Conditioning
from generate.audioldm2_loader import load_audioldm2
from pipeline.encoders import load_encoder
from presets import load_preset
from tests.second_device import NAME, counting
from tests.tiny import TINY
from tests.trainer.caches import write_cache
from trainer.mapper import MapperSpec
from trainer.registry import build_mapper
from trainer.train import Trainer

RANDOM = np.random.default_rng(0)
FRAMES = RANDOM.integers(0, 255, (3, 8, 3, 224, 224), np.uint8)
INPUTS = {
    "cavp": (FRAMES,),
    "timechat": (FRAMES, np.arange(8) / 4),
    "audiomae": (RANDOM.standard_normal((3, 160_000), np.float32),),
    "clip": (FRAMES,),
    "clap": (RANDOM.standard_normal((3, 480_000), np.float32),),
}


@pytest.fixture(scope="module")
def model():
    return load_audioldm2(load_preset(TINY), NAME)


@pytest.mark.parametrize("name", list(INPUTS))
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_encoded_batch(name, precision):
    encoder = load_encoder(name, preset=TINY, device=NAME, precision=precision)
    encoder.encode(*INPUTS[name])  # constants come to the device once
    with counting() as count:
        encoder.encode(*INPUTS[name])
    assert (count.synchronisations, count.downloads) == (0, 0), count.where
    assert count.uploads == len(INPUTS[name]), count.where


def test_encoded_labels(model):
    """However many and long."""
    with counting() as count:
        model.encode_labels(["dog", "a longer label", "dog"])
    assert (count.synchronisations, count.downloads) == (0, 0), count.where


@pytest.mark.parametrize("kind", ["gpt2", "diffusion", "v2a"])
def test_a_training_step(tmp_path, kind):
    """More steps in an epoch, no more waiting: losses come to the host where they are logged."""
    store = write_cache(tmp_path / "cache", clips=24)
    counts = []
    for size in (10, 2):
        settings = [
            "training.epochs=1", "mapper.layers=1", f"mapper.kind={kind}", "mapper.sampling_steps=2",
            "training.gradient_clip=1.0", "training.log_every=100", f"training.global_batch={size}",
        ]  # fmt: skip
        AcceleratorState._reset_state(reset_partial_state=True)
        with counting() as count:
            Trainer(load_preset(TINY, settings), store, tmp_path / str(size), NAME).fit()
        counts.append(count)
    AcceleratorState._reset_state(reset_partial_state=True)
    few, many = counts  # 2 steps and 10
    assert many.operators > few.operators
    assert many.synchronisations == few.synchronisations <= 4, many.where
    assert many.downloads == few.downloads, many.where
    assert many.uploads - few.uploads <= 2 * 8, many.where  # which rows of the cache


@pytest.mark.parametrize("kind", ["gpt2", "v2a"])
def test_a_prediction(kind):
    preset = load_preset(TINY, [f"mapper.kind={kind}", "mapper.sampling_steps=3"])
    spec = MapperSpec(preset.mapper, {"cavp": 64, "timechat": 96}, {"cavp": 40, "timechat": 10}, (8, 96))
    mapper = build_mapper(spec).eval().to(NAME)
    visual = {"cavp": torch.zeros(2, 40, 64).to(NAME), "timechat": torch.zeros(2, 10, 96).to(NAME)}
    with counting() as count:
        mapper.predict(visual)
    assert (count.synchronisations, count.downloads) == (0, 0), count.where


@pytest.mark.parametrize(
    ("scheduler", "noisy"),
    [
        ("DDIMScheduler", True),
        ("DPMSolverMultistepScheduler", False),
        ("EulerDiscreteScheduler", False),
        ("EulerAncestralDiscreteScheduler", True),
        ("HeunDiscreteScheduler", False),
        ("UniPCMultistepScheduler", False),
    ],
)
def test_a_sampler_step(model, scheduler, noisy):
    text, mask = model.encode_labels(["tone"])
    condition, negative = Conditioning(torch.zeros(1, 8, 96).to(NAME), text, mask), model.negative("low quality")
    noise, counts = model.noise(["a"], 0), []
    for steps in (2, 3):
        with counting() as count:
            model.denoise(
                condition,
                negative,
                noise,
                steps=steps,
                guidance_scale=3.5,
                eta=1.0,
                seeds=[1],
                scheduler_name=scheduler,
            )
        counts.append(count)
    assert counts[1].operators > counts[0].operators
    assert counts[1].synchronisations == counts[1].downloads == 0, counts[1].where
    if scheduler == "UniPCMultistepScheduler":  # its coefficients are made where the sample is
        return
    assert counts[1].uploads - counts[0].uploads == noisy, counts[1].where


def test_a_batch_of_audioldm():
    """From a prediction to waveforms, which are the CPU's; a smaller batch is filled up."""
    preset = load_preset(TINY, ["audio_model=audioldm", "target=clap", "generation.steps=2"])
    made, counts = {}, {}
    for device in ("cpu", NAME):
        audioldm = load_audioldm(preset, device)
        tokens, noise = torch.ones(1, 1, 64).to(device), audioldm.noise(["a"], 0)
        audioldm.negative(preset.generation.negative_prompt)
        with counting() as counts[device]:
            waveforms = audioldm.synthesise(tokens, ["tone"], noise, [0], 160_000, preset.generation, rows=2)
        made[device] = waveforms.cpu()
    assert (counts[NAME].synchronisations, counts[NAME].downloads) == (0, 0), counts[NAME].where
    assert made[NAME].abs().max() > 1e-3
    torch.testing.assert_close(made[NAME], made["cpu"], atol=1e-4, rtol=0)


def test_a_decoded_batch(model):
    latents = model.noise(["a", "b"], 0)
    with counting() as count:
        model.decode(latents, 160_000)
    assert (count.synchronisations, count.downloads, count.uploads) == (0, 1, 0), count.where
