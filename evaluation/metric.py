"""A column of the table, and what it takes: features of both sides (paper section 4.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from common.errors import InputError
from evaluation import metrics
from evaluation.caches import Entry, rows
from evaluation.networks.base import FeatureNetwork


@dataclass(frozen=True)
class Metric:
    """One column of the table.

    ``compute`` takes the features of both sides and the matched clip ids, and gives the value and, where it
    is a mean over clips, the clips' own values.
    """

    name: str
    network: str
    higher_is_better: bool
    compute: Callable[[Features, Features, Sequence[str]], tuple[float, np.ndarray | None]]


@dataclass
class Features:
    """One side: finite entries by feature file, and what was left out."""

    caches: dict[str, dict[str, Entry]]
    network: FeatureNetwork | None = None  # where a metric needs more than features
    excluded: dict[str, str] = field(default_factory=dict)  # clip id -> reason

    def all(self, cache: str, part: str = "") -> np.ndarray:
        """Every clip's entry, stacked; raises :class:`InputError` for a file that is not there."""
        return self.of(sorted(self.caches.get(cache, ())), cache, part)

    def of(self, clip_ids: Sequence[str], cache: str, part: str = "") -> np.ndarray:
        """Entries of these clips, stacked; likewise."""
        if cache not in self.caches:
            raise InputError(f"there is no {cache} on one side, only {', '.join(self.caches)}")
        return rows(self.caches[cache], [c for c in clip_ids if c in self.caches[cache]], part, cache)


def frechet(cache: str, part: str = "") -> Any:
    return lambda generated, reference, ids: (
        metrics.frechet_distance(generated.all(cache, part), reference.all(cache, part)),
        None,
    )


def kl(cache: str, part: str = "") -> Any:
    def compute(generated: Features, reference: Features, ids: Sequence[str]) -> tuple[float, np.ndarray]:
        values = metrics.kl_per_clip(generated.of(ids, cache, part), reference.of(ids, cache, part))
        return float(values.mean()), values

    return compute


def inception(cache: str, part: str = "") -> Any:
    return lambda generated, reference, ids: (metrics.inception_score(generated.all(cache, part))[0], None)
