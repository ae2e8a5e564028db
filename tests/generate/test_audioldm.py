"""AudioLDM against diffusers' own pipeline, from folders that the pipeline wrote."""

import json
import shutil
import warnings

import pytest
import torch
from diffusers import AudioLDMPipeline, AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import ClapTextConfig, ClapTextModelWithProjection, RobertaTokenizer, SpeechT5HifiGan
from transformers import SpeechT5HifiGanConfig

from common.errors import PresetError, WeightsError
from generate.audioldm import load_audioldm
from presets import load_preset
from presets.config import GenerationConfig
from tests.tiny import TINY

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
    return load_preset(TINY, ["audio_model=audioldm", "weights.source=official", f"weights.folder={folder}", *settings])


@pytest.fixture(scope="module")
def model(weights):
    return load_audioldm(official(weights))


def embeddings(count, seed=0):
    """Predictions of a mapper (B, 1, D), of any length."""
    return 3 * torch.randn(count, 1, 96, generator=torch.Generator().manual_seed(seed))


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
    latents, tokens = model.noise(["a"], 0), embeddings(1)
    one, two = (each.synthesise(tokens, [""], latents, [0], SAMPLES, GENERATION) for each in (model, other))
    assert other.unet.dtype == torch.float32
    assert difference(two, one) < (0.05 if half else 1e-6)
    assert other.fingerprint != model.fingerprint
