"""The stages of V2A-Mapper's small models: train, go on, export, and be read by the encoders and the audio model."""

import json

import pytest
import torch
from diffusers import AudioLDM2UNet2DConditionModel, AutoencoderKL
from safetensors.torch import save_file

from generate.audio_model import load_audio_model
from micro import audioldm, clap, clip, models
from micro.captions import Contrast, attributes
from micro.data import LABELS, training_scenes
from micro.models import MicroModels, Steps
from micro.networks import MicroClassifier
from micro.text import TextToAudio
from pipeline.encoders import load_encoder
from presets import load_preset
from presets.config import available_presets
from trainer.mapper import MapperSpec
from trainer.registry import MFMMapper, build_mapper

MOST = 25_000_000  # bytes of everything that ships
SEEDED = ["weights.source=seeded"]


@pytest.fixture
def made(tmp_path, monkeypatch):
    """The three stages on few scenes: what makes them with so many steps, on the same folder."""
    for module in (clip, clap):
        monkeypatch.setattr(module, "_CLIPS", 12)
        monkeypatch.setattr(module, "_VALIDATION", 4)
    monkeypatch.setattr(audioldm, "_VALIDATION", 4)
    monkeypatch.setattr(models, "CLIPS", 12)
    monkeypatch.setattr(clip, "_BATCH", 4)
    monkeypatch.setattr(clap, "_BATCH", 4)
    monkeypatch.setattr(audioldm, "_BATCH", 2)
    save_file({"tokens": torch.zeros(1), "latents": torch.randn(12, 8, 128, 8)}, tmp_path / "prepared.safetensors")
    preset = load_preset("micro", SEEDED)
    return lambda steps: MicroModels(preset, tmp_path, Steps(clip=steps, clap=steps, audioldm=steps))


def weights(stages):
    return {
        f"{name}.{key}": value
        for name in ("clip", "clap", "audioldm")
        for key, value in getattr(stages, name).state_dict().items()
    }


def test_stages_train_go_on_and_export(made, tmp_path, capsys):
    first = weights(made(2))
    logs = {name: (tmp_path / f"{name}.jsonl").read_text() for name in ("clip", "clap", "audioldm")}
    assert all(json.loads(log)["step"] == 2 for log in logs.values())
    assert all(torch.equal(value, first[name]) for name, value in weights(made(2)).items())  # nothing trains again
    assert {name: (tmp_path / f"{name}.jsonl").read_text() for name in logs} == logs
    stages = made(3)
    further = weights(stages)
    assert [json.loads(line)["step"] for line in (tmp_path / "clap.jsonl").read_text().splitlines()] == [2, 3]
    assert sum(not torch.equal(value, first[name]) for name, value in further.items()) > len(first) / 2

    for name, other in seeded(stages.preset).items():
        stages.__dict__[name] = other
    target = tmp_path / "out"
    v2a = load_preset("v2a-mapper-micro", SEEDED)
    spec = MapperSpec(v2a.mapper, {"clip": 64}, {"clip": 40}, (1, 64))
    build_mapper(spec).save_pretrained(tmp_path / "mapper")
    stages.export(target, load_preset("micro").weights.path / "mapper", tmp_path / "mapper")
    files = {path.relative_to(target).as_posix(): path.stat().st_size for path in target.rglob("*") if path.is_file()}
    sizes = {
        part: sum(v for k, v in files.items() if k.split("/")[0] == part)
        for part in ("clip", "clap", "audioldm", "v2a-mapper")
    }
    total = sum(files.values())
    with capsys.disabled():
        print(f"\n{sizes}, all {total / 1e6:.1f} of {MOST / 1e6:.0f} MB")
    assert total <= MOST
    assert sizes["clip"] + sizes["clap"] <= 1_500_000
    assert files["audioldm/unet/diffusion_pytorch_model.safetensors"] <= 2_500_000

    shipped = load_preset("v2a-mapper-micro", [f"weights.folder={target}"])
    frames = torch.randint(0, 256, (1, 2, 3, 112, 112), dtype=torch.uint8)
    sound = 0.1 * torch.randn(1, 480_000)
    for name, given in (("clip", frames), ("clap", sound)):
        there = load_encoder(name, preset=shipped)
        drawn = load_encoder(name, preset=v2a)
        drawn.take(getattr(stages, name))
        expected = drawn.encode(given)
        assert (there.encode(given) - expected).abs().max() < 0.02 * expected.abs().max()  # float16
        assert there.fingerprint.startswith("official")
    assert MFMMapper.from_pretrained(target / "v2a-mapper").spec.target == shipped.tokens
    model = load_audio_model(shipped, "cpu")
    noise, times, condition = torch.randn(1, 8, 128, 8), torch.tensor([500]), there.encode(sound)[:, 0]
    arguments = {"encoder_hidden_states": None, "class_labels": condition, "return_dict": False}
    with torch.no_grad():
        expected = stages.audioldm(noise, times, **arguments)[0]
        assert (model.unet(noise, times, **arguments)[0] - expected).abs().max() < 0.02
    waveform = model.decode(noise, 16_000)
    assert waveform.shape == (1, 16_000)


def seeded(preset):
    """What else is exported, as drawn."""
    config = preset.audio_models.audioldm2
    return {
        **{name: load_encoder(name, preset=preset) for name in ("cavp", "timechat", "audiomae")},
        "classifier": MicroClassifier(LABELS),
        "text": TextToAudio(preset),
        "vae": AutoencoderKL(**config.vae),
        "unet": AudioLDM2UNet2DConditionModel(**config.unet),
    }


def test_the_parts_they_share_are_those_of_micro():
    micro, v2a = load_preset("micro", SEEDED), load_preset("v2a-mapper-micro", SEEDED)
    assert "v2a-mapper-micro" in available_presets()
    for part in ("vae", "vocoder", "scheduler"):
        assert getattr(v2a.audio, part) == getattr(micro.audio, part), part
    for section in ("media", "cache", "evaluation"):  # one cache, one world, one judge
        assert getattr(v2a, section) == getattr(micro, section), section
    assert v2a.audio.unet["projection_class_embeddings_input_dim"] == v2a.encoders.clap.dimension


def test_a_caption_is_true_of_every_scene_of_which_its_words_are():
    """Embeddings that tell attributes apart perfectly are at the contrast's least; others are above it."""
    torch.manual_seed(0)
    contrast = Contrast(torch.nn.Identity(), 16)
    scenes = training_scenes(48)
    about = attributes(scenes)
    assert set(about[:, 1].tolist()) == {0, 1, 2, 3, 4}
    assert all((scene.size > 1 / 3) == bool(word > 1) for scene, word in zip(scenes, about[:, 1], strict=True))
    ones = torch.ones(48, dtype=torch.long)
    said = torch.ones(48, 3, dtype=torch.bool)
    text = contrast.caption(about, said, ones, ones)
    alike = (about[:, None] == about).all(2)
    assert torch.allclose((text @ text.T)[alike], torch.ones(()), atol=1e-5)  # the same words
    said[:, 1:] = False  # the class alone
    bare = contrast.caption(about, said, ones, ones)
    assert torch.allclose(bare[:12], bare[12:24], atol=1e-6)
    assert not torch.allclose(bare[0], bare[1], atol=1e-3)
    assert contrast.named(bare, about)["right"] == 1.0


def test_turning_a_sound_in_time_keeps_what_it_is_made_of():
    torch.manual_seed(0)
    bank = torch.randn(3, 1, 101, 8) - 40
    turned = clap.augmented(bank)
    gain = (turned.sum((1, 2, 3)) - bank.sum((1, 2, 3))) / bank[0].numel()
    assert torch.allclose((turned - gain[:, None, None, None]).sort(2).values, bank.sort(2).values, atol=1e-3)
    assert not torch.allclose(turned - gain[:, None, None, None], bank, atol=1e-1)


def test_the_waveform_is_resampled_as_decoded_clips_are():
    tone = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(16_000) / 16_000)
    there = clap.resampled(torch.stack([tone, tone.flip(0)]), 48_000)
    assert there.shape == (2, 48_000)
    wanted = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(48_000) / 48_000)
    assert (there[0] - wanted)[1000:-1000].abs().max() < 1e-3
