"""Deterministic weights and inputs of the golden vectors: every value follows from (seed, name, shape)."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

GOLDEN = Path(__file__).parent / "golden"
SEED = 7


def draw(name: str, shape, seed: int = SEED) -> np.ndarray:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8]
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))
    return generator.standard_normal(size=tuple(shape), dtype=np.float32)


def weight(key: str, shape: list[int]) -> torch.Tensor:
    """The value that the golden recipe gives to the official key of this shape."""
    if not shape:
        return torch.tensor(0)
    if key.endswith("position_ids"):
        return torch.arange(math.prod(shape)).reshape(shape)
    z = draw(key, shape)
    if key.endswith("running_var"):
        z = 1 + 0.1 * np.abs(z)
    elif key.endswith("running_mean"):
        z = 0.1 * z
    elif len(shape) >= 3 and shape[0] == 1:
        z = 0.5 * z
    elif len(shape) >= 2:
        z = z / math.sqrt(math.prod(shape[1:]))
    elif key.endswith("weight"):
        z = 1 + 0.1 * z
    else:
        z = 0.1 * z
    return torch.from_numpy(np.ascontiguousarray(z, dtype=np.float32))


def official_state(table: str) -> dict[str, torch.Tensor]:
    shapes = json.loads((GOLDEN / f"{table}_keys.json").read_text())
    return {key: weight(key, shape) for key, shape in shapes.items()}


def golden(name: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / f"{name}_seed7.safetensors")


# --- inputs of the evaluation networks ---------------------------------------------------------------------


def sound(samples: int = 128_000, rate: int = 16_000) -> torch.Tensor:
    """A waveform (samples,) in [-1, 1] with a constant offset of 0.03."""
    t = np.arange(samples) / rate
    x = 0.03 + 0.2 * np.sin(2 * np.pi * (300 + 60 * t) * t) * (np.sin(2 * np.pi * 1.3 * t) > 0)
    return torch.from_numpy(np.clip(x + 0.03 * draw(f"input/sound{rate}", (samples,)), -1, 1).astype(np.float32))


def pictures(frames: int, name: str = "input/pictures", height: int = 240, width: int = 320) -> torch.Tensor:
    """Smooth frames that change slowly, uint8 (frames, 3, height, width)."""
    base = draw(name, (1, 3, height // 8, width // 8))
    delta = 0.3 * draw(name + "/delta", (frames, 3, height // 8, width // 8)).cumsum(0)
    size = (height, width)
    big = torch.nn.functional.interpolate(torch.from_numpy(base + delta), size, mode="bilinear", align_corners=False)
    return (big * 40 + 128).round().clamp(0, 255).to(torch.uint8)
