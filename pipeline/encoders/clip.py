"""CLIP's image embeddings: what V2A-Mapper (Wang et al. 2024) sees of a video."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from pipeline.encoders.base import Encoder
from pipeline.encoders.cavp import as_float_frames
from pipeline.encoders.clip_settings import CLIPConfig
from pipeline.encoders.halves import check_preprocessor, files_of, load_half

# Our settings, and the same in transformers' configuration.
_SIZES = {
    "image_size": "image_size",
    "patch_size": "patch_size",
    "width": "hidden_size",
    "mlp": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "embedding": "projection_dim",
    "activation": "hidden_act",
}


class CLIP(Encoder):
    """Frames -> one image embedding a frame."""

    name = "clip"
    full_precision = ("visual_projection",)
    config: CLIPConfig
    mean: Tensor
    std: Tensor

    def __init__(self, config: CLIPConfig):
        super().__init__(config)
        self.take(CLIPVisionModelWithProjection(CLIPVisionConfig(**self.sizes())))
        self.register_buffer("mean", torch.tensor(OPENAI_CLIP_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(OPENAI_CLIP_STD)[:, None, None], persistent=False)

    def sizes(self) -> dict[str, Any]:
        """The settings as transformers calls them."""
        return {theirs: getattr(self.config, ours) for ours, theirs in _SIZES.items()}

    def take(self, model: Any) -> None:
        """Its two parts, as they differ in precision."""
        self.vision_model, self.visual_projection = model.vision_model, model.visual_projection

    def load(self, paths: Mapping[str, Path]) -> None:
        """The folder of the whole CLIP, or of its vision half; raises :class:`common.errors.WeightsError`."""
        folder = paths["clip"]
        self.take(load_half(CLIPVisionModelWithProjection, folder, self.config.files[0], self.sizes(), "encoders.clip"))
        check_preprocessor(folder, {"image_mean": OPENAI_CLIP_MEAN, "image_std": OPENAI_CLIP_STD}, "encoders.clip")

    @staticmethod
    def fingerprint_of(paths: Mapping[str, Path]) -> str:
        return Encoder.fingerprint_of(files_of(paths["clip"]))

    def pictures(self, frames: Tensor) -> Tensor:
        """Float frames (N, 3, H, W) in [0, 1] -> as the model takes them, (N, 3, image_size, image_size).

        Those of another size are resized as CLIP's own preprocessing does it, by PIL's antialiased bicubic filter:
        along the rows, then along the columns, each time to 8 bits. H and W are squeezed to a square, as the shared
        decode has done already.
        """
        size = self.config.image_size
        for shape in ((frames.shape[-2], size), (size, size)):
            if frames.shape[-2:] != shape:
                frames = nn.functional.interpolate(frames, shape, mode="bicubic", antialias=True)
                frames = (frames * 255).round().clamp(0, 255) / 255
        return (frames - self.mean) / self.std

    @torch.inference_mode()
    def encode(self, frames: Tensor | np.ndarray) -> Tensor:
        """Frames (B, T, 3, H, W), uint8 or float in [0, 1] -> (B, T, 512), not normalised.

        Source: ``CLIPModel.get_image_features`` of transformers. Raises ValueError for another layout.
        """
        frames = as_float_frames(frames, self.device)
        pictures = self.pictures(frames.flatten(0, 1))
        with self.autocast():
            pooled = self.vision_model(pixel_values=pictures).pooler_output
        return self.visual_projection(pooled.float()).unflatten(0, frames.shape[:2])
