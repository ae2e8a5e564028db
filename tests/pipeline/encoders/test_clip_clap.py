"""CLIP and CLAP from folders as transformers saves the whole models, against transformers' own features."""

import json

import numpy as np
import pytest
import torch
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from common.errors import WeightsError
from pipeline.encoders import check_weights, load_encoder
from presets import load_preset

CLIP_SIZES = {"image_size": 32, "patch_size": 8, "width": 32, "mlp": 48, "layers": 2, "heads": 4, "embedding": 24}
CLAP_SIZES = {
    "hop": 1920, "mel_bins": 32, "spec_size": 128, "patch_size": 8, "width": 16, "layers": [1, 1], "heads": [2, 4],
    "embedding": 24,
}  # fmt: skip
TEXT = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 20,
}  # fmt: skip
# What every saved configuration said of each half before transformers 4.31 or so.
OLD = {
    "_name_or_path": "", "architectures": None, "torch_dtype": None, "torchscript": False, "use_bfloat16": False,
    "transformers_version": "4.16.0.dev0", "return_dict": True, "prefix": None, "tie_word_embeddings": True,
}  # fmt: skip


def save_clip(folder, old):
    vision = {
        "image_size": 32, "patch_size": 8, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }  # fmt: skip
    torch.manual_seed(5)
    model = CLIPModel(CLIPConfig(text_config=TEXT, vision_config=vision, projection_dim=24)).eval()
    with torch.no_grad():
        for weights in model.parameters():  # not the small ones of the initialisation: all of it must count
            weights.add_(0.05 * torch.randn_like(weights))
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    return _save(model, processor, folder, old, {"image_size": 32, "size": 32, "feature_extractor_type": "CLIP"})


def save_clap(folder, old):
    audio = {
        "num_mel_bins": 32, "spec_size": 128, "patch_size": 8, "patch_stride": [8, 8], "patch_embeds_hidden_size": 16,
        "depths": [1, 1], "num_attention_heads": [2, 4], "hidden_size": 32, "num_hidden_layers": 2,
    }  # fmt: skip
    torch.manual_seed(6)
    model = ClapModel(ClapConfig(text_config=TEXT, audio_config=audio, projection_dim=24)).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.1 * torch.randn_like(weights))
        norm = model.audio_model.audio_encoder.batch_norm  # of decibels
        norm.running_mean.normal_(-40, 5)
        norm.running_var.uniform_(200, 400)
    extractor = ClapFeatureExtractor(
        feature_size=32, hop_length=1920, frequency_min=50, frequency_max=14_000, truncation="rand_trunc"
    )
    return _save(model, extractor, folder, old, {})


def _save(model, preprocessor, folder, old, said):
    """As saved today, or as the official repositories hold it: ``.bin``, buffers of positions, talkative settings."""
    model.save_pretrained(folder)
    preprocessor.save_pretrained(folder)
    (folder / "vocab.json").write_text("{}")
    if old:
        (folder / "model.safetensors").unlink()
        positions = {
            f"{half}.embeddings.position_ids": torch.arange(rows.shape[0])[None]
            for half in ("text_model", "vision_model")
            if (rows := model.state_dict().get(f"{half}.embeddings.position_embedding.weight")) is not None
        }
        torch.save({**model.state_dict(), **positions}, folder / "pytorch_model.bin")
        config = json.loads((folder / "config.json").read_text())
        for half in ("text_config", "vision_config", "audio_config"):
            if half in config:
                config[half] = {**OLD, **config[half]}
                config[half].pop("projection_dim", None)
        (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": "float32"}))
        path = folder / "preprocessor_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **said}))
    return model, preprocessor


@pytest.fixture(scope="module", params=[False, True], ids=["safetensors", "bin"])
def clip(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "clip-vit-base-patch32"
    return folder, *save_clip(folder, request.param)


@pytest.fixture(scope="module", params=[False, True], ids=["safetensors", "bin"])
def clap(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clap") / "clap-htsat-unfused"
    return folder, *save_clap(folder, request.param)


def encoder_of(name, folder):
    """Found below the weights' folder under its official name."""
    return load_encoder(
        name,
        config=CLIP_SIZES if name == "clip" else CLAP_SIZES,
        preset=load_preset("paper", [f"weights.folder={folder.parent}"]),
    )


def transformers_clip(model, processor, frames):
    pictures = processor(list(frames), return_tensors="pt", input_data_format="channels_first")
    with torch.inference_mode():
        return model.get_image_features(**pictures).pooler_output


def test_clip_is_what_transformers_gives(clip):
    folder, model, processor = clip
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 32, 32), np.uint8)
    ours = encoder_of("clip", folder).encode(frames)
    assert ours.shape == (2, 3, 24)
    wanted = transformers_clip(model, processor, frames.reshape(-1, 3, 32, 32)).view(2, 3, 24)
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-5)
    assert wanted.std(dim=(0, 1)).min() > 0.01, "the frames differ"


def test_clip_resizes_as_its_own_preprocessing(clip):
    """Which is PIL's bicubic: the same pixels, but where hard edges make sums that end in one half."""
    folder, model, processor = clip
    coarse = np.random.default_rng(1).integers(0, 256, (2, 3, 12, 12), np.uint8)
    frames = np.kron(coarse, np.ones((1, 1, 8, 8), np.uint8))
    frames[1] = np.random.default_rng(2).integers(0, 256, (3, 96, 96), np.uint8)
    encoder = encoder_of("clip", folder)
    theirs = processor(list(frames), return_tensors="pt", input_data_format="channels_first")["pixel_values"]
    ours = encoder.pictures(torch.from_numpy(frames).float() / 255)
    levels = (255 * (ours - theirs) * encoder.std).abs()
    assert levels.max() < 2.01
    assert levels.mean() < 0.01
    with torch.inference_mode():
        wanted = model.get_image_features(pixel_values=theirs).pooler_output
    found = encoder.encode(frames[None])[0]
    assert (found - wanted).norm() / wanted.norm() < 1e-3


@pytest.mark.parametrize("seconds", [10, 10 / 3, 0.5, 12])
def test_clap_is_what_transformers_gives(clap, seconds, monkeypatch):
    """Also where the sound is repeated and padded, or cut: ours takes the beginning."""
    folder, model, extractor = clap
    monkeypatch.setattr(np.random, "randint", lambda *_: 0)
    random, samples = np.random.default_rng(2), round(seconds * 48_000)
    sounds = [
        0.3 * np.sin(2 * np.pi * 440 * np.arange(samples) / 48_000) + 0.01 * random.standard_normal(samples),
        0.1 * random.standard_normal(samples) * np.linspace(0, 1, samples) ** 3,
    ]
    sounds = np.stack(sounds).astype(np.float32)
    encoder = encoder_of("clap", folder)
    inputs = extractor(list(sounds), sampling_rate=48_000, return_tensors="pt")
    spectrogram = encoder.spectrogram(torch.from_numpy(sounds))
    torch.testing.assert_close(spectrogram, inputs["input_features"].float(), atol=1e-4, rtol=1e-5)
    with torch.inference_mode():
        wanted = model.get_audio_features(**inputs).pooler_output
    ours = encoder.encode(sounds)
    assert ours.shape == (2, 1, 24)
    torch.testing.assert_close(ours[:, 0], wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.norm(dim=-1), torch.ones(2, 1))
    assert (wanted[0] - wanted[1]).norm() > 0.05, "the sounds differ"


def test_a_second_copy_of_the_weights_is_no_other_identity(clip):
    """What is not read, such as the weights for another framework, does not count."""
    folder, *_ = clip
    before = encoder_of("clip", folder).fingerprint
    assert before.startswith("official-")
    (folder / "tf_model.h5").write_bytes(b"of TensorFlow")
    assert encoder_of("clip", folder).fingerprint == before


def test_a_half_alone_is_read_too(clip, tmp_path):
    folder, *_ = clip
    config = CLIPVisionConfig(**encoder_of("clip", folder).sizes())
    half = CLIPVisionModelWithProjection.from_pretrained(folder, config=config)
    half.save_pretrained(tmp_path / "clip-vit-base-patch32")
    frames = np.random.default_rng(0).integers(0, 256, (1, 1, 3, 32, 32), np.uint8)
    whole, half = (encoder_of("clip", f).encode(frames) for f in (folder, tmp_path / "clip-vit-base-patch32"))
    assert torch.equal(whole, half)


def test_shipped_weights_are_a_folder_under_the_encoders_name(clap, tmp_path):
    folder, *_ = clap
    (tmp_path / "clap").symlink_to(folder)
    shipped = load_preset("micro", [f"weights.folder={tmp_path}"])
    sound = np.random.default_rng(0).standard_normal((1, 480_000), np.float32)
    ours = load_encoder("clap", config=CLAP_SIZES, preset=shipped)
    assert torch.equal(ours.encode(sound), encoder_of("clap", folder).encode(sound))


def test_what_is_missing_is_said_with_its_source_and_licence(tmp_path):
    preset = load_preset("paper", [f"weights.folder={tmp_path}"])
    with pytest.raises(WeightsError) as caught:
        check_weights(preset, ["clip", "clap"])
    for said in ("clip-vit-base-patch32", "MIT (CLIP)", "clap-htsat-unfused", "Apache-2.0 (CLAP)", "huggingface.co"):
        assert said in str(caught.value)
    (tmp_path / "clip-vit-base-patch32").mkdir()
    (tmp_path / "clip-vit-base-patch32/config.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"lacks model\.safetensors: from https://huggingface.*licence MIT"):
        encoder_of("clip", tmp_path / "clip-vit-base-patch32")


def _changed(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_wrong_folder_is_refused(tmp_path):
    folder = tmp_path / "clap-htsat-unfused"
    save_clap(folder, old=False)
    preset = load_preset("paper", [f"weights.folder={tmp_path}"])
    with pytest.raises(
        WeightsError, match=r"config\.json is not what .* encoders\.clap say: projection_dim is 24, not 8"
    ):
        load_encoder("clap", config={**CLAP_SIZES, "embedding": 8}, preset=preset)
    _changed(folder / "preprocessor_config.json", sampling_rate=16_000, truncation="fusion")
    with pytest.raises(WeightsError, match=r"sampling_rate is 16000, not 48000; truncation is fusion, not rand_trunc"):
        encoder_of("clap", folder)
    (folder / "preprocessor_config.json").unlink()  # then the settings say it
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1000])
    with pytest.raises(WeightsError, match="cannot be read as a ClapAudioModelWithProjection"):
        encoder_of("clap", folder)
    (folder / "model.safetensors").unlink()
    torch.save({"audio_projection.linear1.bias": torch.zeros(24)}, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"the weights lack audio_model\.audio_encoder"):
        encoder_of("clap", folder)
    (folder / "config.json").write_text("[1]")
    with pytest.raises(WeightsError, match=r"config\.json is no object of JSON"):
        encoder_of("clap", folder)
