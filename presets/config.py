"""Dataclasses of a preset with the range of every setting, and the loader that checks a YAML file against them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from common.errors import PresetError
from presets.checks import (
    Arguments,
    Batch,
    Count,
    Fraction,
    Heads,
    Layers,
    Number,
    Seconds,
    Seed,
    Share,
    Width,
    Workers,
    checked,
    short,
)
from presets.text import assigned_value, merge, read_yaml

HERE = Path(__file__).parent
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

_SUFFIXES = (".yaml", ".yml")
VISUAL_ENCODERS = ("cavp", "timechat")  # streams that a mapper can read


@dataclass(config=_STRICT, frozen=True)
class MediaConfig:
    """The clip contract of paper section 4.1.2: 10 s, 4 frames per second, 16 kHz mono."""

    seconds: Seconds = 10.0
    frames_per_second: Annotated[int, Number, Field(ge=1, le=1000)] = 4
    frame_size: Annotated[int, Number, Field(ge=16, le=4096)] = 224
    sample_rate: Annotated[int, Number, Field(ge=1000, le=1_000_000)] = 16_000
    backend: Literal["auto", "decord", "pyav"] = "auto"  # auto: PyAV, and decord for its own resize
    resize: Literal["antialiased", "swscale"] = "antialiased"  # CAVP's (PIL bilinear), or TimeChat's (decord)
    silence_threshold_db: Annotated[float, Number, Field(ge=-200, le=0)] = -60.0  # peak level relative to full scale

    @model_validator(mode="after")
    def _has_frames(self) -> MediaConfig:
        if not 2 <= self.seconds * self.frames_per_second <= 100_000:
            raise ValueError(
                f"media.seconds is {self.seconds:g} and media.frames_per_second {self.frames_per_second}, and they "
                f"must make 2 to 100000 frames"
            )
        return self

    @property
    def frames(self) -> int:
        return round(self.seconds * self.frames_per_second)

    @property
    def samples(self) -> int:
        return round(self.seconds * self.sample_rate)


def _check_heads(prefix: str, width: int, heads: int) -> None:
    if width % heads:
        raise ValueError(f"{prefix}width is {width}, and must be a multiple of {prefix}heads ({heads})")


@dataclass(config=_STRICT, frozen=True)
class CAVPConfig:
    """SlowOnly ResNet of Diff-Foley's video branch; the defaults are the published sizes."""

    width: Width = 64
    blocks: Annotated[list[Layers], Field(min_length=4, max_length=4)] = Field(default_factory=lambda: [3, 4, 6, 3])
    inflated: Annotated[list[bool], Field(min_length=4, max_length=4)] = Field(
        default_factory=lambda: [False, False, True, True]
    )
    embedding: Width = 512


@dataclass(config=_STRICT, frozen=True)
class TimeChatConfig:
    """ViT, time-stamped frame Q-Former and sliding video Q-Former; defaults are the published sizes."""

    image_size: Width = 224
    patch_size: Width = 14
    vit_width: Width = 1408
    vit_mlp: Width = 6144
    vit_layers: Layers = 39
    vit_heads: Heads = 16
    qformer_width: Width = 768
    qformer_mlp: Width = 3072
    qformer_heads: Heads = 12
    frame_qformer_layers: Layers = 12
    frame_queries: Width = 32
    video_qformer_layers: Layers = 2
    video_queries: Width = 32
    max_frames: Count = 96
    vocabulary: Count = 30_523
    llama_width: Width = 4096
    window: Count = 4
    stride: Count = 4
    queries: Literal["mean", "keep"] = "mean"
    space: Literal["qformer", "llama"] = "qformer"

    @model_validator(mode="after")
    def _fits(self) -> TimeChatConfig:
        _check_heads("encoders.timechat.vit_", self.vit_width, self.vit_heads)
        _check_heads("encoders.timechat.qformer_", self.qformer_width, self.qformer_heads)
        return self


@dataclass(config=_STRICT, frozen=True)
class AudioMAEConfig:
    """AudioMAE ViT encoder and AudioLDM-2's pooling; defaults are the published sizes."""

    width: Width = 768
    mlp: Width = 3072
    layers: Layers = 12
    heads: Heads = 12
    patch_size: Width = 16
    frames: Count = 1024
    mel_bins: Width = 128
    contextual_layers: Layers = 3
    pool: Width = 8
    mean: Annotated[float, Number, Field(ge=-1000, le=1000)] = -4.2677393
    std: Annotated[float, Number, Field(gt=0, le=1000)] = 4.5689974

    @model_validator(mode="after")
    def _fits(self) -> AudioMAEConfig:
        _check_heads("encoders.audiomae.", self.width, self.heads)
        if self.contextual_layers > self.layers:
            raise ValueError(
                f"encoders.audiomae.contextual_layers is {self.contextual_layers}, and must be at most "
                f"encoders.audiomae.layers ({self.layers})"
            )
        if self.pool * self.patch_size > min(self.frames, self.mel_bins):
            raise ValueError(
                f"encoders.audiomae.pool is {self.pool}, and must be at most the {min(self.frames, self.mel_bins)} "
                f"frames or mel_bins in patches of {self.patch_size}"
            )
        return self


@dataclass(config=_STRICT, frozen=True)
class FlanT5Config:
    """Label encoder: the encoder half of FLAN-T5 (AudioLDM-2's ``text_encoder_2``)."""

    width: Width = 1024
    mlp: Width = 2816
    layers: Layers = 24
    heads: Heads = 16
    head_width: Width = 64
    vocabulary: Count = 32_128
    max_tokens: Count = 128


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
    audioldm2: str = ""  # another diffusers folder, or a hub id; default: <folder>/audioldm2
    seed: Seed = 0

    @property
    def path(self) -> Path:
        """The folder of the files."""
        return HERE / self.folder if self.source == "shipped" else Path(self.folder)


@dataclass(config=_STRICT, frozen=True)
class CacheConfig:
    clips_per_shard: Count = 256
    dtype: Literal["float16", "float32"] = "float16"
    encode_batch: Batch = 4
    decode_workers: Workers = 2
    decode_timeout_seconds: Seconds = 60.0
    max_failure_rate: Share = 0.5


@dataclass(config=_STRICT, frozen=True)
class MapperConfig:
    """Fusion and GPT-2 mapper (paper sections 3.2.2 and 3.4)."""

    kind: Literal["gpt2", "diffusion"] = "gpt2"
    encoders: list[str] = Field(default_factory=lambda: ["cavp", "timechat"])
    fusion: Literal["concat", "add", "cat"] = "concat"
    initialise: str = "scratch"  # or audioldm2, shipped, or where a GPT-2 or a mapper is: trainer.initialise
    layers: Layers = 12
    width: Width = 768
    heads: Heads = 12
    max_positions: Annotated[int, Number, Field(ge=1, le=65_536)] = 1024
    dropout: Fraction = 0.1
    diffusion_steps: Annotated[int, Number, Field(ge=1, le=100_000)] = 1000  # of the diffusion mapper alone
    sampling_steps: Annotated[int, Number, Field(ge=1, le=100_000)] = 50

    @model_validator(mode="after")
    def _fits(self) -> MapperConfig:
        _check_heads("mapper.", self.width, self.heads)
        names = set(self.encoders)
        if not names or not names <= set(VISUAL_ENCODERS) or len(names) < len(self.encoders):
            raise ValueError(
                f"mapper.encoders is {short(self.encoders)}, and must name one or more of "
                f"{', '.join(VISUAL_ENCODERS)}, each once"
            )
        if self.sampling_steps > self.diffusion_steps:
            raise ValueError(
                f"mapper.sampling_steps is {self.sampling_steps}, and must be at most mapper.diffusion_steps "
                f"({self.diffusion_steps})"
            )
        return self


@dataclass(config=_STRICT, frozen=True)
class TrainingConfig:
    """Optimisation of paper section 4.1.2.

    ``data``: the cache in ``memory`` or as a ``stream``; ``auto`` takes memory where it fits.
    ``accumulate`` splits a process's part of the global batch into that many backward passes.
    """

    data: Literal["auto", "memory", "stream"] = "auto"
    accumulate: Batch = 1
    compile: bool = False
    epochs: Count = 40
    global_batch: Batch = 48
    learning_rate: Annotated[float, Number, Field(gt=0, le=100)] = 1e-3
    weight_decay: Annotated[float, Number, Field(ge=0, le=100)] = 0.01
    betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = Field(default_factory=lambda: [0.9, 0.999])
    warmup_steps: Annotated[int, Number, Field(ge=0, le=1_000_000_000)] = 0
    schedule: Literal["constant", "cosine"] = "constant"  # cosine: to zero at the last epoch
    gradient_clip: Annotated[float, Number, Field(gt=0, le=1_000_000)] | None = None
    loss: Literal["mse", "l1"] = "mse"
    seed: Seed = 0
    log_every: Count = 50
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"


@dataclass(config=_STRICT, frozen=True)
class AudioLDM2Config:
    """Keyword arguments of the diffusers and transformers classes AudioLDM-2 is made of."""

    unet: Arguments = Field(default_factory=dict)
    vae: Arguments = Field(default_factory=dict)
    vocoder: Arguments = Field(default_factory=dict)
    scheduler: Arguments = Field(default_factory=dict)
    language_model: Arguments = Field(default_factory=dict)
    clap: Arguments = Field(default_factory=dict)


@dataclass(config=_STRICT, frozen=True)
class GenerationConfig:
    """Sampling of paper section 4.1.2.

    ``scheduler``: a scheduler class of diffusers. ``decode_batch``: clips that the VAE and the vocoder take
    at once. ``overlap_seconds``: of neighbouring windows of a long video. ``precision``, ``channels_last`` and
    ``compile`` concern the UNet. Compiled, or on an accelerator, it is given few shapes: text is padded and the last
    batch filled up to ``batch``.
    """

    scheduler: str = "DDIMScheduler"
    steps: Annotated[int, Number, Field(ge=1)] = 100  # at most those of the noise schedule: Preset
    guidance_scale: Annotated[float, Number, Field(ge=0, le=1000)] = 3.5
    eta: Share = 0.0
    negative_prompt: str = "low quality, average quality"
    batch: Batch = 4
    decode_batch: Batch = 4
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool = False
    compile: bool = False
    overlap_seconds: Seconds = 2.0
    seed: Seed = 0


@dataclass(config=_STRICT, frozen=True)
class EvaluationConfig:
    """Feature networks of the evaluation (paper section 4.2); the defaults are those of Table 1."""

    networks: Annotated[list[str], Field(min_length=1)] = Field(
        default_factory=lambda: ["panns", "vggish", "passt", "imagebind", "synchformer"]
    )


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

    @model_validator(mode="after")
    def _fits(self) -> Preset:
        """Compare settings of different sections."""
        overlap, window = self.generation.overlap_seconds, self.media.seconds
        if overlap >= window:
            raise ValueError(
                f"generation.overlap_seconds is {overlap:g}, and must be below media.seconds ({window:g}), the length "
                f"of a window"
            )
        schedule = self.audioldm2.scheduler
        length, offset = schedule.get("num_train_timesteps", 1000), schedule.get("steps_offset", 0)
        if not (type(length) is type(offset) is int and 0 <= offset < length):
            raise ValueError(
                f"audioldm2.scheduler.num_train_timesteps is {short(length)} and steps_offset {short(offset)}, and "
                f"they must be whole numbers, the second from 0 to below the first"
            )
        if self.generation.steps > (most := length - offset):
            raise ValueError(
                f"generation.steps is {self.generation.steps}, and must be a whole number from 1 to {most}: the noise "
                f"schedule has no more (audioldm2.scheduler.num_train_timesteps, steps_offset)"
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def available_presets() -> list[str]:
    return sorted(path.stem for path in HERE.glob("*.yaml"))


def available_options() -> list[str]:
    """What can follow the name of a preset after a comma: small files of settings, merged over it."""
    return sorted(path.stem for path in (HERE / "options").glob("*.yaml"))


def preset_from_dict(values: Mapping[str, Any], where: str = "preset") -> Preset:
    """Check a plain dictionary; raises :class:`PresetError` with a sentence for each wrong setting."""
    return checked(Preset, values, where)


def load_preset(name: str, assignments: Iterable[str] = ()) -> Preset:
    """Load a preset by name (``micro``, ``paper``) or by path of a YAML file, with options: ``paper,fast``.

    The options win over the file, a later one over an earlier, and leave the preset's ``name`` as it is.
    ``assignments`` are ``section.field=value`` strings that win over both, for example
    ``training.epochs=3``. Raises :class:`PresetError` for an unknown preset or option, and with a sentence for each
    setting that is unknown, of the wrong type or out of range.
    """
    base, options = _split_options(name)
    path = Path(base) if base.endswith(_SUFFIXES) else HERE / f"{base}.yaml"
    try:
        there = path.is_file()
    except (OSError, ValueError):  # a name that is too long, or with a NUL
        there = False
    if not there:
        raise PresetError(
            f"unknown preset {short(base)}: there are {', '.join(available_presets())}, or give the path of a .yaml "
            f"file"
        )
    values = merge({"name": path.stem}, read_yaml(path))
    for option in options:
        if option not in (known := available_options()):
            raise PresetError(f"unknown option {short(option)} of preset {short(base)}: there is {', '.join(known)}")
        values = merge(values, read_yaml(HERE / "options" / f"{option}.yaml"))
    assigned: dict[str, Any] = {}
    for assignment in assignments:
        assigned = merge(assigned, assigned_value(Preset, assignment))
    return preset_from_dict(merge(values, assigned), f"preset {name}" + (" with --set" if assigned else ""))


def _split_options(name: str) -> tuple[str, list[str]]:
    """A preset and its options; the path of a file may have commas of its own."""
    parts = name.split(",")
    last = max((number for number, part in enumerate(parts) if part.endswith(_SUFFIXES)), default=0)
    return ",".join(parts[: last + 1]), [part.strip() for part in parts[last + 1 :]]
