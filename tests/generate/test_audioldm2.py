"""Our sampler against diffusers' own pipeline, and the negative condition against CLAP's own features."""

import pytest
import torch
from transformers import ClapConfig, ClapModel, ClapTextModelWithProjection

from benchmarks.full_size import difference, diffusers_waveform
from common.errors import InputError, WeightsError
from generate.audioldm2 import Conditioning
from generate.audioldm2_loader import load_audioldm2
from generate.negative import run_language_model
from generate.schedulers import build_scheduler, check_scheduler
from presets import PresetError, load_preset
from tests.tiny import TINY

STEPS, GUIDANCE, SAMPLES = 4, 3.5, 160_000


@pytest.fixture(scope="module")
def model():
    return load_audioldm2(load_preset(TINY))


def conditioning(model, labels, seed=0):
    generator = torch.Generator().manual_seed(seed)
    text, mask = model.encode_labels(labels)
    return Conditioning(torch.randn(len(labels), 8, 96, generator=generator), text, mask)


def sample(model, positive, latents):
    negative = model.negative("low quality, average quality")
    out = model.denoise(positive, negative, latents, steps=STEPS, guidance_scale=GUIDANCE)
    return model.decode(out, SAMPLES)


@pytest.mark.parametrize(
    ("scheduler", "steps"),
    [("DDIMScheduler", STEPS), ("DPMSolverMultistepScheduler", 6), ("EulerDiscreteScheduler", 10)],
)
def test_equals_the_diffusers_pipeline(model, scheduler, steps):
    positive = conditioning(model, ["dog barking"])
    negative = model.negative("low quality, average quality")
    latents = model.noise(["clip"], 0)
    theirs = diffusers_waveform(model, positive, negative, latents, steps, scheduler)
    out = model.denoise(positive, negative, latents, steps=steps, guidance_scale=GUIDANCE, scheduler_name=scheduler)
    ours = model.decode(out, SAMPLES)
    assert ours.abs().max() > 1e-3
    assert difference(ours, theirs) < 1e-4


def test_a_clip_does_not_depend_on_its_batch(model):
    labels = ["dog", "a very long label, longer than the others", "", "cat", "x", "y", "bird", "dog"]
    ids = [f"clip{n}" for n in range(8)]
    batch = conditioning(model, labels)
    together = sample(model, batch, model.noise(ids, 3))
    for row, clip_id in enumerate(ids):
        text, mask = model.encode_labels([labels[row]])
        alone = sample(model, Conditioning(batch.tokens[row : row + 1], text, mask), model.noise([clip_id], 3))
        assert (together[row] - alone[0]).norm() / alone.norm() < 1e-3


def test_tokens_text_and_guidance_matter(model):
    latents = model.noise(["a"], 0)
    base = conditioning(model, ["dog barking"])
    first = sample(model, base, latents)
    tokens = sample(model, Conditioning(base.tokens * -1, base.text, base.mask), latents)
    text = sample(model, Conditioning(base.tokens, *model.encode_labels(["rain falling"])), latents)
    for other in (
        tokens,
        text,
        sample(model, base, model.noise(["b"], 0)),
        sample(model, base, model.noise(["a"], 1)),
    ):
        assert (first - other).norm() / first.norm() > 1e-3
    torch.testing.assert_close(first, sample(model, base, latents), atol=0, rtol=0)


def test_masked_text_has_no_effect(model):
    base = conditioning(model, ["dog"])
    longer = base.padded(base.text.shape[1] + 7)
    noisy = Conditioning(longer.tokens, longer.text + (1 - longer.mask[..., None]) * 5.0, longer.mask)
    latents = model.noise(["a"], 0)
    one, other = sample(model, base, latents), sample(model, noisy, latents)
    assert (one - other).norm() / one.norm() < 1e-4


def test_negative_text_features_are_clap_s_own(model):
    branch = model.load_negative_branch()
    text_config = branch.clap.config
    whole = ClapModel(
        ClapConfig(
            text_config=text_config.to_dict(),
            audio_config={
                "depths": [1],
                "num_attention_heads": [1],
                "patch_embeds_hidden_size": 8,
                "hidden_size": 8,
            },
            projection_dim=text_config.projection_dim,
        )
    ).eval()
    half = ClapTextModelWithProjection(text_config).eval()
    half.load_state_dict({k: v for k, v in whole.state_dict().items() if k.startswith("text_")})
    tokens = branch.tokenizer(["low quality"], return_tensors="pt")
    theirs = whole.get_text_features(tokens.input_ids, attention_mask=tokens.attention_mask)
    theirs = getattr(theirs, "pooler_output", theirs)
    ours = torch.nn.functional.normalize(half(tokens.input_ids, tokens.attention_mask).text_embeds, dim=-1)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.filterwarnings("error::FutureWarning")
def test_cached_language_model_equals_the_uncached_loop(model):
    language_model = model.load_negative_branch().language_model.eval()
    inputs, mask = torch.randn(1, 9, 96), torch.ones(1, 9, dtype=torch.long)
    sequence = inputs
    for _ in range(8):
        hidden = language_model(inputs_embeds=sequence).last_hidden_state
        sequence = torch.cat([sequence, hidden[:, -1:]], dim=1)
    ours = run_language_model(language_model, inputs, mask)
    torch.testing.assert_close(ours, sequence[:, -8:], atol=1e-5, rtol=1e-5)


def test_labels_are_encoded_once(model):
    calls = []
    encode, model.flan_t5.encode = (
        model.flan_t5.encode,
        lambda labels: (calls.append(labels), encode(labels))[1],
    )
    try:
        model.encode_labels(["new label"] * 3)
        model.encode_labels(["new label"])
    finally:
        del model.flan_t5.encode
    assert calls == [["new label"]]


def test_missing_official_weights_name_source_and_licence(tmp_path):
    with pytest.raises(WeightsError) as caught:
        load_audioldm2(load_preset("paper", [f"weights.folder={tmp_path}"]))
    for word in ("unet", "cvssp/audioldm2", "CC BY-NC-SA 4.0"):
        assert word in str(caught.value)


def test_fingerprint_follows_the_weights(model):
    assert load_audioldm2(load_preset(TINY)).fingerprint == model.fingerprint
    other = load_audioldm2(load_preset(TINY, ["weights.seed=9"]))
    assert other.fingerprint != model.fingerprint


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "PNDMScheduler"])
def test_other_schedulers_by_name(model, name):
    positive, negative = conditioning(model, ["dog"]), model.negative("low quality, average quality")
    latents = model.noise(["a"], 0)
    settings = {"steps": 25, "guidance_scale": 1.5}
    theirs = model.denoise(positive, negative, latents, scheduler_name=name, **settings)
    ours = model.denoise(positive, negative, latents, **settings)
    assert torch.isfinite(theirs).all()
    assert 1e-4 < (theirs - ours).norm() / ours.norm() < 1.0, "another path to about the same place"


@pytest.mark.parametrize("name", ["DDIM", "NoSuchScheduler", "UNet2DModel"])
def test_an_unknown_scheduler_is_named(model, name):
    with pytest.raises(InputError, match=name):
        build_scheduler(name, model.scheduler.config)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("FlowMatchEulerDiscreteScheduler", "noise schedule of its own"),  # it would sample noise, and say nothing
        ("KarrasVeScheduler", "noise schedule of its own"),
        ("RePaintScheduler", "needs original_image, mask"),
        ("UnCLIPScheduler", "cannot be made: ValueError"),
        ("DDIMInverseScheduler", "from sound to noise"),
        ("PNDMScheduler", "PNDMScheduler cannot make 2 steps"),
    ],
)
def test_schedulers_that_cannot_be_used_say_so_before_anything_is_made(model, name, says):
    with pytest.raises(InputError, match=says):
        check_scheduler(name, model.scheduler.config, 2)


def test_negative_condition_is_kept_under_its_weights(tmp_path, monkeypatch):
    preset = load_preset(TINY)
    made = load_audioldm2(preset, cache=tmp_path).negative("low quality")
    assert len(list((tmp_path / "negatives").iterdir())) == 1
    second = load_audioldm2(preset, cache=tmp_path)
    monkeypatch.setattr(
        second, "load_negative_branch", lambda: pytest.fail("CLAP is loaded though the condition is kept")
    )
    kept = second.negative("low quality")
    for name in ("tokens", "text", "mask"):
        torch.testing.assert_close(getattr(kept, name), getattr(made, name), atol=0, rtol=0)
    load_audioldm2(load_preset(TINY, ["weights.seed=9"]), cache=tmp_path).negative("low quality")
    assert len(list((tmp_path / "negatives").iterdir())) == 2
    for path in (tmp_path / "negatives").iterdir():
        path.write_bytes(b"damaged")
    torch.testing.assert_close(load_audioldm2(preset, cache=tmp_path).negative("low quality").tokens, made.tokens)


def test_windows_share_the_noise_of_their_overlap(model):
    rows = model.latent_shape[1]
    hop = rows * 3 // 4
    noise = torch.stack(list(model.window_noise("film", 0, [0, hop, 2 * hop])))
    torch.testing.assert_close(noise[0, :, hop:], noise[1, :, : rows - hop], atol=0, rtol=0)
    assert not torch.equal(noise[0], noise[1])
    shorter = torch.stack(list(model.window_noise("film", 0, [0, hop])))
    torch.testing.assert_close(shorter, noise[:2], atol=0, rtol=0)
    assert abs(float(noise.std()) - 1) < 0.05


def test_decoding_in_parts_changes_nothing(model):
    latents = model.noise(["a", "b", "c"], 0)
    torch.testing.assert_close(
        model.decode(latents, SAMPLES, 1), model.decode(latents, SAMPLES, 3), atol=1e-5, rtol=1e-4
    )


def test_bfloat16_and_channels_last_stay_close(model):
    other = load_audioldm2(load_preset(TINY, ["generation.precision=bfloat16", "generation.channels_last=true"]))
    base, latents = conditioning(model, ["dog barking"]), model.noise(["a"], 0)
    settings = {"steps": STEPS, "guidance_scale": GUIDANCE}
    ours = model.denoise(base, model.negative("low quality"), latents, **settings)
    theirs = other.denoise(base, other.negative("low quality"), latents, **settings)
    assert theirs.dtype == torch.float32
    assert 0 < (ours - theirs).norm() / ours.norm() < 0.05


def test_cached_label_embeddings_are_the_encoder_s_own(model):
    text, mask = model.encode_labels(["rain falling", "a dog"])
    other = load_audioldm2(load_preset(TINY))
    lengths = mask.sum(1).numpy()
    other.remember_labels(["rain falling", "a dog"], text.numpy(), lengths)
    other.flan_t5.encode = lambda labels: pytest.fail(f"{labels} are encoded though they are cached")
    kept, kept_mask = other.encode_labels(["rain falling", "a dog"])
    torch.testing.assert_close(kept, text * mask[..., None], atol=1e-6, rtol=0)
    assert torch.equal(kept_mask, mask)


def test_hub_id_asks_only_for_the_needed_components(tmp_path, monkeypatch):
    asked = {}

    def download(name, allow_patterns, ignore_patterns, local_files_only):
        asked[name] = allow_patterns
        return str(tmp_path)

    monkeypatch.setattr("pipeline.hub.snapshot_download", download)
    with pytest.raises(WeightsError, match="lacks unet"):
        load_audioldm2(load_preset("paper", ["weights.audioldm2=cvssp/audioldm2"]))
    assert "unet/*" in asked["cvssp/audioldm2"]
    assert not any("feature_extractor" in pattern for pattern in asked["cvssp/audioldm2"])


def test_a_hub_that_cannot_be_reached_is_one_clear_error(monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("pipeline.hub.list_repo_files", offline)
    monkeypatch.setattr("pipeline.hub.snapshot_download", offline)
    with pytest.raises(WeightsError, match="no network"):
        load_audioldm2(load_preset("paper", ["weights.audioldm2=cvssp/audioldm2"]))


@pytest.mark.parametrize(
    "setting",
    ["unet.block_out_channels=3", "vae.latent_channels=x", "vocoder.upsample_rates=[]", "scheduler.beta_end={}"],
)
def test_sizes_that_describe_no_model_are_a_wrong_setting(setting):
    with pytest.raises(PresetError, match=f"^audio_models.audioldm2.{setting.partition('.')[0]} describes no model: ."):
        load_audioldm2(load_preset(TINY, [f"audioldm2.{setting}"]))


@pytest.mark.parametrize("letters", [115, 116, 5000])
def test_a_negative_prompt_of_any_length_is_read(letters):
    """The small GPT-2 has 128 positions, and FLAN-T5 reads as many tokens: a letter each."""
    negative = load_audioldm2(load_preset("micro", ["weights.source=seeded"])).negative("x" * letters)
    assert negative.tokens.shape == (1, 8, 96)
    assert negative.tokens.isfinite().all()
