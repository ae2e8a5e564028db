"""Compiled models and half precision give the numbers of the plain model, as far as a CPU can show."""

import numpy as np
import pytest
import torch

from generate.audioldm2 import Conditioning
from generate.audioldm2_loader import load_audioldm2
from manifests.builders import clips_from_folder
from manifests.manifest import make_manifest
from pipeline.cache import open_store
from pipeline.encoders import load_encoder
from pipeline.extract import Extractor
from presets import load_preset
from tests.media_factory import make_media
from tests.tiny import TINY


def relative(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


def denoised(model):
    text, mask = model.encode_labels(["dog", "rain"])
    tokens = torch.randn(2, 8, 96, generator=torch.Generator().manual_seed(0))
    condition, negative = Conditioning(tokens, text, mask), model.negative("low quality")
    return model.denoise(condition, negative, model.noise(["a", "b"], 0), steps=2, guidance_scale=3.5)


@pytest.mark.parametrize(("precision", "bound"), [("bfloat16", 0.05), ("float16", 0.01)])
def test_half_precision_of_the_sampler(precision, bound):
    plain, half = (load_audioldm2(load_preset(TINY, [f"generation.precision={p}"])) for p in ("float32", precision))
    assert sum(p.nbytes for p in half.unet.parameters()) < 0.52 * sum(p.nbytes for p in plain.unet.parameters())
    ours = denoised(half)
    assert ours.dtype == torch.float32
    assert 0 < relative(ours, denoised(plain)) < bound


def test_extraction_in_half_precision(tmp_path):
    """``--precision`` from the command's options to the shard, which says so."""
    make_media(tmp_path / "clips" / "tone" / "clip.mp4", seconds=3)
    manifest = make_manifest(clips_from_folder(tmp_path / "clips"), 4)
    features = {}
    for precision in ("float32", "bfloat16"):
        store = open_store(tmp_path / precision)
        with Extractor(manifest, store, load_preset(TINY), ["cavp"], precision=precision) as extractor:
            extractor.run([0])
        content = store.read("cavp", 0)
        assert content.fingerprint["config"]["precision"] == precision
        features[precision] = torch.from_numpy(content.features.astype(np.float32))
    cosine = torch.cosine_similarity(features["bfloat16"], features["float32"], dim=-1)
    assert 0.999 < float(cosine.min()) < 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cavp", "timechat", "audiomae", "clip", "clap"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_compiled_encoders(name, precision):
    random = np.random.default_rng(0)
    frames = random.integers(0, 255, (1, 8, 3, 224, 224), np.uint8)
    waveform = random.standard_normal((1, 160_000), np.float32)
    inputs = {"timechat": (frames, np.arange(8) / 4), "audiomae": (waveform,), "clap": (waveform,)}.get(name, (frames,))
    plain = load_encoder(name, preset=TINY)
    compiled = load_encoder(name, preset=TINY, precision=precision, compile=True)
    assert relative(compiled.encode(*inputs), plain.encode(*inputs)) < (1e-4 if precision == "float32" else 2e-2)


@pytest.mark.slow
def test_compiled_unet():
    compiled = load_audioldm2(load_preset(TINY, ["generation.compile=true"]))
    assert relative(denoised(compiled), denoised(load_audioldm2(load_preset(TINY)))) < 1e-4
    torch._dynamo.reset()
