"""All frozen models of the micro preset: trained in order, each from its checkpoint if it has one."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from generate.audioldm2 import Conditioning
from generate.components import HIFIGAN, build_vocoder, vocoder_name
from micro.audio import train_audiomae, train_vae
from micro.audioldm import train_audioldm
from micro.clap import encode_clap, train_clap
from micro.classifier import train_classifier
from micro.clip import train_clip
from micro.data import LABELS, keep_in, waveforms
from micro.diffusion import encode_latents, encode_tokens, train_unet
from micro.fit import Machine
from micro.hifigan import train_hifigan
from micro.probe_report import card_section
from micro.text import TextToAudio, save_text, train_text
from micro.vision import train_cavp, train_frames, train_timechat
from presets import Preset, load_preset
from trainer.checkpoints import write_sums
from trainer.mapper import CONFIG, MODEL

CLIPS = 3600  # sounds that the UNets and the language model learn from


@dataclass(frozen=True)
class Steps:
    """Training steps of each stage; ``scale`` them all for a trial."""

    audiomae: int = 1500
    vae: int = 1800
    vocoder: int = 2000
    text: int = 800
    unet: int = 3600
    cavp: int = 1500
    frames: int = 1500
    timechat: int = 1000
    classifier: int = 600
    clip: int = 600
    clap: int = 600
    audioldm: int = 3000

    def scaled(self, scale: float) -> Steps:
        return Steps(**{name: max(1, round(value * scale)) for name, value in vars(self).items()})


class MicroModels:
    """The stages of training; each attribute trains (or loads) itself and what it rests on."""

    def __init__(
        self, preset: Preset, folder: Path, steps: Steps, machine: Machine = Machine(), adversarial: bool = True
    ):
        """``adversarial``: whether the vocoder is also trained against a discriminator."""
        self.preset, self.folder, self.steps, self.machine = preset, folder, steps, machine
        self.adversarial = adversarial
        keep_in(folder / "scenes")

    @cached_property
    def audiomae(self) -> Any:
        return train_audiomae(self.preset, self.folder, self.steps.audiomae, self.machine)

    @cached_property
    def vae(self) -> Any:
        return train_vae(self.preset, self.folder, self.steps.vae, self.machine)

    @cached_property
    def vocoder(self) -> Any:
        """HiFi-GAN, whether the preset has it or Griffin-Lim: to compare them (``python -m micro vocoders``)."""
        return train_hifigan(
            self.preset, self.folder, self.vae, self.steps.vocoder, self.machine, adversarial=self.adversarial
        )

    @cached_property
    def prepared(self) -> dict[str, Tensor]:
        """Tokens (N, 8, D) and latents (N, C, 128, 8) of the training sounds, computed once."""
        path = self.folder / "prepared.safetensors"
        if not path.is_file():
            audio = waveforms(CLIPS)
            device = self.machine.device
            tokens = encode_tokens(self.audiomae.to(device), audio)
            latents = encode_latents(self.vae.to(device), audio)
            self.audiomae.cpu(), self.vae.cpu()
            save_file({"tokens": tokens.contiguous(), "latents": latents.contiguous()}, path)
        return load_file(path)

    @cached_property
    def text(self) -> TextToAudio:
        return train_text(self.preset, self.folder, self.prepared["tokens"], self.steps.text, self.machine)

    @cached_property
    def unet(self) -> Any:
        text, mask = self.text.flan_t5.encode([*LABELS, ""])
        prompt = self.preset.generation.negative_prompt
        negative_text, negative_mask = self.text.flan_t5.encode([prompt])
        tokens = self.text.language(prompt, negative_text, negative_mask)
        negative = Conditioning(tokens.clone(), negative_text.clone(), negative_mask)
        return train_unet(
            self.preset,
            self.folder,
            self.prepared["latents"],
            self.prepared["tokens"],
            (text.clone(), mask),
            negative,
            self.steps.unet,
            self.machine,
        )

    @cached_property
    def cavp(self) -> Any:
        return train_cavp(self.preset, self.folder, self.steps.cavp, self.machine)

    @cached_property
    def frames(self) -> Any:
        """TimeChat with a ViT that knows single frames."""
        return train_frames(self.preset, self.folder, self.steps.frames, self.machine)

    @cached_property
    def timechat(self) -> Any:
        return train_timechat(self.preset, self.folder, self.frames, self.steps.timechat, self.machine)

    @cached_property
    def classifier(self) -> Any:
        return train_classifier(self.preset, self.folder, self.steps.classifier, self.machine)

    @cached_property
    def v2a(self) -> Preset:
        """Where the sizes of V2A-Mapper's models are."""
        return load_preset("v2a-mapper-micro", ["weights.source=seeded", f"weights.seed={self.preset.weights.seed}"])

    @cached_property
    def clip(self) -> Any:
        return train_clip(self.v2a, self.folder, self.steps.clip, self.machine)

    @cached_property
    def clap(self) -> Any:
        return train_clap(self.v2a, self.folder, waveforms(CLIPS), self.steps.clap, self.machine)

    @cached_property
    def embeddings(self) -> Tensor:
        """CLAP's, of the sounds of :attr:`prepared`, (N, D), computed once."""
        path = self.folder / "embeddings.safetensors"
        if not path.is_file():
            save_file({"clap": encode_clap(self.v2a, self.clap, waveforms(CLIPS), self.machine.device)}, path)
        return load_file(path)["clap"]

    @cached_property
    def audioldm(self) -> Any:
        """Its UNet; VAE and vocoder are AudioLDM-2's."""
        latents = self.prepared["latents"]
        return train_audioldm(self.v2a, self.folder, latents, self.embeddings, self.steps.audioldm, self.machine)

    def export(self, target: Path, mapper: Path | None = None, v2a_mapper: Path | None = None) -> None:
        """Write what the micro presets load: float16 safetensors, configs, logs and a model card.

        ``mapper``, ``v2a_mapper``: trained ones that ship with them. ``notes.md`` and the ``probe.json`` of
        ``python -m micro probe`` in the training's folder go into the card.
        """
        audioldm2 = target / "audioldm2"
        audioldm2.mkdir(parents=True, exist_ok=True)
        for name in ("cavp", "timechat", "audiomae", "classifier"):
            _save_half(getattr(self, name), target / f"{name}.safetensors")
        save_text(self.text, audioldm2)
        self.vae.save_pretrained(audioldm2 / "vae")
        self.unet.save_pretrained(audioldm2 / "unet")
        self.save_vocoder(audioldm2 / "vocoder")
        DDIMScheduler(**self.preset.audio_models.audioldm2.scheduler).save_pretrained(audioldm2 / "scheduler")
        self._export_v2a(target)
        for part in ("audioldm2", "audioldm", "clip", "clap"):
            for path in (target / part).rglob("*.safetensors"):
                _halve(path)
        logs = target / "logs"
        logs.mkdir(exist_ok=True)
        for path in self.folder.glob("*.jsonl"):
            shutil.copy(path, logs / path.name)
        for name, trained in (("mapper", mapper), ("v2a-mapper", v2a_mapper)):
            if trained is not None:
                shutil.rmtree(target / name, ignore_errors=True)
                shutil.copytree(trained, target / name)
                _halve(target / name / MODEL)
                write_sums(target / name, (CONFIG, MODEL))
        notes = self.folder / "notes.md"
        (target / "README.md").write_text(self._card(target, notes.read_text() if notes.is_file() else ""))

    def _export_v2a(self, target: Path) -> None:
        """CLIP, CLAP and AudioLDM, whose VAE, vocoder and scheduler are those of AudioLDM-2 beside it."""
        self.clip.save_pretrained(target / "clip")
        self.clap.save_pretrained(target / "clap")
        self.audioldm.save_pretrained(target / "audioldm" / "unet")
        for name in ("vae", "vocoder", "scheduler"):
            shutil.rmtree(target / "audioldm" / name, ignore_errors=True)
            shutil.copytree(target / "audioldm2" / name, target / "audioldm" / name)

    def save_vocoder(self, folder: Path) -> None:
        """The kind that the preset names: the trained HiFi-GAN or Griffin-Lim. Nothing of the other stays."""
        settings = self.preset.audio_models.audioldm2.vocoder
        vocoder = self.vocoder if vocoder_name(settings) == HIFIGAN else build_vocoder(settings)
        shutil.rmtree(folder, ignore_errors=True)
        vocoder.save_pretrained(folder)

    def _card(self, target: Path, notes: str) -> str:
        rows = []
        for path in sorted(target.rglob("*.safetensors")):
            if "negatives" in path.parts:  # kept there by whoever generated with the shipped mapper
                continue
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            rows.append(f"| `{path.relative_to(target)}` | {path.stat().st_size / 1e6:.2f} MB | `{digest}` |")
        stages = []
        places = set()
        for path in sorted((target / "logs").glob("*.jsonl")):
            last = json.loads(path.read_text().splitlines()[-1])
            held_out = {k: v for k, v in last.items() if k.startswith("held_out_")} or last
            figures = ", ".join(
                f"{k.removeprefix('held_out_')} {v:.3g}"
                for k, v in held_out.items()
                if k not in ("step", "seconds", "on")
            )
            places.add(last["on"])
            stages.append(f"| {path.stem} | {last['step']} | {last['seconds'] / 60:.1f} | {figures} |")
        return (
            "# Weights of the micro preset\n\nSmall models of the same kinds as the paper's, trained on the rendered "
            f"world of `micro/world/render.py` by `python -m micro train` with seed {self.preset.weights.seed}, on "
            f"{' and '.join(sorted(places))}. They know twelve classes of drawn things and nothing else. "
            "Apache-2.0, like the code.\n\n"
            "| stage | steps | minutes | on held-out scenes, of held-out sizes |\n| --- | --- | --- | --- |\n"
            + "\n".join(stages)
            + f"\n\nThe logs are in `logs/`.\n\n{notes}\n"
            + self._probed()
            + "| file | size | sha256 |\n| --- | --- | --- |\n"
            + "\n".join(rows)
            + "\n"
        )

    def _probed(self) -> str:
        path = self.folder / "probe.json"
        return f"{card_section(json.loads(path.read_text()))}\n" if path.is_file() else ""


STAGES = tuple(vars(Steps()))


def _half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: (t.half() if t.is_floating_point() else t).contiguous() for name, t in state.items()}


def _save_half(model: nn.Module, path: Path) -> None:
    save_file(_half(dict(model.state_dict())), path, metadata={"format": "pt"})


def _halve(path: Path) -> None:
    save_file(_half(load_file(path)), path, metadata={"format": "pt"})
