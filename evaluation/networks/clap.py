"""LAION's CLAP: the CLAP-score of sound and text, which av-benchmark reports beside the paper's table.

Wu et al. 2023. The network is transformers' ``ClapModel``: the official one where the encoder ``clap`` has it, or any
other that its user has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

from common.errors import WeightsError
from evaluation.networks.base import FeatureNetwork
from evaluation.sounds import SoundInput
from pipeline.hub import repository_folder
from presets import Preset
from presets.official import LAION_CLAP, CheckpointFile

_TEXTS = 64  # at a time
_SOURCE = f"a transformers folder of ClapModel such as {LAION_CLAP.address} (make weights PRESET=v2a-mapper fetches it)"


class CLAP(FeatureNetwork):
    """Waveforms (B, 384000) at 48 kHz -> unit vectors (B, D); texts likewise."""

    name = "clap"
    # Of a folder, any ClapModel's: the official one's is fetched for the encoder.
    files = tuple(
        CheckpointFile(role, name, _SOURCE, "Apache-2.0", size)
        for role, name, size in (
            ("config", "config.json", 0.0),
            ("weights", "model.safetensors", 0.6),
            ("extractor", "preprocessor_config.json", 0.0),
            ("tokenizer", "tokenizer.json", 0.0),
        )
    )
    caches = ("clap_laion_audio.pth",)
    text_caches = ("clap_laion_text.pth",)
    sound = SoundInput(rate=48_000, without_mean=True)

    def __init__(self) -> None:
        super().__init__()
        self.model: Any = nn.Identity()
        self.extractor: Any = None
        self.tokenizer: Any = None

    @classmethod
    def folder(cls, preset: Preset, *, fetch: bool = True) -> Path:
        """``clap`` in ``weights.folder``, whatever ClapModel its user put there; else that of the encoder ``clap``.

        ``weights.folders.clap`` wins over both. Raises :class:`WeightsError` for a hub id there that cannot be had.
        """
        chosen = preset.weights.path / "clap"
        if LAION_CLAP.name not in preset.weights.folders and cls._is_whole(chosen):
            return chosen
        return repository_folder(LAION_CLAP, preset, [""], fetch=fetch)

    @classmethod
    def is_there(cls, preset: Preset) -> bool:
        """Whether all its files are on this machine; weights that ship have its sound half alone."""
        try:
            return cls._is_whole(cls.folder(preset, fetch=False))
        except WeightsError:
            return False

    @classmethod
    def _is_whole(cls, folder: Path) -> bool:
        return all((folder / file.filename).is_file() for file in cls.files)

    def load(self, paths: Mapping[str, Path]) -> None:
        folder = paths["config"].parent
        try:
            self.model = ClapModel.from_pretrained(folder, local_files_only=True)
            self.extractor = ClapFeatureExtractor.from_pretrained(folder, local_files_only=True)
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # transformers raises many kinds
            raise WeightsError(f"{folder} cannot be read as a ClapModel: {str(error)[:300]}") from error
        if self.extractor.sampling_rate != self.sound.rate:
            raise WeightsError(f"{folder} wants sound at {self.extractor.sampling_rate} Hz, not {self.sound.rate}")

    @torch.inference_mode()
    def encode(self, waveforms: Tensor) -> dict[str, dict[str, Tensor]]:
        inputs = self.extractor(list(waveforms.cpu().numpy()), sampling_rate=self.sound.rate, return_tensors="pt")
        inputs = {name: values.to(waveforms.device) for name, values in inputs.items()}
        heard = self.model.audio_projection(self.model.audio_model(**inputs).pooler_output)
        return {self.caches[0]: {"": nn.functional.normalize(heard, dim=-1)}}

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts -> unit vectors (N, D), on the CPU."""
        parts = []
        for first in range(0, len(texts), _TEXTS):
            some = list(texts[first : first + _TEXTS])
            tokens = self.tokenizer(some, padding=True, truncation=True, return_tensors="pt").to(self.model.device)
            read = self.model.text_model(tokens["input_ids"], attention_mask=tokens["attention_mask"]).pooler_output
            parts.append(nn.functional.normalize(self.model.text_projection(read), dim=-1).cpu())
        return torch.cat(parts)
