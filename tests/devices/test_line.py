"""The whole line on the second device: extraction, both mappers, a split, one long video; all as on the CPU.

Each part takes what the CPU made before it, so that its own difference shows.
"""

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from generate.sampling import load_sampler
from generate.split import generate_split
from generate.video_to_audio import VideoToAudio
from manifests.builders import clips_from_folder
from manifests.manifest import make_manifest
from pipeline.cache import open_store
from pipeline.encoders import ENCODERS, load_encoder
from pipeline.extract import Extractor
from pipeline.media.writing import read_wav
from presets import load_preset
from tests.media_factory import make_media
from tests.second_device import NAME, counting, no_float64
from tests.tiny import TINY
from tests.trainer.caches import comparable, write_cache
from trainer.train import Trainer

DEVICES = ("cpu", NAME)
SMALL = ("training.epochs=1", "mapper.layers=1", "generation.steps=2", "cache.dtype=float32", "cache.encode_batch=2")


def preset_with(*assignments):
    return load_preset(TINY, [*SMALL, *assignments])


def relative(ours, theirs):
    ours, theirs = (np.asarray(x, np.float64) for x in (ours, theirs))
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    """Accelerate keeps one device a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for number, split in enumerate(("train", "train", "validation")):
        make_media(folder / split / "tone" / f"clip{number}.mp4", seconds=3 + number)
    return make_manifest(clips_from_folder(folder), 4)


@pytest.fixture(scope="module")
def caches(clips, tmp_path_factory):
    stores, counts = {}, {}
    for device in DEVICES:
        stores[device] = open_store(tmp_path_factory.mktemp(device))
        extractor = Extractor(clips, stores[device], preset_with(), list(ENCODERS), device=device)
        with counting() as counts[device], extractor:
            extractor.run([0])
    return stores, counts


@pytest.fixture(scope="module")
def trained(caches, tmp_path_factory):
    """A mapper of the CPU."""
    run = tmp_path_factory.mktemp("run")
    AcceleratorState._reset_state(reset_partial_state=True)
    Trainer(preset_with(), caches[0]["cpu"], run, "cpu").fit()
    return run


@pytest.mark.parametrize("name", ["cavp", "timechat", "audiomae", "clip", "clap"])
def test_encoders_in_bfloat16(name):
    random = np.random.default_rng(0)
    frames = random.integers(0, 255, (1, 8, 3, 224, 224), np.uint8)
    waveform = random.standard_normal((1, 160_000), np.float32)
    inputs = {"timechat": (frames, np.arange(8) / 4), "audiomae": (waveform,), "clap": (waveform,)}.get(name, (frames,))
    ours, theirs = (
        load_encoder(name, preset=TINY, device=device, precision="bfloat16").encode(*inputs).cpu()
        for device in (NAME, "cpu")
    )
    assert relative(ours, theirs) < 5e-3


@pytest.mark.parametrize("stage", list(ENCODERS))
def test_extraction(caches, stage):
    stores, counts = caches
    ours, theirs = stores[NAME].read(stage, 0), stores["cpu"].read(stage, 0)
    assert ours.clip_ids == theirs.clip_ids
    assert relative(ours.features, theirs.features) < 1e-5
    assert counts[NAME].uploads > 0
    assert counts["cpu"].operators == 0


def fit(store, run, device, *assignments):
    AcceleratorState._reset_state(reset_partial_state=True)
    return Trainer(preset_with(*assignments), store, run, device).fit()


@pytest.mark.parametrize("kind", ["gpt2", "diffusion", "v2a"])
def test_training_validation_checkpoint_and_resume(tmp_path, kind):
    store = write_cache(tmp_path / "cache", clips=12)
    settings = (
        f"mapper.kind={kind}",
        "mapper.sampling_steps=3",
        "training.gradient_clip=1.0",
        "training.log_every=100",
    )
    outcomes = {}
    for device in DEVICES:
        fit(store, tmp_path / device, device, *settings)
        outcomes[device] = fit(store, tmp_path / device, device, *settings, "training.epochs=2")
        assert outcomes[device].epochs_before == 1
    for name, value in outcomes["cpu"].metrics.items():
        assert outcomes[NAME].metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-4)
    states = {device: comparable(load_file(tmp_path / device / "mapper" / "model.safetensors")) for device in DEVICES}
    for name, tensor in states["cpu"].items():
        torch.testing.assert_close(states[NAME][name], tensor, atol=1e-4, rtol=1e-3)


def test_training_in_bfloat16(tmp_path):
    store = write_cache(tmp_path / "cache", clips=12)
    losses = {
        device: fit(store, tmp_path / device, device, "training.mixed_precision=bf16").metrics for device in DEVICES
    }
    assert losses[NAME]["validation_free_running"] == pytest.approx(losses["cpu"]["validation_free_running"], rel=0.01)


def test_a_split(caches, trained, clips, tmp_path):
    chosen = clips.clips[1:]
    for device in DEVICES:
        sampler = load_sampler(preset_with(), trained / "mapper", device)
        outcome = generate_split(sampler, caches[0]["cpu"], chosen, tmp_path / device)
        assert len(outcome.done) == 2, outcome.failed
    for clip in chosen:
        ours, theirs = (read_wav(tmp_path / device / "wav" / f"{clip.clip_id}.wav")[0] for device in (NAME, "cpu"))
        assert np.abs(ours).max() > 1e-3
        assert np.abs(ours - theirs).max() <= 2 / 32768  # a wav has 16 bits


def test_a_long_video_with_candidates_and_noisy_steps(trained, tmp_path):
    """Windows one by one on the device, together on the CPU: their noise is their own."""
    film = make_media(tmp_path / "film.mp4", seconds=12, fps=4)
    made = {}
    for device, batch in (("cpu", 4), (NAME, 1)):
        preset = preset_with("generation.eta=1.0", f"generation.batch={batch}")
        model = VideoToAudio.from_pretrained(trained / "mapper", preset, device)
        made[device] = model.best(film, "tone", seed=3, candidates=2)
    assert made[NAME].seed == made["cpu"].seed
    assert made[NAME].score == pytest.approx(made["cpu"].score, abs=1e-3)
    assert len(made[NAME].waveform) > 11 * 16_000
    assert relative(made[NAME].waveform, made["cpu"].waveform) < 1e-3


def test_no_part_needs_float64(trained, tmp_path):
    """Apple's MPS has none."""
    with no_float64():
        frames = np.zeros((1, 8, 3, 224, 224), np.uint8)
        waveform = np.random.default_rng(0).standard_normal((1, 160_000), np.float32)
        visual = {
            "cavp": load_encoder("cavp", preset=TINY, device=NAME).encode(frames),
            "timechat": load_encoder("timechat", preset=TINY, device=NAME).encode(frames, np.arange(8) / 4),
        }
        heard = load_encoder("audiomae", preset=TINY, device=NAME).encode(waveform)
        visual = {name: torch.cat([features] * 5, dim=1) for name, features in visual.items()}  # 8 of 40 frames
        sampler = load_sampler(preset_with("generation.scheduler=EulerDiscreteScheduler"), trained / "mapper", NAME)
        assert np.isfinite(sampler.generate(visual, [""], ["a"])).all()
        fit(write_cache(tmp_path / "cache", clips=12), tmp_path / "run", NAME)
    theirs = load_encoder("audiomae", preset=TINY).encode(waveform)
    assert relative(heard.cpu(), theirs) < 1e-4
