"""AudioLDM-2 at its published sizes with seeded weights: saved as a diffusers folder, loaded like the real one.

    python -m benchmarks.full_size [--folder FOLDER] [--steps 4] [--device cuda]

Makes one clip, and compares with ``AudioLDM2Pipeline`` on the same embeddings, latents and scheduler. The
folder takes about 4.5 GB and is deleted at the end.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AudioLDM2Pipeline

from benchmarks.common import peak_memory_gb, write_result
from common.runtime import quiet_libraries
from generate.audioldm2 import AudioLDM2, Conditioning
from generate.audioldm2_loader import build_components, load_audioldm2
from generate.schedulers import build_scheduler
from presets import load_preset


def save_components(folder: Path) -> None:
    """Every component of the published sizes, as ``cvssp/audioldm2`` lays them out."""
    parts, negative = build_components(load_preset("paper", ["weights.source=seeded"]))
    for name in ("unet", "vae", "vocoder", "scheduler"):
        parts[name].save_pretrained(folder / name)
    parts["flan_t5"].model.save_pretrained(folder / "text_encoder_2")
    parts["flan_t5"].tokenizer.save_pretrained(folder / "tokenizer_2")
    branch = negative()
    branch.clap.save_pretrained(folder / "text_encoder")
    branch.tokenizer.save_pretrained(folder / "tokenizer")
    branch.projection_model.save_pretrained(folder / "projection_model")
    branch.language_model.save_pretrained(folder / "language_model")


def diffusers_waveform(
    model: AudioLDM2,
    positive: Conditioning,
    negative: Conditioning,
    latents: torch.Tensor,
    steps: int,
    scheduler: str = "DDIMScheduler",
) -> torch.Tensor:
    """Waveform (B, samples) of diffusers' own ``AudioLDM2Pipeline`` from the same parts."""
    pipeline = AudioLDM2Pipeline(
        vae=model.vae, text_encoder=None, text_encoder_2=model.flan_t5.model, projection_model=None,
        language_model=model.load_negative_branch().language_model, tokenizer=None, tokenizer_2=None,
        feature_extractor=None, unet=model.unet,
        scheduler=build_scheduler(scheduler, model.scheduler.config), vocoder=model.vocoder,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    length = max(positive.text.shape[1], negative.text.shape[1])
    one, other = positive.padded(length), negative.padded(length)
    return pipeline(
        prompt_embeds=one.text, attention_mask=one.mask, generated_prompt_embeds=one.tokens,
        negative_prompt_embeds=other.text, negative_attention_mask=other.mask,
        negative_generated_prompt_embeds=other.tokens, latents=latents, num_inference_steps=steps,
        guidance_scale=3.5, audio_length_in_s=10.24, output_type="pt",
    ).audios  # fmt: skip


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    samples = min(ours.shape[1], theirs.shape[1])
    return float((ours[:, :samples] - theirs[:, :samples]).norm() / theirs[:, :samples].norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    quiet_libraries()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    rows: list[dict[str, Any]] = []

    def timed(part: str, function: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = function()
        seconds = round(time.perf_counter() - started, 2)
        rows.append({"part": part, "seconds": seconds, "peak_memory_gb": round(peak_memory_gb(), 2)})
        print(rows[-1], flush=True)
        return result

    try:
        timed("build and save all components", lambda: save_components(folder / "audioldm2"))
        preset = load_preset("paper", [f"weights.folder={folder}"])
        model: AudioLDM2 = timed("load", lambda: load_audioldm2(preset, arguments.device))
        negative = timed("negative condition", lambda: model.negative(preset.generation.negative_prompt))
        text, mask = timed("label through FLAN-T5", lambda: model.encode_labels(["dog barking"]))
        tokens = torch.randn(1, 8, 768, generator=torch.Generator().manual_seed(0)).to(arguments.device)
        positive, latents = Conditioning(tokens, text, mask), model.noise(["clip"], 0)
        settings: dict[str, Any] = {"steps": arguments.steps, "guidance_scale": 3.5}
        out = timed(
            f"UNet, {arguments.steps} guided steps", lambda: model.denoise(positive, negative, latents, **settings)
        )
        ours = timed("VAE and vocoder", lambda: model.decode(out, 160_000))
        theirs = timed(
            "AudioLDM2Pipeline, same clip",
            lambda: diffusers_waveform(model, positive, negative, latents, arguments.steps),
        )
        exactness = {"waveform, ours against AudioLDM2Pipeline": difference(ours, theirs.cpu().float())}
        sizes = {name: getattr(model, name).num_parameters() / 1e6 for name in ("unet", "vae")}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    values = {"parameters_million": sizes, "parts": rows, "relative_difference": exactness}
    print(values["relative_difference"])
    write_result(f"full_size_{arguments.device}", values, arguments.out)


if __name__ == "__main__":
    main()
