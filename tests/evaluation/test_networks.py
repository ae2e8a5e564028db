"""Feature networks: official keys in, the right shapes out. No golden vectors exist for them here."""

import numpy as np
import pytest
import torch

from evaluation.networks import NETWORKS, load_network, seeded_network
from evaluation.networks.spectrogram import MelSettings, MelSpectrogram
from evaluation.networks.synchformer import DividedAttention
from evaluation.networks.vggish import VGGish
from evaluation.pictures import crop, frames_at, short_side
from pipeline.errors import ClipError, WeightsError
from pipeline.media_writing import write_video

# Keys and shapes as the official files have them, some of each part.
OFFICIAL = {
    "panns": {
        "bn0.running_mean": (64,),
        "conv_block1.conv1.weight": (64, 1, 3, 3),
        "conv_block6.bn2.weight": (2048,),
        "fc1.weight": (2048, 2048),
        "fc_audioset.bias": (527,),
    },
    "vggish": {
        "features.0.weight": (64, 1, 3, 3),
        "features.13.weight": (512, 512, 3, 3),
        "embeddings.0.weight": (4096, 12288),
        "embeddings.4.bias": (128,),
    },
    "passt": {
        "patch_embed.proj.weight": (768, 1, 16, 16),
        "new_pos_embed": (1, 2, 768),
        "freq_new_pos_embed": (1, 768, 12, 1),
        "time_new_pos_embed": (1, 768, 1, 99),
        "blocks.11.attn.qkv.weight": (2304, 768),
        "head.1.weight": (527, 768),
    },
    "imagebind": {
        "modality_preprocessors.vision.rgbt_stem.proj.1.weight": (1280, 3, 2, 14, 14),
        "modality_preprocessors.audio.pos_embedding_helper.pos_embed": (1, 229, 768),
        "modality_trunks.vision.pre_transformer_layer.0.weight": (1280,),
        "modality_trunks.vision.blocks.31.attn.in_proj_weight": (3840, 1280),
        "modality_trunks.audio.blocks.11.attn.bias_k": (1, 1, 768),
        "modality_heads.audio.2.weight": (1024, 768),
        "modality_postprocessors.audio.1.log_logit_scale": (),
    },
    "synchformer": {
        "vfeat_extractor.patch_embed_3d.proj.weight": (768, 3, 2, 16, 16),
        "vfeat_extractor.temp_embed": (1, 8, 768),
        "vfeat_extractor.blocks.11.timeattn.qkv.weight": (2304, 768),
        "vfeat_extractor.spatial_attn_agg.self_attn.in_proj_weight": (2304, 768),
        "afeat_extractor.ast.embeddings.position_embeddings": (1, 74, 768),
        "afeat_extractor.ast.encoder.layer.11.attention.attention.query.weight": (768, 768),
        "afeat_extractor.freq_attn_agg.cls_token": (1, 1, 768),
        "transformer.pos_emb_cfg.pos_emb": (1, 198, 768),
        "transformer.blocks.2.mlp.2.weight": (768, 3072),
        "transformer.off_head.weight": (21, 768),
        "vproj.weight": (768, 768),
    },
}
SHAPES = {
    "panns": {"pann_features.pth": {"2048": (2048,), "logits": (527,)}},
    "vggish": {"vggish_features.pth": {"": (8, 128)}},
    "passt": {"passt_features_embed.pth": {"": (768,)}, "passt_logits.pth": {"": (527,)}},
    "imagebind": {"imagebind_audio.pth": {"": (1024,)}},
    "synchformer": {"synchformer_audio.pth": {"": (24, 6, 768)}},
}
LARGE = ("imagebind", "synchformer")
SIZES = [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in OFFICIAL]


@pytest.mark.parametrize("name", SIZES)
def test_a_network_has_the_official_keys_and_fills_its_feature_files(name):
    network = seeded_network(NETWORKS[name])
    state = network.state_dict()
    assert {key: tuple(state[key].shape) for key in OFFICIAL[name]} == OFFICIAL[name]
    sound = 0.1 * torch.randn(1, round(network.rate * network.seconds), generator=torch.Generator().manual_seed(0))
    made = network.encode(sound)
    assert {c: {p: tuple(v.shape[1:]) for p, v in parts.items()} for c, parts in made.items()} == SHAPES[name]
    assert all(bool(torch.isfinite(v).all()) for parts in made.values() for v in parts.values())
    assert set(made) == set(network.caches)


def test_an_official_file_fills_every_weight_and_one_that_is_not_is_named(tmp_path):
    network = seeded_network(VGGish, seed=3)
    path = tmp_path / "vggish-10086976.pth"
    state = dict(network.state_dict())
    torch.save({**state, "pproc.pca_means": torch.zeros(128, 1)}, path)
    loaded = load_network(VGGish, tmp_path)
    sound = 0.1 * torch.randn(1, 128_000, generator=torch.Generator().manual_seed(1))
    same = loaded.encode(sound)["vggish_features.pth"][""]
    assert torch.equal(same, network.encode(sound)["vggish_features.pth"][""])
    torch.save({"features.0.weight": state["features.0.weight"], "stranger": torch.ones(2)}, path)
    with pytest.raises(WeightsError, match=r"(?s)missing.*unexpected.*stranger"):
        load_network(VGGish, tmp_path)


def test_a_mel_spectrogram_finds_a_tone_where_it_is():
    settings = MelSettings(16_000, 1024, 400, 160, 64, 0, 8000, scale="htk")
    time = np.arange(16_000) / 16_000
    tone = torch.from_numpy(np.sin(2 * np.pi * 1000 * time)).float()[None]
    energy = MelSpectrogram(settings)(tone)
    assert energy.shape == (1, 64, 101)
    mel = 2595 * np.log10(1 + 1000 / 700) / (2595 * np.log10(1 + 8000 / 700)) * 65 - 1
    assert int(energy.mean(2).argmax()) == pytest.approx(mel, abs=1)


def test_divided_attention_is_attention_over_one_axis_at_a_time():
    """Against the definition, token by token: the class token sees all, others their group and the class token."""
    torch.manual_seed(0)
    attention = DividedAttention(16, 2)
    frames, places = 3, 4
    hidden = torch.randn(2, 1 + frames * places, 16)
    query, key, value = attention.split(hidden)
    for over_time in (False, True):
        wanted = torch.empty_like(query)
        for token in range(1 + frames * places):
            frame, place = divmod(token - 1, places)
            if token == 0:
                seen = list(range(1 + frames * places))
            elif over_time:
                seen = [0, *(1 + f * places + place for f in range(frames))]
            else:
                seen = [0, *(1 + frame * places + p for p in range(places))]
            weights = (query[:, :, token : token + 1] @ key[:, :, seen].transpose(2, 3) / 8**0.5).softmax(-1)
            wanted[:, :, token] = (weights @ value[:, :, seen])[:, :, 0]
        assert torch.allclose(attention(hidden, frames, over_time), attention.join(wanted), atol=1e-6)


def test_frames_are_those_on_show_and_keep_their_shape(tmp_path):
    path = tmp_path / "clip.mp4"
    pictures = [np.full((120, 160, 3), 20 * number, np.uint8) for number in range(10)]
    write_video(path, pictures, 10, None)
    shown = frames_at(path, [0.95, 0.0, 0.42, 7.0])
    assert shown.shape == (4, 120, 160, 3)
    assert shown.mean(axis=(1, 2, 3)).round(-1).tolist() == [180, 0, 80, 180]
    scaled = short_side(shown, "bicubic")
    assert scaled.shape == (4, 3, 224, 298)
    assert crop(scaled, 0.5).shape == (4, 3, 224, 224)
    with pytest.raises(ClipError, match="missing_file"):
        frames_at(tmp_path / "nothing.mp4", [0.0])


@pytest.mark.slow
def test_synchformer_compares_picture_and_sound(tmp_path):
    path = tmp_path / "clip.mp4"
    write_video(path, [np.full((120, 160, 3), n, np.uint8) for n in range(200)], 25, None)
    network = seeded_network(NETWORKS["synchformer"])
    frames = network.read_frames(path)
    assert frames.shape == (200, 3, 224, 224)
    seen = network.encode_video(frames[None, :24])["synchformer_video.pth"][""]
    assert seen.shape == (1, 2, 8, 768)
    logits = network.compare(torch.randn(2, 24, 8, 768), torch.randn(2, 24, 6, 768))
    assert logits.shape == (2, 2, 21)
