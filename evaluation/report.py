"""An evaluation as JSON, Markdown and a page: our row beside the paper's, which are quoted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2

from common.words import some
from common.writing import write_text
from evaluation.evaluate import METRICS, Result
from manifests.names import as_markdown
from trainer.scale import Fitted

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


def headings(names: Sequence[str]) -> list[str]:
    """Names of metrics, each with the direction that is better."""
    arrows = {metric.name: "↑" if metric.higher_is_better else "↓" for metric in METRICS.values()}
    return [f"{name} {arrows[name]}" for name in names]


def quoted(names: Sequence[str]) -> list[list[str]]:
    """The paper's rows, marked as quoted: method, Scale, Param., and these metrics."""
    return [
        [
            f"{row['method']} (quoted from the paper)",
            _quoted_scale(row["scale_hours"]),
            row["trainable_params"] or "",
            *("" if row.get(name) is None else str(row[name]) for name in names),
        ]
        for row in paper_rows()
    ]


def _quoted_scale(value: int | str | None) -> str:
    if isinstance(value, str):  # ">100000"
        return f"{value[0]}{hours(int(value[1:]))}"
    return "" if value is None else hours(value)


def hours(value: float) -> str:
    return f"{value:,.0f} h" if value >= 100 else f"{value:.3g} h"


def scale_and_parameters(mapper: Fitted | None) -> list[str]:
    """Scale and Param. of Table 1, computed from the mapper that made the sound; empty where that is not known."""
    if mapper is None:
        return ["", ""]
    return ["" if mapper.hours is None else hours(mapper.hours), f"{mapper.parameters / 1e6:.2f}M"]


def table(result: Result, mapper: Fitted | None = None) -> tuple[list[str], list[list[str]]]:
    """Header and rows: ours, made by ``mapper``, and the paper's where it has any of our columns."""
    names = columns(result)
    header = ["method", "Scale", "Param.", *headings(names)]
    body = [["this run", *scale_and_parameters(mapper), *(cell(result, name) for name in names)]]
    if set(names) & set(PAPER_COLUMNS):
        body += quoted(names)
    elif mapper is None:  # nothing to say in these two
        return [header[0], *header[3:]], [[body[0][0], *body[0][3:]]]
    return header, body


def markdown_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Its lines."""
    return ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *body)]


def markdown(result: Result, about: dict[str, str], mapper: Fitted | None = None) -> str:
    header, body = table(result, mapper)
    lines = [f"# {title(result)}", ""]
    lines += [f"- {name}: {as_markdown(value)}" for name, value in about.items()]
    lines += ["", *markdown_table(header, body)]
    lines += ["", "In brackets: 95 % interval of the mean over clips, by bootstrap.", ""]
    for name, reason in result.skipped.items():
        lines.append(f"- not computed: {name}: {as_markdown(reason.splitlines()[0])}")
    for name, ids in (("missing", result.missing), ("unmatched", result.unmatched)):
        if ids:
            lines.append(f"- {name}: {len(ids)}: {some(list(map(as_markdown, ids)), _LISTED)}")
    for clip_id, reason in list(result.excluded.items())[:_LISTED]:
        lines.append(f"- excluded: {as_markdown(clip_id)}: {as_markdown(reason)}")
    return "\n".join(lines).rstrip() + "\n"


def write_report(result: Result, folder: Path, about: dict[str, str], mapper: Fitted | None = None) -> dict[str, Path]:
    """``evaluation.json`` (everything, every id), ``evaluation.md`` and ``evaluation.html`` in ``folder``."""
    header, body = table(result, mapper)
    page = render(
        "report.html.j2", title=title(result), about=about, header=header, body=body, result=result, listed=_LISTED
    )
    texts = {
        "json": json.dumps({"title": title(result), "about": about, **asdict(result)}, indent=1),
        "md": markdown(result, about, mapper),
        "html": page,
    }
    return write_texts(folder, "evaluation", texts)


def render(template: str, **values: Any) -> str:
    """One of the pages of this folder."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(_HERE), autoescape=True)
    return environment.get_template(template).render(**values)


def write_texts(folder: Path, name: str, texts: Mapping[str, str]) -> dict[str, Path]:
    """``folder/name.suffix`` for each text by suffix."""
    paths = {suffix: folder / f"{name}.{suffix}" for suffix in texts}
    for suffix, text in texts.items():
        write_text(paths[suffix], text)
    return paths
