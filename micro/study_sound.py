"""Sound of the study's conditions: tokens, from a mapper or without one, through the audio model of its preset.

A condition's folder has ``<clip>.wav``, ``tokens.safetensors`` and ``made.json``, what decided the sound: clips that
the same made are not made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from common.errors import InputError
from common.hashing import sha256_file
from common.registry import load_part
from common.writing import replacing, write_text
from generate.mel import LogMel
from generate.sampling import Sound
from generate.schedulers import mapper_seeds, step_seeds
from micro.data import SAMPLES
from micro.study import Condition, Study, another_of_its_class, features, label_given, rows, scene
from micro.tasks import Task
from micro.world.render import KINDS
from pipeline.encoders.audiomae import normalise_waveform
from pipeline.media import decode_clip
from pipeline.media.writing import read_wav, write_wav
from presets import Preset
from trainer.registry import MFMMapper

SYNTHESIS_BATCH = 12
_DECIDE = ("scheduler", "steps", "guidance_scale", "negative_prompt", "eta", "seed", "precision")


def sound_tasks(study: Study, conditions: Sequence[Condition], clip_ids: Sequence[str], device: str) -> list[Task]:
    from micro.study_parts import mapper_task

    tasks = []
    for condition in conditions:
        after = () if condition.seed is None else (mapper_task(condition.system, condition.seed),)
        arguments = (study, condition, tuple(clip_ids), device)
        tasks.append(Task(f"sound of {condition.name}", make_sound, arguments, 10, after, device))
    return tasks


def generation_preset(study: Study, condition: Condition) -> Preset:
    """For Figure 3 with the option ``fast``: many epochs are compared with each other, not with the table."""
    return study.preset_of(condition.system, options="fast" if condition.epoch else "")


def make_sound(study: Study, condition: Condition, clip_ids: Sequence[str], device: str) -> None:
    """wav of the clips; those that the same mapper, models and settings made are not made again."""
    folder = study.folder / condition.place
    made_by = _decided_by(study, condition)
    path = folder / "made.json"
    same = path.is_file() and json.loads(path.read_text()) == made_by
    if not same:
        for old in [*folder.glob("*.wav"), *folder.glob("tokens.safetensors")]:
            old.unlink()
        write_text(path, json.dumps(made_by, indent=1))
    todo = [clip_id for clip_id in clip_ids if not (folder / f"{clip_id}.wav").is_file()]
    if not todo:
        return
    preset = generation_preset(study, condition)
    if condition.kind == "truth":
        for clip_id in todo:
            write_wav(folder / f"{clip_id}.wav", true_waveform(study, clip_id), preset.media.sample_rate)
        return
    model = audio_model(study, condition.system, device)
    tokens = None if condition.kind == "ceiling" else _kept_tokens(study, condition, clip_ids, model, device)
    size = SYNTHESIS_BATCH if device == "cpu" else min(len(clip_ids), 4 * SYNTHESIS_BATCH)
    for first in range(0, len(todo), size):
        part = todo[first : first + size]
        if tokens is None:
            waveforms = model.decode(true_latents(study, model, part), preset.media.samples).numpy()
        else:
            waveforms = _synthesise(preset, condition, model, part, np.stack([tokens[i] for i in part]), size)
        for clip_id, waveform in zip(part, waveforms, strict=True):
            write_wav(folder / f"{clip_id}.wav", waveform, model.sample_rate)


def _synthesise(
    preset: Preset, condition: Condition, model: Any, clip_ids: Sequence[str], tokens: np.ndarray, rows: int
) -> np.ndarray:
    labels = [label_given(condition, clip_id) for clip_id in clip_ids]
    generation = preset.generation
    samples = round(preset.media.seconds * model.sample_rate)
    noise, seeds = model.noise(clip_ids, generation.seed), step_seeds(clip_ids, generation.seed)
    at = torch.from_numpy(tokens).to(model.device)
    return Sound(model.synthesise(at, labels, noise, seeds, samples, generation, rows)).result()


def _decided_by(study: Study, condition: Condition) -> dict[str, Any]:
    """What decides the sound of a condition, as JSON gives it back."""
    preset = generation_preset(study, condition)
    out: dict[str, Any] = {"kind": condition.kind, "video": condition.video, "label": condition.label}
    if condition.kind != "truth":
        out["models"] = models_digest(preset)
        out |= {name: getattr(preset.generation, name) for name in _DECIDE}
    if condition.kind == "oracle":  # whose features were made again has other tokens
        target = features(study, (preset.target,)).arrays[preset.target]
        out["tokens"] = hashlib.sha256(np.ascontiguousarray(target).tobytes()).hexdigest()
    if condition.kind == "mapper":
        weights = study.mapper_folder(condition) / "model.safetensors"
        if not weights.is_file():
            raise InputError(f"{weights} does not exist: the part 'mappers' of the study comes before its sound")
        out["mapper"] = sha256_file(weights)
    return out


def models_digest(preset: Preset) -> str:
    """Of the preset's audio model: its files if they ship, or what else the preset says of its weights.

    Not of encoders, whose features are in the cache under their own identity, and not of mappers.
    """
    if preset.weights.source == "shipped" and not preset.weights.folders:
        return _files_digest(preset.weights.path / preset.audio_model)
    return repr(preset.weights)


@lru_cache(maxsize=4)
def _files_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)}={sha256_file(path)}".encode())
    return digest.hexdigest()


@lru_cache(maxsize=2)
def audio_model(study: Study, system: str, device: str) -> Any:
    """Of the system's preset, once a process; of AudioLDM-2 the negative conditions are kept in the study's folder."""
    preset = study.preset_of(system)
    return load_part(preset.audio.loader)(preset, device, study.folder)


# --- tokens ---------------------------------------------------------------------------------------


def _kept_tokens(
    study: Study, condition: Condition, clip_ids: Sequence[str], model: Any, device: str
) -> dict[str, np.ndarray]:
    """The tokens (T_c, D_c) of every clip, which are written once for the token error."""
    path = study.folder / condition.place / "tokens.safetensors"
    tokens = load_file(path) if path.is_file() else {}
    if not set(clip_ids) <= set(tokens):
        made = tokens_of(study, condition, clip_ids, model, device)
        tokens = {i: np.ascontiguousarray(made[row]) for row, i in enumerate(clip_ids)}
        with replacing(path) as temporary:
            save_file(tokens, temporary)
    return tokens


def tokens_of(
    study: Study, condition: Condition, clip_ids: Sequence[str], model: Any, device: str = "cpu"
) -> np.ndarray:
    """What a condition gives the audio model for clips: (N, T_c, D_c), float32."""
    preset = study.preset_of(condition.system)
    if condition.kind == "oracle":
        joined = features(study, (preset.target,))
        return joined.arrays[preset.target][rows(joined, clip_ids)].astype(np.float32)
    if condition.kind == "label":
        branch = model.load_negative_branch().to(model.device).eval()
        made = {}
        for label in KINDS:
            text, mask = model.flan_t5.encode([label])
            made[label] = branch(label, text, mask)[0].cpu().numpy()
        return np.stack([made[scene(clip_id).label] for clip_id in clip_ids])
    seen = another_of_its_class(clip_ids) if condition.video == "another" else clip_ids
    return predict(study, study.mapper_folder(condition), seen, device)


@torch.no_grad()
def predict(study: Study, mapper_folder: Path, clip_ids: Sequence[str], device: str = "cpu") -> np.ndarray:
    """Tokens (N, T_c, D_c) that a trained mapper predicts from the video of clips."""
    mapper = MFMMapper.from_pretrained(mapper_folder, device)
    names = tuple(mapper.spec.mapper.encoders)
    joined = features(study, names)
    at = rows(joined, clip_ids)
    visual = {name: torch.from_numpy(joined.arrays[name][at]).float().to(device) for name in names}
    return mapper.sample(visual, mapper_seeds(clip_ids)).cpu().numpy()


def load_tokens(study: Study, condition: Condition, clip_ids: Sequence[str]) -> np.ndarray:
    tokens = load_file(study.folder / condition.place / "tokens.safetensors")
    return np.stack([tokens[clip_id] for clip_id in clip_ids])


# --- true sound -----------------------------------------------------------------------------------


def true_waveform(study: Study, clip_id: str) -> np.ndarray:
    path = next(clip.path for clip in study.manifest.clips if clip.clip_id == clip_id)
    waveform = decode_clip(path, study.preset.media).waveform
    assert waveform is not None
    return waveform


@torch.no_grad()
def true_latents(study: Study, model: Any, clip_ids: Sequence[str]) -> Tensor:
    """Latents (B, C, H, W) of the clips' own sound."""
    waveforms = torch.from_numpy(np.stack([true_waveform(study, clip_id) for clip_id in clip_ids]))
    mel = LogMel()(normalise_waveform(waveforms, SAMPLES))[:, None].to(model.device)
    latents: Tensor = model.vae.encode(mel).latent_dist.mode() * model.vae.config.scaling_factor
    return latents


def load_sound(study: Study, condition: Condition, clip_ids: Sequence[str]) -> np.ndarray:
    """Waveforms (N, samples) of clips in a condition."""
    folder = study.folder / condition.place
    return np.stack([read_wav(folder / f"{clip_id}.wav")[0] for clip_id in clip_ids])


def is_made(study: Study, condition: Condition, clip_ids: Sequence[str]) -> bool:
    folder = study.folder / condition.place
    return all((folder / f"{clip_id}.wav").is_file() for clip_id in clip_ids)
