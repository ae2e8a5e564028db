"""How well a mapper predicts: teacher-forced and free-running, in the paper's own error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from trainer.data import Data
from trainer.mapper import Mapper, error_per_clip


@dataclass(frozen=True)
class Validation:
    """Per clip: ids, teacher-forced loss, free-running error, cosine of each of the T_c vectors."""

    clip_ids: list[str]
    forced: torch.Tensor
    free: torch.Tensor
    cosine: torch.Tensor

    def metrics(self) -> dict[str, float | None]:
        """Means over all clips; None where one of them is not finite."""
        figures = {
            "validation_loss": float(self.forced.mean()),
            "validation_free_running": float(self.free.mean()),
            "validation_cosine": float(self.cosine.mean()),
            **{f"validation_cosine_{n + 1}": float(value) for n, value in enumerate(self.cosine.mean(dim=0))},
        }
        return {name: value if math.isfinite(value) else None for name, value in figures.items()}

    def not_finite(self) -> list[str]:
        """Clips whose loss, error or cosine is NaN or infinite."""
        bad = ~(self.forced.isfinite() & self.free.isfinite() & self.cosine.isfinite().all(dim=1))
        return [clip_id for clip_id, is_bad in zip(self.clip_ids, bad.tolist(), strict=True) if is_bad]

    def worst(self, count: int = 20) -> list[dict[str, float | str | None]]:
        """Clips with the largest free-running error, largest first; those that are not finite before all."""
        order = self.free.nan_to_num(nan=float("inf")).argsort(descending=True)[:count].tolist()
        errors = [float(self.free[row]) for row in order]
        return [
            {"clip_id": self.clip_ids[row], "free_running": error if math.isfinite(error) else None}
            for row, error in zip(order, errors, strict=True)
        ]


@torch.no_grad()
def validate(mapper: Mapper, data: Data, split: str = "validation", batch: int = 256) -> Validation:
    """Free-running error is the paper's MSE whatever the training loss; predictions are the model's own."""
    training = mapper.training
    mapper.eval()
    ids: list[str] = []
    forced, free, cosine = [], [], []
    for part in data.batches(split, batch, order=None):
        predicted = mapper.predict(part.visual)
        ids += part.clip_ids
        forced.append(mapper.losses(part.visual, part.target).float())
        free.append(error_per_clip(predicted, part.target))
        cosine.append(torch.cosine_similarity(predicted, part.target, dim=-1))
    mapper.train(training)
    return Validation(ids, torch.cat(forced).cpu(), torch.cat(free).cpu(), torch.cat(cosine).cpu())


def target_statistics(data: Data, batch: int, most: int = 8192) -> dict[str, float]:
    """Mean and standard deviation of the training targets, over at most ``most`` clips in cache order."""
    count, total, squares = 0, 0.0, 0.0
    for seen, part in enumerate(data.batches("train", batch, order=None)):
        target = part.target.cpu().double()  # MPS has no float64
        count, total, squares = count + target.numel(), total + float(target.sum()), squares + float((target**2).sum())
        if (seen + 1) * batch >= most:
            break
    mean = total / count
    return {"mean": mean, "std": max(squares / count - mean**2, 1e-12) ** 0.5}
