"""``python -m micro probe``: what every feature and every stage of sound knows, and where it is lost."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from common.errors import InputError, WeightsError
from common.writing import replacing, write_text
from micro.bench import Bench, features, tokens_of
from micro.ceiling import ceilings
from micro.fit import Fit
from micro.models import STAGES, MicroModels, Steps
from micro.networks import load_classifier
from micro.probe_report import probe_line, write_tables
from micro.probes import probe
from micro.study import Study
from presets import load_preset
from trainer.gpt2_mapper import GPT2Mapper
from trainer.mapper import read_spec
from trainer.registry import mapper_folder, shipped_mapper

JSON, TABLES = "probe.json", "probe.md"


@contextmanager
def weights_of(models: Path | None, assignments: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Assignments for a preset with the weights of a training's folder, as they would ship; without one, as given.

    Also of a folder that they were exported to, which is quicker: stages look for the scenes that they learnt from,
    and where those were not kept they are rendered again. Nothing is trained. Raises :class:`InputError` for a folder
    in which a stage has no checkpoint.
    """
    if models is None:
        yield tuple(assignments)
        return
    if (models / "audiomae.safetensors").is_file():
        yield (*assignments, "weights.source=shipped", f"weights.folder={models.resolve()}")
        return
    if missing := [name for name in STAGES if not (models / f"{name}.pt").is_file()]:
        raise InputError(f"{models} has no checkpoint of {', '.join(missing)}: python -m micro train --folder {models}")
    until, Fit.until = Fit.until, -1  # every stage ends with the weights that its checkpoint has
    folder = Path(tempfile.mkdtemp(prefix="micro-probe-"))
    try:
        seeded = load_preset("micro", [*assignments, "weights.source=seeded"])
        MicroModels(seeded, models, Steps()).export(folder)
        yield (*assignments, "weights.source=shipped", f"weights.folder={folder}")
    finally:
        Fit.until = until
        shutil.rmtree(folder, ignore_errors=True)


def default_output(study: Path | None, models: Path | None) -> Path:
    """The folder of a study, or that of a training, whose card then has the table; else ``runs/probe``."""
    trained = models is not None and (models / f"{STAGES[0]}.pt").is_file()
    return study or (models if trained and models else Path("runs/probe"))


def make_bench(
    study: Path | None, assignments: tuple[str, ...], mappers: Sequence[Path], device: str, train: int, test: int
) -> Bench:
    """On a study's clips, or on scenes in memory; mappers besides those of a study, default the shipped one.

    Raises :class:`WeightsError` for a folder that holds no mapper.
    """
    named = {path.parent.name if path.name == "mapper" else path.name: path for path in mappers}
    for path in named.values():
        read_spec(mapper_folder(path))
    if study is not None:
        return Bench.of_study(Study(study, assignments=assignments), device, named, train, test)
    preset = load_preset("micro", assignments)
    shipped = shipped_mapper(preset)
    if not named and shipped is not None and shipped.is_dir():
        named = {"MFM-Mapper": shipped}
    return Bench.rendered(preset, device, named, train, test)


def run_probe(bench: Bench, names: str, ceiling: int, output: Path, note: Callable[[str], None]) -> dict[str, Any]:
    """Probe every feature; the ceiling on so many test scenes of each class. Writes ``probe.json`` and ``probe.md``.

    A feature whose weights are not there is left out, with the reason.
    """
    started = time.monotonic()
    results: dict[str, Any] = {
        "preset": bench.preset.name,
        "scenes": {split: len(bench.subjects.rows(split)) for split in ("train", "validation", "test")},
        "probes": {},
        "left_out": {},
    }
    chosen = features(bench, names)
    for name, make in chosen.items():
        try:
            feature = make(bench)
        except WeightsError as error:
            results["left_out"][name] = str(error).splitlines()[0]
            continue
        results["probes"][name] = {"shape": list(feature.values.shape[1:]), **probe(bench.subjects, feature)}
        note(f"after {time.monotonic() - started:.0f} s {name}: {probe_line(results['probes'][name])}")
    results["mapper_inputs"] = {name: mapper_inputs(bench, name) for name in bench.mappers if tokens_of(name) in chosen}
    if ceiling:
        labels, test = bench.subjects.label, bench.subjects.rows("test")
        rows = sorted(row for n in set(labels[test].tolist()) for row in test[labels[test] == n][:ceiling].tolist())
        results["ceiling_scenes"] = len(rows)
        results["ceiling"] = ceilings(bench, load_classifier(bench.preset), rows, note)
    results["seconds"] = round(time.monotonic() - started)
    write_text(output / JSON, json.dumps(results, indent=1))
    with replacing(output / TABLES) as temporary:
        temporary.write_text(write_tables(results), encoding="utf-8")
    return results


@torch.inference_mode()
def mapper_inputs(bench: Bench, name: str) -> dict[str, dict[str, float]]:
    """Of what a GPT-2 mapper reads: mean norm, and root mean square over time around a clip's mean.

    What each stream adds to a row of V_e, the rows themselves, the position embeddings they get, the tokens.
    """
    mapper = bench.mapper(name)
    if not isinstance(mapper, GPT2Mapper):
        return {}
    test = bench.subjects.rows("test")
    streams = bench.visual(mapper, test.tolist())
    parts = {f"feature {stream}": values for stream, values in streams.items()}
    nothing = {stream: torch.zeros_like(values) for stream, values in streams.items()}
    offset = mapper.fusion(nothing)
    for stream in streams:
        parts[f"{stream} in V_e"] = mapper.fusion({**nothing, stream: streams[stream]}) - offset
    fused = mapper.fusion(streams)
    parts["V_e"] = fused
    positions = mapper.gpt2.wpe.weight[1 : 1 + fused.shape[1]]
    parts["position embeddings of V_e"] = positions[None]
    parts["true tokens"] = torch.from_numpy(bench.encoder(bench.preset.target)[test]).float()
    out = {}
    for key, values in parts.items():
        spread = (values - values.mean(1, keepdim=True)).square().sum(-1).mean().sqrt()
        out[key] = {"norm": float(values.norm(dim=-1).mean()), "over_time": float(spread)}
    return out
