"""Features of two folders of sound, matched by clip id, and every metric they allow (paper section 4.2)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import InputError, MFMError
from evaluation.caches import finite, maker, read_cache
from evaluation.extract import extract
from evaluation.files import find_files
from evaluation.networks import NETWORKS, FeatureNetwork, load_network
from evaluation.reading import Reading
from evaluation.scores import METRICS, Features, Metric
from manifests.folders import VIDEO_SUFFIXES
from presets import Preset
from presets.config import MediaConfig

_RESAMPLES, _CONFIDENCE, _SEED = 1000, 0.95, 0
# What one network or one metric can break without breaking the report.
_FAULTS = (MFMError, np.linalg.LinAlgError, torch.linalg.LinAlgError, torch.OutOfMemoryError)

_WITHOUT_SOURCES = (
    ". To go on: give a folder of true sound by clip id with --reference (REFERENCE=...; OUT/truth has that of the "
    "clips on the page), or run make generate with a manifest of where the videos are now"
)


@dataclass
class Result:
    """What an evaluation found; ``values`` and ``intervals`` by metric, ``skipped`` metric -> why."""

    values: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # in the reference, not generated
    unmatched: list[str] = field(default_factory=list)  # generated, not in the reference
    excluded: dict[str, str] = field(default_factory=dict)
    features: dict[str, Any] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        return not self.missing


def gather(names: Sequence[str], folder: Path, only: Collection[str] | None = None) -> Features:
    """What the feature files of one side hold, without clips whose features are not finite.

    ``only``: the clips whose files are there, where there are files; features of others are left alone.
    """
    out = Features({})
    for name in names:
        held = read_cache(folder / name)
        entries, bad = finite({clip_id: held[clip_id] for clip_id in held if only is None or clip_id in only})
        out.caches[name] = entries
        out.excluded |= dict.fromkeys(bad, f"NaN or Inf in {name}")
    return out


def confidence_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean over clips, by bootstrap (1000 resamples, fixed seed)."""
    from scipy.stats import bootstrap  # takes a second to import

    if len(values) < 2:
        return float(values[0]), float(values[0])
    random = np.random.default_rng(_SEED)
    method: dict[str, Any] = {"method": "percentile", "n_resamples": _RESAMPLES, "confidence_level": _CONFIDENCE}
    low, high = bootstrap((values,), np.mean, random_state=random, **method).confidence_interval
    return float(low), float(high)


@dataclass(frozen=True)
class Side:
    """Where one side's sound, its videos (for networks that look at them) and its feature files are.

    ``texts``: what is said of each clip, for networks that read. ``clips``: those that count, where files of others
    may lie there, too (None: all). ``sources``: the clips' own videos; their picture is taken where there are no
    ``videos``, and with ``sound_of_sources`` their sound, as ``media`` decodes it, instead of ``sounds``. ``others``:
    clip id -> why its source is not used.
    """

    sounds: Path
    features: Path
    videos: Path | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    clips: frozenset[str] | None = None
    sources: Mapping[str, Path] | None = None
    media: MediaConfig | None = None
    sound_of_sources: bool = False
    others: Mapping[str, str] = field(default_factory=dict)

    def from_sources(self, video: bool = False) -> bool:
        """Whether sound or picture is that of the sources."""
        return self.sources is not None and (self.videos is None if video else self.sound_of_sources)

    def files(self, video: bool = False) -> tuple[dict[str, Path], MediaConfig | None]:
        """The files of sound or picture by clip id; and how the true sound is decoded where they are sources."""
        if self.sources is not None and self.from_sources(video):
            found, media = {c: path for c, path in self.sources.items() if c not in self.others}, self.media
        elif video:  # videos may carry the generated sound: nothing but the picture is taken from them
            found, media = find_files(self.videos or self.sounds, VIDEO_SUFFIXES), None
        else:
            found, media = find_files(self.sounds), None
        return {c: path for c, path in found.items() if self.clips is None or c in self.clips}, media


@dataclass(frozen=True)
class Work:
    """How features are made, and who is told: ``on_step`` gets a step's name, its clips done and all its clips."""

    device: str = "cpu"
    reading: Reading = field(default_factory=Reading)
    batch: int | None = None
    on_step: Callable[[str, int, int], None] = lambda step, done, total: None


def evaluate(
    preset: Preset, networks: Sequence[str], generated: Side, reference: Side, work: Work | None = None
) -> Result:
    """Every metric of the named networks; one that cannot be computed is in ``skipped`` with its reason.

    Files are named by clip id; either side may have none where its feature files are already there. Raises
    :class:`InputError` where the two sides share no clip, and where nothing at all can be computed.
    """
    result, work = Result(), work or Work()
    sides = {"generated": generated, "reference": reference}
    if reference.from_sources():
        result.excluded |= {f"{clip_id} (reference)": why for clip_id, why in reference.others.items()}
    ready: dict[str, dict[str, Features]] = {}
    for name in networks:
        try:
            ready[name] = _both_sides(NETWORKS[name], preset, sides, work, result)
        except _FAULTS as error:
            result.skipped |= {metric.name: _reason(error) for metric in METRICS.values() if metric.network == name}
    _match(sides, ready, result)
    for metric in METRICS.values():
        if metric.network in ready:
            _compute(metric, ready[metric.network], result)
    if not result.values:
        reasons = "\n".join(dict.fromkeys(result.skipped.values()))
        raise InputError(f"no metric could be computed:\n{reasons}")
    return result


def _reason(error: BaseException) -> str:
    if isinstance(error, MFMError):
        return str(error)
    advice = "; try a smaller --batch" if isinstance(error, torch.OutOfMemoryError) else ""
    return f"{type(error).__name__}: {str(error).strip()[:300]}{advice}"


def _place(where: Side) -> str:
    return "the clips' own videos" if where.from_sources() else str(where.sounds)


def _match(sides: Mapping[str, Side], ready: Mapping[str, Mapping[str, Features]], result: Result) -> None:
    """Who is on both sides: clips with features of any network, or, where no network is at hand, with files."""
    ids: dict[str, set[str]] = {}
    for side, where in sides.items():
        features = [found[side] for found in ready.values()]
        if side == "reference":  # texts may be of many more clips
            features = [found[side] for name, found in ready.items() if not NETWORKS[name].text_caches] or features
        for found in features:
            result.excluded |= {f"{clip_id} ({side})": reason for clip_id, reason in found.excluded.items()}
        ids[side] = {clip_id for found in features for cache in found.caches.values() for clip_id in cache}
        if not ready:
            ids[side] = set(where.files()[0])
    if empty := [f"{_place(where)} ({side})" for side, where in sides.items() if not ids[side]]:
        advice = "" if ids["reference"] or not sides["reference"].from_sources() else _WITHOUT_SOURCES
        reasons = "".join(f"\n  {clip}: {reason}" for clip, reason in list(result.excluded.items())[:5])
        raise InputError(
            f"there is neither usable sound (.wav, .flac or a video) nor a feature file in {', '.join(empty)}{advice}"
            f"{reasons}"
        )
    result.matched = sorted(ids["generated"] & ids["reference"])
    result.missing = sorted(ids["reference"] - ids["generated"])
    result.unmatched = sorted(ids["generated"] - ids["reference"])
    if not result.matched:
        examples = {side: ", ".join(sorted(found)[:2]) for side, found in ids.items()}
        raise InputError(
            f"no clip is on both sides: {len(ids['generated'])} generated such as {examples['generated']}, "
            f"{len(ids['reference'])} in the reference such as {examples['reference']}; both are named by clip id"
        )


def _both_sides(
    kind: type[FeatureNetwork], preset: Preset, sides: Mapping[str, Side], work: Work, result: Result
) -> dict[str, Features]:
    """Features of both sides, made where they are not there; raises WeightsError, InputError or CacheError."""
    network: FeatureNetwork | None = None

    def load() -> FeatureNetwork:
        nonlocal network
        network = network or load_network(kind, kind.folder(preset), work.device)
        return network

    out = {}
    for side, where in sides.items():
        video = side == "reference" and bool(kind.video_caches)
        text = side == "reference" and bool(kind.text_caches)
        names = kind.text_caches if text else kind.video_caches if video else kind.caches
        elsewhere = any((where.features / name).is_file() and maker(where.features / name) is None for name in names)
        if text and not elsewhere:
            out[side] = _read_texts(names[0], where, load)
            continue
        files, media = where.files(video)
        if files and not elsewhere:
            step, done = f"{kind.name}, {side}", 0

            def count(clips: int, step: str = step, total: int = len(files)) -> None:
                nonlocal done
                done += clips
                work.on_step(step, done, total)

            failed = extract(load(), files, where.features, work.device, video, count, work.reading, work.batch, media)
            result.excluded |= {f"{clip_id} ({side})": reason for clip_id, reason in failed.items()}
        there = [name for name in names if (where.features / name).is_file()]
        if not there:
            raise InputError(f"{where.features} has no {', '.join(names)}, and there is nothing to make it from")
        only = where.clips if elsewhere else files if files or where.from_sources(video) else None
        out[side] = gather(there, where.features, only)
        result.features[f"{kind.name} ({side})"] = maker(where.features / there[0]) or "made elsewhere"
    if kind.scores_itself:
        out["generated"].network = load()
    return out


def _read_texts(name: str, where: Side, load: Callable[[], FeatureNetwork]) -> Features:
    """Embeddings of the clips' texts; each text is read once."""
    if not where.texts:
        raise InputError(f"no texts of the clips: give --texts (a table of clip_id and caption), or {name}")
    network = load()
    distinct = sorted(set(where.texts.values()))
    read = dict(zip(distinct, network.encode_texts(distinct), strict=True))
    return Features({name: {clip_id: read[text] for clip_id, text in where.texts.items()}})


def _compute(metric: Metric, sides: Mapping[str, Features], result: Result) -> None:
    generated, reference = sides["generated"], sides["reference"]
    caches = [set(cache) for side in (generated, reference) for cache in side.caches.values()]
    common = set.intersection(set(result.matched), *caches)
    try:
        if not common:
            raise InputError(f"no clip has features of '{metric.network}' on both sides")
        value, per_clip = metric.compute(generated, reference, sorted(common))
    except _FAULTS as error:
        result.skipped[metric.name] = _reason(error)
        return
    result.values[metric.name] = value
    if per_clip is not None and len(per_clip) > 1:
        result.intervals[metric.name] = confidence_interval(per_clip)
