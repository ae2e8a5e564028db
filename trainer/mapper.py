"""What every mapper is, :class:`Mapper`, and its file; a new one is one file and a line in :mod:`presets.mappers`."""

from __future__ import annotations

import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from huggingface_hub import create_repo, upload_folder
from pydantic import ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from common.errors import PresetError, WeightsError
from common.writing import make_folder, write_text
from presets.checks import checked, short
from presets.config import MapperConfig
from trainer.checkpoints import MODEL, check_sums, save_tensors, write_sums

CONFIG = "config.json"
_Size = Annotated[int, Field(ge=1, le=1_000_000)]


@dataclass(config=ConfigDict(extra="ignore"), frozen=True)
class _KnownProvenance:
    """The types of what of a mapper's provenance is read again: see :mod:`trainer.provenance`."""

    encoders: dict[str, str] = Field(default_factory=dict)
    encoder_configs: dict[str, dict[str, Any]] = Field(default_factory=dict)
    media: dict[str, Any] | None = None
    metrics: dict[str, int | float | None] = Field(default_factory=dict)
    train_clips: Annotated[int, Field(ge=0)] | None = None
    train_seconds: Annotated[FiniteFloat, Field(ge=0)] | None = None
    epochs: Annotated[int, Field(ge=0)] | None = None
    hours_before: Annotated[FiniteFloat, Field(ge=0)] | None = None


@dataclass(config=ConfigDict(extra="forbid"), frozen=True)
class MapperSpec:
    """All that is needed to rebuild a mapper, and what it was fitted on.

    ``dimensions`` and ``lengths``: width and steps of each visual stream; ``target``: (T_c, D_c) of the features of
    the encoder ``target_encoder``, the paper's (8, 768) of AudioMAE. ``statistics``: mean and standard deviation of
    the training targets. ``provenance``: fingerprints of the encoders, preset, epochs, metrics, and what
    :attr:`hours` counts.
    """

    mapper: MapperConfig
    dimensions: dict[str, _Size]
    lengths: dict[str, _Size]
    target: tuple[_Size, _Size]
    loss: Literal["mse", "l1"] = "mse"
    statistics: dict[str, FiniteFloat] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)
    target_encoder: str = "audiomae"

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        TypeAdapter(_KnownProvenance).validate_python(self.provenance)
        if unknown := [
            name for name in self.mapper.encoders if name not in self.dimensions or name not in self.lengths
        ]:
            raise ValueError(f"dimensions and lengths say nothing of the encoders {', '.join(sorted(unknown))}")
        return self

    @property
    def hours(self) -> float | None:
        """Of sound that it was trained on: the paper's training scale, in hours.

        "The product of the total audio time per epoch and the number of training epochs" (section 4.2.1), with that of
        a mapper that it went on from. None where one of a version before does not say.
        """
        made = self.provenance
        clips, epochs, seconds, before = (
            made.get(name) for name in ("train_clips", "epochs", "train_seconds", "hours_before")
        )
        if seconds is None:  # of a version before: clips of the full length, and nothing on what it went on from
            window = (made.get("media") or {}).get("seconds")
            if clips is None or window is None or self.mapper.initialise not in ("scratch", "audioldm2"):
                return None
            seconds, before = clips * window, 0.0
        return None if epochs is None or before is None else float(before + epochs * seconds / 3600)

    def card(self, mapper: str) -> str:
        """A model card in Markdown: what the ``mapper`` is (:meth:`Mapper.describe`), its fitting, how well."""
        made = self.provenance
        rows = {
            "mapper": mapper,
            "visual encoders": " + ".join(self.mapper.encoders),
            "preset": made.get("preset"),
            "training clips": made.get("train_clips"),
            "epochs": made.get("epochs"),
            "hours of sound trained on": "unknown" if self.hours is None else f"{self.hours:.4g}",
            **{f"weights of {name}": weights for name, weights in made.get("encoders", {}).items()},
            **{
                name: "not finite" if value is None else f"{value:.5g}"
                for name, value in made.get("metrics", {}).items()
                if name != "epoch"
            },
        }
        lines = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
        return (
            f"# MFM-Mapper\n\nPredicts {self.target[0]} x {self.target[1]} values of {self.target_encoder} from video "
            "features, to condition an audio model that takes them. Load with "
            "`trainer.registry.MFMMapper.from_pretrained(folder)`.\n\n"
            f"| | |\n| --- | --- |\n{lines}\n\n"
            "Sound made with official weights of AudioLDM or AudioLDM-2 is bound by their licence, CC BY-NC-SA 4.0.\n"
        )


class Mapper(nn.Module, ABC):
    """Visual streams -> C. ``forward`` gives the training loss of each clip.

    ``Options``: a dataclass of pydantic for ``mapper.options``, where a kind of mapper has settings of its own;
    :attr:`options` are the checked ones. ``prediction_options``: those of them that only :meth:`predict` reads, so that
    training can go on from a mapper that has others. A subclass calls ``super().__init__(spec)`` first.
    """

    Options: ClassVar[type | None] = None
    prediction_options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, spec: MapperSpec):
        super().__init__()
        self.spec = spec
        if self.Options is None and spec.mapper.options:
            raise PresetError(
                f"mapper.options is {short(spec.mapper.options)}, and a mapper of kind '{spec.mapper.kind}' has none"
            )
        self.options: Any = (
            None if self.Options is None else checked(self.Options, spec.mapper.options, "mapper.options")
        )

    def initialise(self, source: str) -> None:
        """Fill part of it from files of something else than a mapper; raises :class:`WeightsError`.

        ``source``: ``scratch`` (leave it as drawn), or a file or folder. This one takes none.
        """
        if source != "scratch":
            raise not_taken(self.spec.mapper.kind, source)

    @abstractmethod
    def losses(self, visual: Mapping[str, Tensor], target: Tensor) -> Tensor:
        """Training loss of each clip, (B,)."""

    @abstractmethod
    def predict(self, visual: Mapping[str, Tensor]) -> Tensor:
        """Visual streams (B, T, D) by encoder name -> C, (B, T_c, D_c), float32."""

    def sample(self, visual: Mapping[str, Tensor], seeds: Sequence[int]) -> Tensor:
        """As :meth:`predict`; a mapper that draws noise draws each clip's from its seed, of which there are B."""
        return self.predict(visual)

    @property
    def trained_parameters(self) -> int:
        """How many values training fits."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    def describe(self) -> str:
        """What it is, on one line."""
        config, fusion = self.spec.mapper, getattr(self, "fusion", None)
        fused = "" if fusion is None else f", {config.fusion} fusion"
        return f"{config.kind}, {config.layers} layers, width {config.width}{fused}"

    def predict_with(self, options: Mapping[str, Any]) -> None:
        """Predict with other :attr:`prediction_options`; raises :class:`PresetError` for others and wrong values."""
        if unknown := sorted(options.keys() - {*self.prediction_options}):
            raise PresetError(
                f"generation.mapper_options has {', '.join(map(short, unknown))}, and of a mapper of kind "
                f"'{self.spec.mapper.kind}' it can have {', '.join(self.prediction_options) or 'none'}"
            )
        if options:
            self.options = checked(type(self.options), {**asdict(self.options), **options}, "generation.mapper_options")

    def forward(self, visual: Mapping[str, Tensor], target: Tensor) -> Tensor:
        return self.losses(visual, target)

    def loss(self, visual: Mapping[str, Tensor], target: Tensor) -> Tensor:
        """Mean training loss of a batch, a scalar."""
        return self.losses(visual, target).mean()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json``, ``model.safetensors``, their ``SHA256SUMS``, and a model card, ``README.md``.

        Raises :class:`common.errors.WriteError` for a full disk and the like.
        """
        folder = make_folder(folder)
        save_tensors(self.state_dict(), folder / MODEL)
        write_text(folder / CONFIG, json.dumps(asdict(self.spec), indent=2))
        write_text(folder / "README.md", self.spec.card(self.describe()))
        write_sums(folder, (CONFIG, MODEL))

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload what :meth:`save_pretrained` writes as one commit; makes the repository ``owner/name`` if need be.

        ``token``: default the one of ``hf auth login`` or HF_TOKEN. Returns the commit's address. Raises
        :class:`WeightsError`.
        """
        try:
            create_repo(repo_id, private=private, token=token, exist_ok=True)
            with tempfile.TemporaryDirectory() as folder:
                self.save_pretrained(folder)
                return str(upload_folder(repo_id=repo_id, folder_path=folder, token=token, commit_message="MFM-Mapper"))
        except Exception as error:  # the HTTP library's own errors besides the hub's
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            raise WeightsError(f"the mapper could not be pushed to '{repo_id}': {reason}") from error


def not_taken(kind: str, source: str) -> WeightsError:
    """What a mapper says that is filled from no files but a saved mapper's."""
    return WeightsError(
        f"mapper.initialise: a mapper of kind '{kind}' is not filled from {source}: it takes scratch, shipped, or the "
        f"folder of a saved mapper"
    )


def error_per_clip(predicted: Tensor, target: Tensor, kind: str = "mse") -> Tensor:
    """The paper's MSE of each clip: (1 / T_c) sum_i ||c_i - ĉ_i||², summed over D_c. ``l1``: AudioLDM-2's."""
    difference = predicted.float() - target.float()
    per_value = difference.abs() if kind == "l1" else difference.square()
    return per_value.sum(dim=-1).mean(dim=-1)


def read_spec(folder: str | Path) -> MapperSpec:
    """``config.json`` of a saved mapper.

    Raises :class:`WeightsError` if there is none, it is damaged, or its values are not those of a mapper.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise WeightsError(f"there is no trained mapper in {folder}: {path} does not exist (make train)")
    if fault := check_sums(path.parent, (CONFIG,)):
        raise WeightsError(fault)
    try:
        return TypeAdapter(MapperSpec).validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:8]]
        raise WeightsError(f"{path} does not describe a mapper:\n" + "\n".join(lines)) from None


def load_weights(mapper: Mapper, folder: str | Path) -> None:
    """Fill a mapper from ``model.safetensors``; raises :class:`WeightsError` if that is damaged or does not fit."""
    path = Path(folder) / MODEL
    check_weights(mapper, folder)
    try:
        mapper.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise WeightsError(f"{path} does not hold the weights that its {CONFIG} describes: {error}") from error


def check_weights(mapper: Mapper, folder: str | Path) -> None:
    """Raise :class:`WeightsError` unless a folder holds a mapper's weights: checksum, names and shapes.

    No weight is loaded, and the mapper may be one without memory, on the device ``meta``.
    """
    path = Path(folder) / MODEL
    if fault := check_sums(path.parent, (MODEL,)):
        raise WeightsError(fault)
    try:
        with safe_open(path, framework="pt") as file:
            there = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from None
    wanted = {name: tuple(tensor.shape) for name, tensor in mapper.state_dict().items()}
    wrong = [name for name in sorted({*there, *wanted}) if there.get(name) != wanted.get(name)]
    if wrong:
        lines = [f"  {name}: {there.get(name, 'none')} there, {wanted.get(name, 'none')} wanted" for name in wrong[:8]]
        more = f"\n  and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise WeightsError(f"{path} does not hold the weights that its {CONFIG} describes:\n" + "\n".join(lines) + more)
