"""Dataclasses of a preset, and the loader that checks a YAML file against them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

HERE = Path(__file__).parent
_STRICT = ConfigDict(extra="forbid")


class PresetError(ValueError):
    """The preset does not exist, or a field of it is unknown or has the wrong type."""

    exit_code = 3


@dataclass(config=_STRICT, frozen=True)
class MediaConfig:
    """The clip contract of paper section 4.1.2: 10 s, 4 frames per second, 16 kHz mono."""

    seconds: float = 10.0
    frames_per_second: int = 4
    frame_size: int = 224
    sample_rate: int = 16_000
    backend: Literal["decord", "pyav"] = "decord"
    resize: Literal["antialiased", "swscale"] = "antialiased"  # CAVP's (PIL bilinear), or TimeChat's (decord)
    silence_threshold_db: float = -60.0  # peak level relative to full scale

    @property
    def frames(self) -> int:
        return round(self.seconds * self.frames_per_second)

    @property
    def samples(self) -> int:
        return round(self.seconds * self.sample_rate)


@dataclass(config=_STRICT, frozen=True)
class CAVPConfig:
    """SlowOnly ResNet of Diff-Foley's video branch; the defaults are the published sizes."""

    width: int = 64
    blocks: list[int] = Field(default_factory=lambda: [3, 4, 6, 3])
    inflated: list[bool] = Field(default_factory=lambda: [False, False, True, True])
    embedding: int = 512


@dataclass(config=_STRICT, frozen=True)
class TimeChatConfig:
    """ViT, time-stamped frame Q-Former and sliding video Q-Former; defaults are the published sizes."""

    image_size: int = 224
    patch_size: int = 14
    vit_width: int = 1408
    vit_mlp: int = 6144
    vit_layers: int = 39
    vit_heads: int = 16
    qformer_width: int = 768
    qformer_mlp: int = 3072
    qformer_heads: int = 12
    frame_qformer_layers: int = 12
    frame_queries: int = 32
    video_qformer_layers: int = 2
    video_queries: int = 32
    max_frames: int = 96
    vocabulary: int = 30_523
    llama_width: int = 4096
    window: int = 4
    stride: int = 4
    queries: Literal["mean", "keep"] = "mean"
    space: Literal["qformer", "llama"] = "qformer"


@dataclass(config=_STRICT, frozen=True)
class AudioMAEConfig:
    """AudioMAE ViT encoder and AudioLDM-2's pooling; defaults are the published sizes."""

    width: int = 768
    mlp: int = 3072
    layers: int = 12
    heads: int = 12
    patch_size: int = 16
    frames: int = 1024
    mel_bins: int = 128
    contextual_layers: int = 3
    pool: int = 8
    mean: float = -4.2677393
    std: float = 4.5689974


@dataclass(config=_STRICT, frozen=True)
class FlanT5Config:
    """Label encoder: the encoder half of FLAN-T5 (AudioLDM-2's ``text_encoder_2``)."""

    width: int = 1024
    mlp: int = 2816
    layers: int = 24
    heads: int = 16
    head_width: int = 64
    vocabulary: int = 32_128
    max_tokens: int = 128


@dataclass(config=_STRICT, frozen=True)
class EncodersConfig:
    cavp: CAVPConfig = Field(default_factory=CAVPConfig)
    timechat: TimeChatConfig = Field(default_factory=TimeChatConfig)
    audiomae: AudioMAEConfig = Field(default_factory=AudioMAEConfig)
    flan_t5: FlanT5Config = Field(default_factory=FlanT5Config)


@dataclass(config=_STRICT, frozen=True)
class WeightsConfig:
    """Where frozen weights come from.

    ``official``: the authors' files, found by name in ``folder``. ``shipped``: the small models of this
    repository, in ``folder`` beside the presets (or an absolute one). ``seeded``: random weights that follow
    from ``seed`` alone; they prove the plumbing and nothing about sound.
    """

    source: Literal["official", "shipped", "seeded"] = "official"
    folder: str = "weights"
    audioldm2: str = ""  # another diffusers folder or a hub id for generation; default: <folder>/audioldm2
    seed: int = 0

    @property
    def path(self) -> Path:
        """The folder of the files."""
        return HERE / self.folder if self.source == "shipped" else Path(self.folder)


@dataclass(config=_STRICT, frozen=True)
class CacheConfig:
    clips_per_shard: int = 256
    dtype: Literal["float16", "float32"] = "float16"
    encode_batch: int = 4
    decode_workers: int = 2
    decode_timeout_seconds: float = 60.0
    max_failure_rate: float = 0.5


@dataclass(config=_STRICT, frozen=True)
class MapperConfig:
    """Fusion and GPT-2 mapper (paper sections 3.2.2 and 3.4)."""

    kind: str = "gpt2"
    encoders: list[str] = Field(default_factory=lambda: ["cavp", "timechat"])
    fusion: str = "concat"
    initialise: str = "scratch"  # or audioldm2, shipped, the folder or file of a GPT-2 or a mapper: trainer.initialise
    layers: int = 12
    width: int = 768
    heads: int = 12
    max_positions: int = 1024
    dropout: float = 0.1
    diffusion_steps: int = 1000  # of the diffusion mapper alone
    sampling_steps: int = 50


@dataclass(config=_STRICT, frozen=True)
class TrainingConfig:
    """Optimisation of paper section 4.1.2.

    ``data``: the cache in ``memory`` or as a ``stream``; ``auto`` takes memory where it fits.
    ``accumulate`` splits a process's part of the global batch into that many backward passes.
    """

    data: Literal["auto", "memory", "stream"] = "auto"
    accumulate: int = 1
    compile: bool = False
    epochs: int = 40
    global_batch: int = 48
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    betas: list[float] = Field(default_factory=lambda: [0.9, 0.999])
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine"] = "constant"  # cosine: to zero at the last epoch
    gradient_clip: float | None = None
    loss: Literal["mse", "l1"] = "mse"
    seed: int = 0
    log_every: int = 50
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"


@dataclass(config=_STRICT, frozen=True)
class AudioLDM2Config:
    """Keyword arguments of the diffusers and transformers classes AudioLDM-2 is made of."""

    unet: dict[str, Any] = Field(default_factory=dict)
    vae: dict[str, Any] = Field(default_factory=dict)
    vocoder: dict[str, Any] = Field(default_factory=dict)
    scheduler: dict[str, Any] = Field(default_factory=dict)
    language_model: dict[str, Any] = Field(default_factory=dict)
    clap: dict[str, Any] = Field(default_factory=dict)


@dataclass(config=_STRICT, frozen=True)
class GenerationConfig:
    """Sampling of paper section 4.1.2.

    ``scheduler``: a scheduler class of diffusers. ``decode_batch``: clips that the VAE and the vocoder take
    at once. ``overlap_seconds``: of neighbouring windows of a long video. ``precision`` and ``channels_last``
    concern the UNet.
    """

    scheduler: str = "DDIMScheduler"
    steps: int = 100
    guidance_scale: float = 3.5
    eta: float = 0.0
    negative_prompt: str = "low quality, average quality"
    batch: int = 4
    decode_batch: int = 4
    reuse_keys: bool = True
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool = False
    overlap_seconds: float = 2.0
    seed: int = 0


@dataclass(config=_STRICT, frozen=True)
class EvaluationConfig:
    """Feature networks of the evaluation (paper section 4.2); the defaults are those of Table 1."""

    networks: list[str] = Field(default_factory=lambda: ["panns", "vggish", "passt", "imagebind", "synchformer"])


@dataclass(config=_STRICT, frozen=True)
class Preset:
    """Everything a run needs to know besides its clips."""

    name: str
    note: str = ""
    media: MediaConfig = Field(default_factory=MediaConfig)
    encoders: EncodersConfig = Field(default_factory=EncodersConfig)
    weights: WeightsConfig = Field(default_factory=WeightsConfig)
    cache: CacheConfig = Field(default_factory=CacheConfig)
    mapper: MapperConfig = Field(default_factory=MapperConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    audioldm2: AudioLDM2Config = Field(default_factory=AudioLDM2Config)
    generation: GenerationConfig = Field(default_factory=GenerationConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def available_presets() -> list[str]:
    return sorted(path.stem for path in HERE.glob("*.yaml"))


def _merge(base: dict[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in override.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        if not separator or not path:
            raise PresetError(f"'{assignment}' is not of the form section.field=value")
        value: Any = yaml.safe_load(text)
        for key in reversed(path.split(".")):
            value = {key: value}
        values = _merge(values, value)
    return values


def preset_from_dict(values: Mapping[str, Any], where: str = "preset") -> Preset:
    """Check a plain dictionary; raises :class:`PresetError` naming each wrong field."""
    try:
        return TypeAdapter(Preset).validate_python(dict(values))
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise PresetError(f"{where} is not a valid preset:\n" + "\n".join(lines)) from error


def load_preset(name: str, assignments: Iterable[str] = ()) -> Preset:
    """Load a preset by name (``micro``, ``paper``) or by path of a YAML file.

    ``assignments`` are ``section.field=value`` strings that win over the file, for example
    ``training.epochs=3``. Raises :class:`PresetError` for an unknown preset or field.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else HERE / f"{name}.yaml"
    if not path.is_file():
        raise PresetError(
            f"unknown preset '{name}': there are {', '.join(available_presets())}, or give the path of a .yaml file"
        )
    values = yaml.safe_load(path.read_text()) or {}
    if not isinstance(values, dict):
        raise PresetError(f"{path} is not a mapping of sections")
    return preset_from_dict(_merge({"name": path.stem, **values}, _parse_assignments(assignments)), str(path))
