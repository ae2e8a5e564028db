"""The pre-norm transformer block of timm, under its key names; PaSST and Synchformer are made of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Self-attention of (B, N, D), keys ``qkv`` and ``proj``."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = self.split(hidden)
        return self.join(nn.functional.scaled_dot_product_attention(query, key, value))

    def split(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, D) -> query, key, value, (B, heads, N, D / heads) each."""
        batch, count, width = hidden.shape
        parts = self.qkv(hidden).view(batch, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return parts[0], parts[1], parts[2]

    def join(self, heads: Tensor) -> Tensor:
        return self.proj(heads.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Keys ``fc1`` and ``fc2``."""

    def __init__(self, width: int, ratio: int = 4):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, ratio * width), nn.Linear(ratio * width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(hidden)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width, heads), MLP(width)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.attn(self.norm1(hidden))
        return hidden + self.mlp(self.norm2(hidden))


def parameter(*shape: int) -> nn.Parameter:
    """A drawn parameter, so that seeded networks do not have equal tokens."""
    return nn.Parameter(0.02 * torch.randn(shape))
