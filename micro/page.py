"""The demo's page: every clip with its truth, what is seen and what is heard on one time line, and the scores."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow.parquet as pq

from common.errors import InputError
from common.writing import replacing
from evaluation.figure2 import choose_clips, read_column, write_figure2
from evaluation.systems import System
from micro.networks import MicroClassifier
from micro.onsets import TOLERANCE_SECONDS, compare_onsets, find_onsets, loudness_agreement
from micro.study import scene
from micro.world.scene import SECONDS, Scene
from pipeline.media.writing import read_wav

FIGURE, FIGURE_CLIPS = "figure2.png", 3
_WIDTH, _ROW, _LEFT = 900, 26, 110  # of the time line, pixels
_STEPS = 80  # of a loudness curve


def clip_rows(out: Path, classifier: MicroClassifier) -> list[dict[str, Any]]:
    """What the page shows of each generated clip, in the order of ``made.parquet``."""
    path = out / "made.parquet"
    if not path.is_file():
        raise InputError(f"{out} holds no made.parquet: make generate writes it")
    made = [row for row in pq.read_table(path).to_pylist() if row["wav"]]
    if not made:
        raise InputError(f"{path} lists no clip that was made")
    sounds = {row["clip_id"]: read_wav(out / row["wav"])[0] for row in made}
    _, logits = classifier.classify_all(np.stack([sounds[row["clip_id"]] for row in made]))
    rows = []
    for row, values in zip(made, logits, strict=True):
        clip_id = row["clip_id"]
        truth_path = out / "truth" / f"{clip_id}.wav"
        truth = read_wav(truth_path)[0] if truth_path.is_file() else None
        seen, heard_as = scene(clip_id), classifier.labels[int(values.argmax())]
        rows.append(
            {
                "clip_id": clip_id,
                "label": row["label"],
                "heard_as": heard_as,
                "right": heard_as == row["label"],
                "timeline": timeline(seen, sounds[clip_id], truth),
                "truth": truth is not None,
                **_measures(seen, sounds[clip_id]),
            }
        )
    return rows


def _measures(seen: Scene, sound: np.ndarray) -> dict[str, Any]:
    if seen.sustained:
        times = (np.arange(40) + 0.5) / 4
        return {"timing": None, "loudness": loudness_agreement(sound, seen.level(times))}
    return {"timing": compare_onsets(seen.onsets, find_onsets(sound)), "loudness": None}


def timeline(seen: Scene, sound: np.ndarray, truth: np.ndarray | None) -> str:
    """An SVG of three rows: seen, heard in the truth, heard in the generated sound."""
    rows = [("seen", _marks(seen.onsets) if not seen.sustained else _curve(_seen_level(seen)))]
    for name, waveform in (("truth", truth), ("generated", sound)):
        if waveform is None:
            continue
        rows.append((name, _curve(_loudness(waveform)) if seen.sustained else _marks(find_onsets(waveform).tolist())))
    height = _ROW * len(rows) + 16
    parts = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="events seen and heard">']
    for second in range(SECONDS + 1):
        x = _x(second)
        parts.append(f'<line x1="{x}" x2="{x}" y1="0" y2="{height - 14}" class="grid"/>')
        parts.append(f'<text x="{x}" y="{height - 2}" class="tick">{second}</text>')
    for number, (name, drawing) in enumerate(rows):
        parts.append(f'<g transform="translate(0 {number * _ROW})" class="{name}">')
        parts.append(f'<text x="0" y="{_ROW * 0.7:.0f}">{name}</text>{drawing}</g>')
    return "".join([*parts, "</svg>"])


def _x(seconds: float) -> str:
    return f"{_LEFT + (_WIDTH - _LEFT - 8) * seconds / SECONDS:.1f}"


def _marks(times: Sequence[float]) -> str:
    return "".join(f'<line x1="{_x(t)}" x2="{_x(t)}" y1="4" y2="{_ROW - 4}" class="mark"/>' for t in times)


def _curve(levels: np.ndarray) -> str:
    top = max(float(levels.max()), 1e-9)
    points = [
        f"{_x((number + 0.5) * SECONDS / len(levels))},{_ROW - 4 - (_ROW - 8) * level / top:.1f}"
        for number, level in enumerate(levels)
    ]
    return f'<polyline points="{" ".join(points)}" class="curve"/>'


def _seen_level(seen: Scene) -> np.ndarray:
    return seen.level((np.arange(_STEPS) + 0.5) * SECONDS / _STEPS)


def _loudness(waveform: np.ndarray) -> np.ndarray:
    return np.array([np.sqrt(np.mean(part**2)) for part in np.array_split(waveform.astype(np.float64), _STEPS)])


def write_page(
    out: Path, classifier: MicroClassifier, note: str, beside: Sequence[System] = ()
) -> tuple[Path, dict[str, str]]:
    """``report.html`` in ``out``; returns it and the scores it begins with.

    With other systems ``beside`` it shows the paper's Figure 2 of the first three clips that all have.
    """
    rows = clip_rows(out, classifier)
    timed = [row["timing"] for row in rows if row["timing"] is not None]
    loud = [row["loudness"] for row in rows if row["loudness"] is not None]
    scores = {"clips": str(len(rows)), "class heard is right": f"{np.mean([row['right'] for row in rows]):.0%}"}
    if timed:
        hits, known = sum(t.hits for t in timed), sum(t.known for t in timed)
        scores[f"events hit within {TOLERANCE_SECONDS} s"] = f"{hits} of {known}"
        scores["timing error"] = f"{np.mean([t.error for t in timed]):.3f} s"
    if loud:
        scores["loudness of sustained sounds, correlation"] = f"{np.mean(loud):.2f}"
    evaluation = out / "evaluation.json"
    if evaluation.is_file():
        scores |= {name: f"{value:.3g}" for name, value in json.loads(evaluation.read_text())["values"].items()}
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
    figure = figure2(out, beside) if beside else []
    page = environment.get_template("page.html.j2").render(rows=rows, scores=scores, note=note, figure=figure)
    path = out / "report.html"
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path, scores


def figure2(out: Path, beside: Sequence[System]) -> list[dict[str, Any]]:
    """Draw ``figure2.png`` in ``out``; of each of its clips the label, and the sound of each system from ``out``."""
    systems = [System("MFM-Mapper", out), *beside]
    columns = [read_column(clip_id, systems) for clip_id in choose_clips(systems, (), FIGURE_CLIPS)]
    write_figure2(out / FIGURE, columns)
    return [
        {
            "label": column.label,
            "sounds": {system.name: os.path.relpath(system.sounds[column.clip_id], out) for system in systems},
        }
        for column in columns
    ]
