"""Features of two folders of sound, matched by clip id, and every metric they allow (paper section 4.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluation import metrics
from evaluation.caches import Entry, finite, maker, read_cache, rows, write_cache
from evaluation.events import compare_onsets
from evaluation.networks import NETWORKS, FeatureNetwork, load_network
from evaluation.networks.synchformer import Synchformer
from pipeline.errors import ClipError, InputError, WeightsError
from pipeline.media import decode_waveform
from presets import MediaConfig, Preset

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm")
SUFFIXES = (".wav", ".flac", *VIDEO_SUFFIXES)
_BATCH, _COMPARE_BATCH = 16, 16
_SAVE_EVERY = 256  # clips between two writes of a feature file: what a kill can cost
_RESAMPLES, _CONFIDENCE, _SEED = 1000, 0.95, 0


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
        return rows(self.caches[cache], sorted(self.caches[cache]), part, cache)

    def of(self, clip_ids: Sequence[str], cache: str, part: str = "") -> np.ndarray:
        return rows(self.caches[cache], [c for c in clip_ids if c in self.caches[cache]], part, cache)


def _frechet(cache: str, part: str = "") -> Any:
    return lambda generated, reference, ids: (
        metrics.frechet_distance(generated.all(cache, part), reference.all(cache, part)),
        None,
    )


def _kl(cache: str, part: str = "") -> Any:
    def compute(generated: Features, reference: Features, ids: Sequence[str]) -> tuple[float, np.ndarray]:
        values = metrics.kl_per_clip(generated.of(ids, cache, part), reference.of(ids, cache, part))
        return float(values.mean()), values

    return compute


def _inception(cache: str, part: str = "") -> Any:
    return lambda generated, reference, ids: (metrics.inception_score(generated.all(cache, part))[0], None)


def _onset_f1(generated: Features, reference: Features, ids: Sequence[str]) -> tuple[float, np.ndarray]:
    """Of the clips whose reference has onsets: F1 of the generated onsets within 0.15 s."""
    pairs = zip(generated.of(ids, "onsets.pth"), reference.of(ids, "onsets.pth"), strict=True)
    values = np.array([compare_onsets(r[r >= 0], g[g >= 0]).f1 for g, r in pairs if (r >= 0).any()])
    if not len(values):
        raise InputError("no reference clip has an onset")
    return float(values.mean()), values


def _imagebind(generated: Features, reference: Features, ids: Sequence[str]) -> tuple[float, np.ndarray]:
    values = 100 * metrics.cosine_per_clip(
        reference.of(ids, "imagebind_video.pth"), generated.of(ids, "imagebind_audio.pth")
    )
    return float(values.mean()), values


def _desync(generated: Features, reference: Features, ids: Sequence[str]) -> tuple[float, np.ndarray]:
    network = generated.network
    assert isinstance(network, Synchformer)
    parts = []
    for first in range(0, len(ids), _COMPARE_BATCH):
        some = ids[first : first + _COMPARE_BATCH]
        seen = torch.from_numpy(reference.of(some, "synchformer_video.pth"))
        heard = torch.from_numpy(generated.of(some, "synchformer_audio.pth"))
        parts.append(network.compare(seen, heard).numpy())
    values = metrics.desync_per_clip(np.concatenate(parts))
    return float(values.mean()), values


METRICS: tuple[Metric, ...] = (
    Metric("FD_PaSST", "passt", False, _frechet("passt_features_embed.pth")),
    Metric("FD_PANNs", "panns", False, _frechet("pann_features.pth", "2048")),
    Metric("FD_VGG", "vggish", False, _frechet("vggish_features.pth", "frames")),
    Metric("KL_PANNs", "panns", False, _kl("pann_features.pth", "logits")),
    Metric("KL_PaSST", "passt", False, _kl("passt_logits.pth")),
    Metric("IS", "panns", True, _inception("pann_features.pth", "logits")),
    Metric("IB_score", "imagebind", True, _imagebind),
    Metric("DeSync", "synchformer", False, _desync),
    Metric("FD_micro", "micro", False, _frechet("micro_features.pth", "64")),
    Metric("KL_micro", "micro", False, _kl("micro_features.pth", "logits")),
    Metric("IS_micro", "micro", True, _inception("micro_features.pth", "logits")),
    Metric("onset_F1", "onsets", True, _onset_f1),
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


def find_files(folder: str | Path, suffixes: Sequence[str] = SUFFIXES) -> dict[str, Path]:
    """Clip id (the stem) -> file; of several of one id the one whose suffix comes first."""
    found: dict[str, Path] = {}
    for suffix in reversed(suffixes):
        found |= {path.stem: path for path in sorted(Path(folder).glob(f"*{suffix}"))}
    return found


def extract(
    network: FeatureNetwork,
    files: Mapping[str, Path],
    folder: Path,
    device: str = "cpu",
    video: bool = False,
    on_clip: Callable[[int], None] = lambda clips: None,
) -> dict[str, str]:
    """Fill the network's feature files in ``folder`` for these clips; what they hold already is kept.

    Returns the clips that could not be read, with the reason. A file that another network or other weights
    made is begun again; one made elsewhere is only read, never written. ``video``: of the picture.
    """
    made_by = {"network": network.name, "weights": network.fingerprint}
    media = MediaConfig(seconds=network.seconds, sample_rate=network.rate)
    caches: dict[str, dict[str, Entry]] = {}
    for name in network.video_caches if video else network.caches:
        path = folder / name
        caches[name] = read_cache(path) if path.is_file() and maker(path) == made_by else {}
    todo = [clip_id for clip_id in sorted(files) if any(clip_id not in cache for cache in caches.values())]
    on_clip(len(files) - len(todo))
    failed: dict[str, str] = {}
    batch, since = 1 if video else _BATCH, 0
    for first in range(0, len(todo), batch):
        ids, inputs = [], []
        for clip_id in todo[first : first + batch]:
            try:
                path = files[clip_id]
                read = network.read_frames(path) if video else torch.from_numpy(decode_waveform(path, media))
                inputs.append(read)
                ids.append(clip_id)
            except ClipError as error:
                failed[clip_id] = str(error)
        if ids:
            stacked = torch.stack(inputs).to(device)
            for name, parts in (network.encode_video if video else network.encode)(stacked).items():
                for row, clip_id in enumerate(ids):
                    entry = {part: values[row].detach().cpu().clone() for part, values in parts.items()}
                    caches[name][clip_id] = entry.get("", entry)
        since += len(ids)
        last = first + batch >= len(todo)
        if since >= _SAVE_EVERY or (last and since):
            for name, entries in caches.items():
                write_cache(folder / name, entries, made_by)
            since = 0
        on_clip(min(batch, len(todo) - first))
    return failed


def gather(names: Sequence[str], folder: Path) -> Features:
    """What the feature files of one side hold, without clips whose features are not finite."""
    out = Features({})
    for name in names:
        entries, bad = finite(read_cache(folder / name))
        out.caches[name] = entries
        out.excluded |= dict.fromkeys(bad, f"NaN or Inf in {name}")
    return out


def confidence_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean over clips, by bootstrap (1000 resamples, fixed seed)."""
    random = np.random.default_rng(_SEED)
    means = values[random.integers(len(values), size=(_RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Side:
    """Where one side's sound, its videos (for networks that look at them) and its feature files are."""

    sounds: Path
    features: Path
    videos: Path | None = None


def evaluate(
    preset: Preset,
    networks: Sequence[str],
    generated: Side,
    reference: Side,
    device: str = "cpu",
    on_clip: Callable[[int, str], None] = lambda clips, note: None,
) -> Result:
    """Every metric of the named networks; one that cannot be computed is in ``skipped`` with its reason.

    Files are named by clip id; either side may have none where its feature files are already there. Raises
    :class:`InputError` where the two sides share no clip, and where nothing at all can be computed.
    """
    result = Result()
    sides = {"generated": generated, "reference": reference}
    ids: dict[str, set[str]] = {side: set(find_files(where.sounds)) for side, where in sides.items()}
    ready: dict[str, dict[str, Features]] = {}
    for name in networks:
        try:
            ready[name] = _both_sides(NETWORKS[name], preset, sides, device, on_clip, result)
        except (WeightsError, InputError) as error:
            result.skipped |= {metric.name: str(error) for metric in METRICS if metric.network == name}
            continue
        for side, features in ready[name].items():
            result.excluded |= {f"{clip_id} ({side})": reason for clip_id, reason in features.excluded.items()}
            ids[side] |= {clip_id for cache in features.caches.values() for clip_id in cache}
    if empty := [str(where.sounds) for side, where in sides.items() if not ids[side]]:
        raise InputError(f"there is neither sound ({', '.join(SUFFIXES)}) nor a feature file in {', '.join(empty)}")
    result.matched = sorted(ids["generated"] & ids["reference"])
    result.missing = sorted(ids["reference"] - ids["generated"])
    result.unmatched = sorted(ids["generated"] - ids["reference"])
    if not result.matched:
        examples = {side: ", ".join(sorted(found)[:2]) for side, found in ids.items()}
        raise InputError(
            f"no clip is on both sides: {len(ids['generated'])} generated such as {examples['generated']}, "
            f"{len(ids['reference'])} in the reference such as {examples['reference']}; both are named by clip id"
        )
    for metric in METRICS:
        if metric.network in ready:
            _compute(metric, ready[metric.network], result)
    if not result.values:
        reasons = "\n".join(dict.fromkeys(result.skipped.values()))
        raise InputError(f"no metric could be computed:\n{reasons}")
    return result


def _both_sides(
    kind: type[FeatureNetwork],
    preset: Preset,
    sides: Mapping[str, Side],
    device: str,
    on_clip: Callable[[int, str], None],
    result: Result,
) -> dict[str, Features]:
    """Features of both sides, made where they are not there; raises WeightsError or InputError."""
    network: FeatureNetwork | None = None
    out = {}
    for side, where in sides.items():
        video = side == "reference" and bool(kind.video_caches)
        names = kind.video_caches if video else kind.caches
        there = all((where.features / name).is_file() for name in names)
        # The videos may carry the generated sound: nothing but the picture is taken from them.
        files = find_files(where.videos or where.sounds, VIDEO_SUFFIXES) if video else find_files(where.sounds)
        if files and not (there and maker(where.features / names[0]) is None):
            network = network or load_network(kind, preset.weights.path, device)

            def count(clips: int, note: str = f"{kind.name}, {side}") -> None:
                on_clip(clips, note)

            failed = extract(network, files, where.features, device, video, count)
            result.excluded |= {f"{clip_id} ({side})": reason for clip_id, reason in failed.items()}
            there = all((where.features / name).is_file() for name in names)
        if not there:
            raise InputError(f"{where.features} has no {', '.join(names)}, and there is nothing to make it from")
        out[side] = gather(names, where.features)
        result.features[f"{kind.name} ({side})"] = maker(where.features / names[0]) or "made elsewhere"
    if kind.video_caches:  # the offset is told by a part of the network that reads both sides' features
        out["generated"].network = network or load_network(kind, preset.weights.path, device)
    return out


def _compute(metric: Metric, sides: Mapping[str, Features], result: Result) -> None:
    generated, reference = sides["generated"], sides["reference"]
    caches = [set(cache) for side in (generated, reference) for cache in side.caches.values()]
    common = set.intersection(set(result.matched), *caches)
    try:
        if not common:
            raise InputError(f"no clip has features of '{metric.network}' on both sides")
        value, per_clip = metric.compute(generated, reference, sorted(common))
    except InputError as error:
        result.skipped[metric.name] = str(error)
        return
    result.values[metric.name] = value
    if per_clip is not None and len(per_clip) > 1:
        result.intervals[metric.name] = confidence_interval(per_clip)
