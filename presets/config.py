"""Dataclasses of a preset with the range of every setting, and the loader that checks a YAML file against them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from common.errors import PresetError
from presets.audio_models import AUDIO_MODELS, AudioModelsConfig
from presets.checks import (
    STRICT,
    Arguments,
    Batch,
    Count,
    Fraction,
    Heads,
    Layers,
    Number,
    Prompt,
    Seconds,
    Seed,
    Share,
    Width,
    Workers,
    check_heads,
    checked,
    short,
)
from presets.encoders import ENCODERS, EncodersConfig, reads
from presets.mappers import FUSIONS, MAPPERS
from presets.official import CheckpointFile
from presets.sections import NameOf
from presets.text import assigned_value, merge, read_yaml

HERE = Path(__file__).parent
_SUFFIXES = (".yaml", ".yml")


@dataclass(config=STRICT, frozen=True)
class MediaConfig:
    """The clip contract of paper section 4.1.2: 10 s, 4 frames per second, 16 kHz mono."""

    seconds: Seconds = 10.0
    frames_per_second: Annotated[int, Number, Field(ge=1, le=1000)] = 4
    frame_size: Annotated[int, Number, Field(ge=16, le=4096)] = 224
    sample_rate: Annotated[int, Number, Field(ge=1000, le=1_000_000)] = 16_000
    backend: Literal["auto", "decord", "pyav"] = "auto"  # PyAV; for decord's resize decord, if installed
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


@dataclass(config=STRICT, frozen=True)
class WeightsConfig:
    """Where frozen weights come from.

    ``official``: the authors' files, found by name in ``folder``. ``shipped``: the small models of this
    repository, in ``folder`` beside the presets (or an absolute one). ``seeded``: random weights that follow
    from ``seed`` alone; they prove the plumbing and nothing about sound. ``folders``: where else than in ``folder`` a
    :class:`presets.official.Repository` is, by its name: a folder, or a hub id.
    """

    source: Literal["official", "shipped", "seeded"] = "official"
    folder: str = "weights"
    folders: dict[str, str] = Field(default_factory=dict)
    mapper: str = "mapper"  # of the shipped ones, the folder of the mapper in it
    seed: Seed = 0

    @property
    def path(self) -> Path:
        """The folder of the files."""
        return HERE / self.folder if self.source == "shipped" else Path(self.folder)


@dataclass(config=STRICT, frozen=True)
class CacheConfig:
    clips_per_shard: Count = 256
    dtype: Literal["float16", "float32"] = "float16"
    encode_batch: Batch = 4
    decode_workers: Workers = 2
    decode_timeout_seconds: Seconds = 60.0
    max_failure_rate: Share = 0.5


def _can_be_mapped(encoder: str) -> bool:
    return reads(encoder) == "frames"


@dataclass(config=STRICT, frozen=True)
class MapperConfig:
    """Fusion and mapper (paper sections 3.2.2 and 3.4).

    ``standardise``: each vector of each stream is divided by its root mean square before fusion.
    ``options``: what a kind of mapper has of its own; its class checks them.
    """

    kind: Annotated[str, NameOf(MAPPERS)] = "gpt2"
    encoders: list[str] = Field(default_factory=lambda: ["cavp", "timechat"])
    fusion: Annotated[str, NameOf(FUSIONS)] = "concat"
    standardise: bool = False
    initialise: str = "scratch"  # or audioldm2, shipped, or where a GPT-2 or a mapper is: trainer.initialise
    layers: Layers = 12
    width: Width = 768
    heads: Heads = 12
    head_width: Width | None = None  # values of a head; null: width / heads
    max_positions: Annotated[int, Number, Field(ge=1, le=65_536)] = 1024
    dropout: Fraction = 0.1
    diffusion_steps: Annotated[int, Number, Field(ge=1, le=100_000)] = 1000  # of diffusion mappers alone
    sampling_steps: Annotated[int, Number, Field(ge=1, le=100_000)] = 50
    options: Arguments = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits(self) -> MapperConfig:
        if self.head_width is None:
            check_heads("mapper.", self.width, self.heads)
        names = set(self.encoders)
        if not names or len(names) < len(self.encoders) or not all(map(_can_be_mapped, names)):
            raise ValueError(
                f"mapper.encoders is {short(self.encoders)}, and must name one or more of "
                f"{', '.join(filter(_can_be_mapped, ENCODERS))}, each once"
            )
        if self.sampling_steps > self.diffusion_steps:
            raise ValueError(
                f"mapper.sampling_steps is {self.sampling_steps}, and must be at most mapper.diffusion_steps "
                f"({self.diffusion_steps})"
            )
        return self


@dataclass(config=STRICT, frozen=True)
class TrainingConfig:
    """Optimisation of paper section 4.1.2.

    ``data``: the cache in ``memory`` or as a ``stream``; ``auto`` takes memory where it fits.
    ``accumulate`` splits a process's part of the global batch into that many backward passes. ``share_of_clips``: of
    every class, chosen by ``seed`` (:mod:`trainer.share`). ``validate_every``: so many epochs, and after the last.
    ``keep_epochs``: those of which the mapper stays, as ``mapper-epoch-00005``.
    """

    data: Literal["auto", "memory", "stream"] = "auto"
    accumulate: Batch = 1
    compile: bool = False
    epochs: Count = 40
    share_of_clips: Annotated[float, Number, Field(gt=0, le=1)] = 1.0
    validate_every: Count = 1
    keep_epochs: list[Count] = Field(default_factory=list)
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


@dataclass(config=STRICT, frozen=True)
class GenerationConfig:
    """Sampling of paper section 4.1.2.

    ``mapper_options``: other ``mapper.options`` than the saved mapper's, of those that only prediction reads.
    ``scheduler``: a scheduler class of diffusers. ``decode_batch``: clips that the VAE and the vocoder take
    at once. ``overlap_seconds``: of neighbouring windows of a long video. ``precision``, ``channels_last`` and
    ``compile`` concern the UNet. Compiled, or on an accelerator, it is given few shapes: text is padded and the last
    batch filled up to ``batch``.
    """

    mapper_options: Arguments = Field(default_factory=dict)
    scheduler: str = "DDIMScheduler"
    steps: Annotated[int, Number, Field(ge=1)] = 100  # at most those of the noise schedule: Preset
    guidance_scale: Annotated[float, Number, Field(ge=0, le=1000)] = 3.5
    eta: Share = 0.0
    negative_prompt: Prompt = "low quality, average quality"
    batch: Batch = 4
    decode_batch: Batch = 4
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool = False
    compile: bool = False
    overlap_seconds: Seconds = 2.0
    seed: Seed = 0


@dataclass(config=STRICT, frozen=True)
class EvaluationConfig:
    """Feature networks of the evaluation (paper section 4.2); the defaults are those of Table 1."""

    networks: Annotated[list[str], Field(min_length=1)] = Field(
        default_factory=lambda: ["panns", "vggish", "passt", "imagebind", "synchformer"]
    )


@dataclass(config=STRICT, frozen=True)
class Preset:
    """Everything a run needs to know besides its clips.

    ``target``: the encoder whose features of the sound a mapper predicts. ``audio_model``: what makes sound of them.
    """

    name: str
    note: str = ""
    media: MediaConfig = Field(default_factory=MediaConfig)
    encoders: EncodersConfig = Field(default_factory=EncodersConfig)
    weights: WeightsConfig = Field(default_factory=WeightsConfig)
    cache: CacheConfig = Field(default_factory=CacheConfig)
    mapper: MapperConfig = Field(default_factory=MapperConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    target: str = "audiomae"
    audio_model: Annotated[str, NameOf(AUDIO_MODELS)] = "audioldm2"
    audio_models: AudioModelsConfig = Field(default_factory=AudioModelsConfig)
    generation: GenerationConfig = Field(default_factory=GenerationConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)

    @model_validator(mode="after")
    def _fits(self) -> Preset:
        """Compare settings of different sections; name the settings of every part that is used."""
        sounds = [name for name in ENCODERS if reads(name) == "waveform"]
        if self.target not in sounds:
            raise ValueError(f"target is {short(self.target)}, and must be one of {', '.join(sounds)}")
        if self.weights.folders:
            known = {file.repository.name for file in _official_files() if file.repository is not None}
            if unknown := [name for name in self.weights.folders if name not in known]:
                raise ValueError(
                    f"weights.folders.{unknown[0]} is no repository that is read: there are {', '.join(sorted(known))}"
                )
        self.encoders.update({name: self.encoders[name] for name in self.stages})
        self.audio_models.update({self.audio_model: self.audio})
        overlap, window = self.generation.overlap_seconds, self.media.seconds
        if overlap >= window:
            raise ValueError(
                f"generation.overlap_seconds is {overlap:g}, and must be below media.seconds ({window:g}), the length "
                f"of a window"
            )
        most = self.audio.most_steps
        if most is not None and self.generation.steps > most:
            raise ValueError(
                f"generation.steps is {self.generation.steps}, and must be a whole number from 1 to {most}: the noise "
                f"schedule has no more (of audio_models.{self.audio_model})"
            )
        return self

    @property
    def stages(self) -> list[str]:
        """The encoders whose features are cached: the mapper's, the one it predicts, and that of the labels."""
        labels = [] if self.audio.labels is None else [self.audio.labels]
        return [*self.mapper.encoders, self.target, *labels]

    @property
    def audio(self) -> Any:
        """The settings of the audio model, a :class:`presets.audio_models.AudioModelConfig`."""
        return self.audio_models[self.audio_model]

    @property
    def tokens(self) -> tuple[int | None, int | None]:
        """How many vectors the audio model takes for a clip, and the values of each; None: any number."""
        return self.audio.tokens, self.encoders[self.target].dimension

    def to_dict(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        return {**values, **{name: dict(values[name]) for name in ("encoders", "audio_models")}}


def available_presets() -> list[str]:
    return sorted(path.stem for path in HERE.glob("*.yaml"))


def available_options() -> list[str]:
    """What can follow the name of a preset after a comma: small files of settings, merged over it."""
    return sorted(path.stem for path in (HERE / "options").glob("*.yaml"))


def preset_from_dict(values: Mapping[str, Any], where: str = "preset") -> Preset:
    """Check a plain dictionary; raises :class:`PresetError` with a sentence for each wrong setting."""
    return checked(Preset, _in_sections(values), where)


def _official_files() -> Iterator[CheckpointFile]:
    """Of every encoder and audio model."""
    for registry in (ENCODERS, AUDIO_MODELS):
        for settings in registry.values():
            yield from settings.files


def _in_sections(values: Mapping[str, Any]) -> dict[str, Any]:
    """With ``audioldm2`` and ``weights.audioldm2`` of older presets where these settings are now."""
    values = dict(values)
    if "audioldm2" in values:
        values = merge({"audio_models": {"audioldm2": values.pop("audioldm2")}}, values)
    weights = values.get("weights")
    if isinstance(weights, Mapping) and "audioldm2" in weights:
        place = {"folders": {"audioldm2": weights["audioldm2"]}}
        values["weights"] = merge(place, {name: value for name, value in weights.items() if name != "audioldm2"})
    return values


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
    values = merge({"name": path.stem}, _in_sections(read_yaml(path)))
    for option in options:
        if option not in (known := available_options()):
            raise PresetError(f"unknown option {short(option)} of preset {short(base)}: there is {', '.join(known)}")
        values = merge(values, _in_sections(read_yaml(HERE / "options" / f"{option}.yaml")))
    assigned: dict[str, Any] = {}
    for assignment in assignments:
        assigned = merge(assigned, _in_sections(assigned_value(Preset, assignment)))
    return preset_from_dict(merge(values, assigned), f"preset {name}" + (" with --set" if assigned else ""))


def _split_options(name: str) -> tuple[str, list[str]]:
    """A preset and its options; the path of a file may have commas of its own."""
    parts = name.split(",")
    last = max((number for number, part in enumerate(parts) if part.endswith(_SUFFIXES)), default=0)
    return ",".join(parts[: last + 1]), [part.strip() for part in parts[last + 1 :]]
