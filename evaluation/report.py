"""An evaluation as JSON, Markdown and a page: our row beside the paper's, which are quoted."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2

from common.words import some
from common.writing import replacing
from evaluation.evaluate import METRICS, Result
from manifests.names import as_markdown

_HERE = Path(__file__).parent
_LISTED = 20
# Table 1's columns in our names; the IB-score is shown times 100 there and here.
PAPER_COLUMNS = ("FD_PaSST", "FD_PANNs", "FD_VGG", "KL_PANNs", "KL_PaSST", "IS", "IB_score", "DeSync")


@lru_cache(maxsize=1)
def paper_rows() -> list[dict[str, Any]]:
    """Table 1 of the paper, a dict a method."""
    table = json.loads((_HERE / "paper_tables.json").read_text())["table1"]
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


def title(result: Result) -> str:
    """What was evaluated; a part of a reference says that it is one."""
    total = len(result.matched) + len(result.missing)
    if result.whole:
        return f"Evaluation of {len(result.matched)} clips"
    return f"Evaluation of a PART: {len(result.matched)} of the {total} reference clips"


def columns(result: Result) -> list[str]:
    return [metric.name for metric in METRICS.values() if metric.name in result.values]


def cell(result: Result, name: str) -> str:
    """Value, and its interval where there is one."""
    value = f"{result.values[name]:.4g}"
    if name in result.intervals:
        low, high = result.intervals[name]
        value += f" [{low:.3g}, {high:.3g}]"
    return value


def table(result: Result) -> tuple[list[str], list[list[str]]]:
    """Header and rows: ours, and the paper's where it has any of our columns."""
    names = columns(result)
    arrows = {metric.name: "↑" if metric.higher_is_better else "↓" for metric in METRICS.values()}
    header = ["method", *(f"{name} {arrows[name]}" for name in names)]
    body = [["this run", *(cell(result, name) for name in names)]]
    if set(names) & set(PAPER_COLUMNS):
        for row in paper_rows():
            body.append([f"{row['method']} (quoted from the paper)", *(str(row.get(name, "")) for name in names)])
    return header, body


def markdown(result: Result, about: dict[str, str]) -> str:
    header, body = table(result)
    lines = [f"# {title(result)}", ""]
    lines += [f"- {name}: {as_markdown(value)}" for name, value in about.items()]
    lines += ["", "| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in body]
    lines += ["", "In brackets: 95 % interval of the mean over clips, by bootstrap.", ""]
    for name, reason in result.skipped.items():
        lines.append(f"- not computed: {name}: {as_markdown(reason.splitlines()[0])}")
    for name, ids in (("missing", result.missing), ("unmatched", result.unmatched)):
        if ids:
            lines.append(f"- {name}: {len(ids)}: {some(list(map(as_markdown, ids)), _LISTED)}")
    for clip_id, reason in list(result.excluded.items())[:_LISTED]:
        lines.append(f"- excluded: {as_markdown(clip_id)}: {as_markdown(reason)}")
    return "\n".join(lines).rstrip() + "\n"


def write_report(result: Result, folder: Path, about: dict[str, str]) -> dict[str, Path]:
    """``evaluation.json`` (everything, every id), ``evaluation.md`` and ``evaluation.html`` in ``folder``."""
    header, body = table(result)
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(_HERE), autoescape=True)
    page = environment.get_template("report.html.j2").render(
        title=title(result), about=about, header=header, body=body, result=result, listed=_LISTED
    )
    texts = {
        "json": json.dumps({"title": title(result), "about": about, **asdict(result)}, indent=1),
        "md": markdown(result, about),
        "html": page,
    }
    paths = {}
    for suffix, text in texts.items():
        paths[suffix] = folder / f"evaluation.{suffix}"
        with replacing(paths[suffix]) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return paths
