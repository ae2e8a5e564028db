"""AudioLDM against diffusers' own pipeline, from folders that the pipeline wrote."""

import json
import shutil
import warnings

import pytest
import torch
from diffusers import AudioLDMPipeline, AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import (
    ClapTextConfig,
    ClapTextModelWithProjection,
    RobertaTokenizer,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
)

from common.errors import InputError, PresetError, WeightsError
from generate.audioldm import load_audioldm
from generate.sampling import load_sampler
from generate.settings import AUDIOLDM
from pipeline.hub import repository_folder
from presets import load_preset
from presets.config import GenerationConfig
from tests.tiny import TINY

OF_CLAP = ("audio_model=audioldm", "target=clap")
SAMPLES, PROMPT = 160_000, "low quality, average quality"
GENERATION = GenerationConfig(steps=4, guidance_scale=2.5, negative_prompt=PROMPT)


def small_pipeline(folder):
    """``AudioLDMPipeline`` of the classes of cvssp/audioldm-s-full-v2, tiny, seeded."""
    sizes = load_preset(TINY).audio_models.audioldm
    words = sorted({*PROMPT.replace(" ", "Ġ")}, key=str)
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *words, "lo", "low", "Ġq"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\nl o\nlo w\nĠ q\n")
    torch.manual_seed(3)
    text = ClapTextModelWithProjection(ClapTextConfig(**{**sizes.clap, "vocab_size": len(tokens)}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        pipeline = AudioLDMPipeline(
            vae=AutoencoderKL(**sizes.vae),
            text_encoder=text.eval(),
            tokenizer=RobertaTokenizer.from_pretrained(folder, model_max_length=512),
            unet=UNet2DConditionModel(**sizes.unet),
            scheduler=DDIMScheduler(**sizes.scheduler),
            vocoder=SpeechT5HifiGan(SpeechT5HifiGanConfig(**sizes.vocoder)),
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return small_pipeline(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def weights(pipeline, tmp_path_factory):
    """The folder of weights with AudioLDM's in it."""
    folder = tmp_path_factory.mktemp("weights")
    pipeline.save_pretrained(folder / "audioldm-s-full-v2")
    return folder


def official(folder, *settings):
    return load_preset(TINY, [*OF_CLAP, "weights.source=official", f"weights.folder={folder}", *settings])


@pytest.fixture(scope="module")
def model(weights):
    return load_audioldm(official(weights))


def embeddings(count, seed=0):
    """Predictions of a mapper (B, 1, D), of any length."""
    return 3 * torch.randn(count, 1, 64, generator=torch.Generator().manual_seed(seed))


def theirs(pipeline, latents, tokens, negative, seconds):
    return pipeline(
        prompt_embeds=torch.nn.functional.normalize(tokens[:, 0], dim=-1),
        negative_prompt_embeds=negative,
        latents=latents,
        num_inference_steps=GENERATION.steps,
        guidance_scale=GENERATION.guidance_scale,
        audio_length_in_s=seconds,
        output_type="pt",
    ).audios[:, :SAMPLES]


def difference(one, other):
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("seconds", [10.24, 10.0])
def test_equals_the_diffusers_pipeline(pipeline, model, seconds):
    """From the same latents: those of 10.24 s, as AudioLDM's authors make 10 s, and those of 10 s."""
    tokens, ids = embeddings(2), ["a", "b"]
    latents = model.noise(ids, 0)
    if seconds == 10.0:
        latents = latents[:, :, : 1000 // 8].contiguous()
    ours = model.synthesise(tokens, ["", ""], latents, [0, 1], SAMPLES, GENERATION)
    negative = pipeline._encode_prompt([PROMPT] * 2, "cpu", 1, False)
    wanted = theirs(pipeline, latents, tokens, negative, seconds)
    assert ours.shape == wanted.shape == (2, SAMPLES)
    assert ours.abs().max() > 1e-3
    assert difference(ours, wanted) < 1e-4
    assert difference(ours[:1], ours[1:]) > 1e-2


@pytest.mark.parametrize("prompt", ["", PROMPT])
def test_the_negative_condition_is_the_pipelines(pipeline, model, prompt):
    """Which pads it to a fixed length."""
    embedding = model.negative(prompt).embedding
    torch.testing.assert_close(embedding, pipeline._encode_prompt([prompt], "cpu", 1, False), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(embedding.norm(), torch.tensor(1.0))


@pytest.mark.parametrize("form", [{"variant": "fp16"}, {"safe_serialization": False}])
def test_folders_in_other_forms(pipeline, model, weights, tmp_path, form):
    """Half precision alone, and pickled weights, as older uploads have them."""
    folder = tmp_path / "audioldm-s-full-v2"
    half = "variant" in form
    for name in ("unet", "vae", "vocoder", "text_encoder"):
        part = getattr(pipeline, name)
        if half:
            part = type(part).from_pretrained(weights / folder.name / name, torch_dtype=torch.float16)
        part.save_pretrained(folder / name, **form)
    for name in ("scheduler", "tokenizer"):
        getattr(pipeline, name).save_pretrained(folder / name)
    other = load_audioldm(official(tmp_path))
    latents, tokens = model.noise(["a"], 0)[:, :, :16].contiguous(), embeddings(1)
    one, two = (each.synthesise(tokens, [""], latents, [0], SAMPLES, GENERATION) for each in (model, other))
    assert other.unet.dtype == torch.float32
    assert difference(two, one) < (0.05 if half else 1e-6)
    assert other.fingerprint != model.fingerprint


def test_zeros_as_the_negative_condition_need_no_text_half(weights, model, tmp_path):
    folder = tmp_path / "audioldm-s-full-v2"
    shutil.copytree(weights / folder.name, folder, ignore=shutil.ignore_patterns("text_encoder", "tokenizer"))
    with pytest.raises(WeightsError, match=r"lacks text_encoder, tokenizer; get it from .*audioldm-s-full-v2, licence"):
        load_audioldm(official(tmp_path))
    other = load_audioldm(official(tmp_path, "audio_models.audioldm.negative=zeros"))
    torch.testing.assert_close(other.negative("anything").embedding, torch.zeros(1, 64))
    assert other.fingerprint != model.fingerprint
    # It is where the micro preset has what it ships, and where a setting puts it.
    placed = official("nowhere", f"weights.folders.audioldm={folder}", "audio_models.audioldm.negative=zeros")
    assert load_audioldm(placed).fingerprint == other.fingerprint
    shipped = load_preset(TINY, ["weights.source=shipped", f"weights.folder={tmp_path}"])
    assert repository_folder(AUDIOLDM, shipped, ["unet"]) == tmp_path / "audioldm"


def test_a_negative_prompt_that_nothing_reads_is_refused(tmp_path):
    """Before anything is looked for; what a preset says that names no prompt is none."""
    zeros = load_preset("v2a-mapper-micro", ["generation.negative_prompt=hiss"])
    with pytest.raises(
        InputError, match=r"negative_prompt is 'hiss', and nothing reads it: .*audioldm\.negative is zeros"
    ):
        load_sampler(zeros, tmp_path / "no mapper")
    for assignments in ([], ["generation.negative_prompt="]):
        preset = load_preset("v2a-mapper-micro", assignments)
        preset.audio.check(preset.generation)
    read = load_preset("v2a-mapper", ["generation.negative_prompt=hiss"])
    read.audio.check(read.generation)


def test_the_negative_condition_is_kept_under_its_weights(weights, tmp_path, monkeypatch):
    made = load_audioldm(official(weights), cache=tmp_path).negative(PROMPT)
    again = load_audioldm(official(weights), cache=tmp_path)
    monkeypatch.setattr(again, "encode_negative", lambda _: pytest.fail("CLAP is loaded though the condition is kept"))
    torch.testing.assert_close(again.negative(PROMPT).embedding, made.embedding, atol=0, rtol=0)
    assert not torch.equal(
        load_audioldm(load_preset(TINY, OF_CLAP), cache=tmp_path).negative(PROMPT).embedding, made.embedding
    )


def test_what_does_not_fit_is_named(weights, tmp_path):
    with pytest.raises(WeightsError) as caught:
        load_audioldm(official(tmp_path))
    for word in ("audioldm-s-full-v2 lacks unet", "huggingface.co/cvssp/audioldm-s-full-v2", "CC BY-NC-SA 4.0"):
        assert word in str(caught.value)
    with pytest.raises(WeightsError, match=r"takes 64 values of a class condition.*clap has 48"):
        load_audioldm(official(weights, "encoders.clap.embedding=48"))
    with pytest.raises(PresetError, match=r"audioldm.unet takes no values of a class condition"):
        load_audioldm(load_preset(TINY, [*OF_CLAP, "audio_models.audioldm.unet.class_embed_type=null"]))
    with pytest.raises(PresetError, match=r"^audio_models.audioldm.vae describes no model: ."):
        load_audioldm(load_preset(TINY, [*OF_CLAP, "audio_models.audioldm.vae.latent_channels=x"]))
    folder = tmp_path / "audioldm-s-full-v2"
    shutil.copytree(weights / folder.name, folder)
    state = load_file(path := folder / "vocoder" / "model.safetensors")
    save_file({name: tensor for name, tensor in state.items() if name != "conv_post.bias"}, path, {"format": "pt"})
    with pytest.raises(WeightsError, match=r"vocoder cannot be loaded: its file lacks weights: 1 .conv_post\.bias"):
        load_audioldm(official(tmp_path))
    path.unlink()
    with pytest.raises(WeightsError, match=r"vocoder cannot be loaded"):
        load_audioldm(official(tmp_path))


def test_a_clip_does_not_depend_on_its_batch(model):
    tokens, noise = embeddings(3), model.noise(["a", "b", "c"], 0)[:, :, :16].contiguous()
    together = model.synthesise(tokens, [""] * 3, noise, [0, 1, 2], SAMPLES, GENERATION)
    alone = model.synthesise(2 * tokens[1:2], ["x"], noise[1:2], [1], SAMPLES, GENERATION)
    assert difference(together[1:2], alone) < 1e-4, "nor on the length of its prediction, nor on its label"
