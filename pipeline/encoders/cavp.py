"""CAVP, video branch: what moves and when it sounds (Diff-Foley, stage 1).

SlowOnly ResNet-50 in 3D without any temporal pooling, so every frame gets its own feature. The
parameter names are those of the official checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.encoders.base import Encoder
from pipeline.encoders.settings import CAVPConfig
from pipeline.frozen import load_own_keys

_EXPANSION = 4


class ConvBN(nn.Module):
    """Convolution without bias, batch normalisation, optional ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int, int],
        stride: int = 1,
        padding: tuple[int, int, int] = (0, 0, 0),
        relu: bool = True,
    ):
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, kernel, (1, stride, stride), padding, bias=False)
        self.bn = nn.BatchNorm3d(outputs)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        # BatchNorm in float32 also under autocast: its running statistics do not fit half precision.
        x = self.bn(self.conv(x).float())
        return torch.relu(x) if self.relu else x


class Bottleneck(nn.Module):
    """1x1x1 (or 3x1x1 where inflated), 1x3x3, 1x1x1; the stride sits on the 3x3."""

    def __init__(self, inputs: int, planes: int, stride: int, inflated: bool, project: bool):
        super().__init__()
        outputs = planes * _EXPANSION
        first, padding = ((3, 1, 1), (1, 0, 0)) if inflated else ((1, 1, 1), (0, 0, 0))
        self.conv1 = ConvBN(inputs, planes, first, padding=padding)
        self.conv2 = ConvBN(planes, planes, (1, 3, 3), stride, (0, 1, 1))
        self.conv3 = ConvBN(planes, outputs, (1, 1, 1), relu=False)
        self.downsample = ConvBN(inputs, outputs, (1, 1, 1), stride, relu=False) if project else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return torch.relu(self.conv3(self.conv2(self.conv1(x))) + shortcut)


class SlowOnly(nn.Module):
    """(B, 3, T, H, W) -> (B, 32 * width, T, H / 32, W / 32); T is never reduced."""

    def __init__(self, config: CAVPConfig):
        super().__init__()
        self.conv1 = ConvBN(3, config.width, (1, 7, 7), 2, (0, 3, 3))
        self.pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        inputs = config.width
        for stage, (count, inflated) in enumerate(zip(config.blocks, config.inflated, strict=True)):
            planes = config.width * 2**stage
            blocks = []
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(Bottleneck(inputs, planes, stride, inflated, project=block == 0))
                inputs = planes * _EXPANSION
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.stages = len(config.blocks)
        self.outputs = inputs

    def steps(self) -> Iterator[tuple[str, nn.Module]]:
        yield "conv1", self.conv1
        yield "maxpool", self.pool
        for stage in range(self.stages):
            name = f"layer{stage + 1}"
            yield name, self.get_submodule(name)

    def forward(self, x: Tensor) -> Tensor:
        for _, module in self.steps():
            x = module(x)
        return x


class CAVP(Encoder):
    """Frames -> one L2-normalised feature a frame."""

    name = "cavp"
    full_precision = ("video_project_head",)
    config: CAVPConfig

    def __init__(self, config: CAVPConfig):
        super().__init__(config)
        self.video_encoder = SlowOnly(config)
        self.video_project_head = nn.Linear(self.video_encoder.outputs, config.embedding)

    def load(self, paths: Mapping[str, Path]) -> None:
        load_own_keys(self, paths["cavp"], only=("video_",))

    def project(self, last_stage: Tensor) -> Tensor:
        """(B, C, T, h, w) -> (B, T, embedding), not yet normalised."""
        return self.video_project_head(last_stage.float().mean(dim=(3, 4)).transpose(1, 2))

    @torch.inference_mode()
    def encode(self, frames: Tensor | np.ndarray) -> Tensor:
        """Frames (B, T, 3, 224, 224), uint8 or float in [0, 1] -> (B, T, 512), unit length.

        All frames of a clip go through together: the temporal kernels see neighbours. Source:
        Diff-Foley, ``extract_cavp`` with ``pool=False``.
        """
        frames = as_float_frames(frames, self.device)
        with self.autocast():
            last = self.video_encoder(frames.transpose(1, 2))
        return nn.functional.normalize(self.project(last), dim=-1)


def as_float_frames(frames: Tensor | np.ndarray, device: torch.device) -> Tensor:
    """uint8 or float (B, T, 3, H, W) -> float32 in [0, 1]; raises ValueError for another layout."""
    tensor = torch.as_tensor(frames)
    if tensor.ndim != 5 or tensor.shape[2] != 3:
        raise ValueError(f"frames must be (B, T, 3, H, W), not {tuple(tensor.shape)}")
    tensor = tensor.to(device)
    if tensor.dtype == torch.uint8:
        return tensor.float() / 255
    if not tensor.is_floating_point():
        raise ValueError(f"frames must be uint8 or float in [0, 1], not {tensor.dtype}")
    return tensor.float()
