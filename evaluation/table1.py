"""The paper's Table 1 of several evaluated folders of sound: our measured rows above the paper's, which are quoted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from common.errors import InputError
from common.words import counted
from evaluation.evaluate import METRICS, Result
from evaluation.report import (
    PAPER_COLUMNS,
    cell,
    headings,
    hours,
    markdown_table,
    paper_rows,
    quoted,
    render,
    scale_and_parameters,
    write_texts,
)
from evaluation.systems import System
from manifests.names import as_markdown
from trainer.scale import Fitted

TITLE = "Table 1: measured and quoted"
BASELINE = "V2A-Mapper"  # the paper's; its kind of mapper is v2a


@dataclass(frozen=True)
class Row:
    """A measured row; ``mapper`` is None where OUT does not say what made it."""

    name: str
    folder: Path
    mapper: Fitted | None
    result: Result


def read_row(system: System) -> Row:
    """What ``make evaluate`` found of a folder; raises :class:`InputError` where it has not been evaluated."""
    path = system.folder / "evaluation.json"
    if not path.is_file():
        raise InputError(f"{system.folder} ({system.name}) is not evaluated: run make evaluate OUT={system.folder}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        result = Result(**{each.name: found[each.name] for each in fields(Result)})
        if not all(isinstance(value, int | float) for value in result.values.values()):
            raise TypeError("a value is no number")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is damaged, or not of make evaluate: run that again ({error})") from error
    return Row(system.name, system.folder, None if system.made is None else system.made.mapper, result)


def table1(rows: Sequence[Row]) -> tuple[list[str], list[list[str]], list[list[str]]]:
    """Header, measured and quoted rows; the paper's columns, and after them what else was measured."""
    measured = [metric.name for metric in METRICS.values() if any(metric.name in row.result.values for row in rows)]
    names = [*PAPER_COLUMNS, *(name for name in measured if name not in PAPER_COLUMNS)]
    ours = [
        [
            row.name,
            *scale_and_parameters(row.mapper),
            *(cell(row.result, name) if name in row.result.values else "" for name in names),
            str(len(row.result.matched)),
        ]
        for row in rows
    ]
    return (
        ["method", "Scale", "Param.", *headings(names), "clips"],
        ours,
        [[*row, ""] for row in quoted(names)],
    )


def shares(rows: Sequence[Row]) -> list[str]:
    """How much sound each system was trained on, of what V2A-Mapper was: measured, and the paper's claim."""
    paper = {
        row["method"]: row["scale_hours"]
        for row in paper_rows()
        if row["method"].startswith("MFM-Mapper") or row["method"] == BASELINE
    }
    known = {row.name: row.mapper for row in rows if row.mapper is not None}
    ours = {name: mapper.hours for name, mapper in known.items() if mapper.hours is not None}
    baseline = next((name for name in ours if known[name].kind == "v2a"), None)
    return [*(_shares(ours, baseline) if baseline else []), *_shares(paper, BASELINE, " (quoted from the paper)")]


def _shares(scales: Mapping[str, float], baseline: str, source: str = "") -> list[str]:
    whole = scales[baseline]
    return [
        f"{name} was trained on {100 * value / whole:.3g} % of the hours of {baseline}: "
        f"{hours(value)} of {hours(whole)}{source}"
        for name, value in scales.items()
        if name != baseline and whole > 0
    ]


def notes(rows: Sequence[Row]) -> list[str]:
    """Why rows may not be comparable, and what a row does not say."""
    said = []
    first, *others = rows
    for row in others:
        if {*row.result.matched} != {*first.result.matched}:
            said.append(
                f"{row.name} was measured on other clips than {first.name} ({len(row.result.matched)} and "
                f"{len(first.result.matched)}, {len({*row.result.matched} & {*first.result.matched})} of them the "
                f"same): their figures do not compare"
            )
        shared = {*row.result.features} & {*first.result.features}
        if differ := sorted(name for name in shared if row.result.features[name] != first.result.features[name]):
            said.append(f"{row.name} and {first.name} were measured with other weights of {', '.join(differ)}")
    for row in rows:
        if row.result.missing:
            said.append(f"{row.name} is a part: clips missing {counted(row.result.missing)}")
        if row.mapper is None:
            said.append(
                f"{row.folder} does not say what made it, so {row.name} has no Scale and no Param.: make generate "
                f"writes it, also where the sound is there already"
            )
        elif row.mapper.hours is None:
            said.append(f"the mapper of {row.name} does not say on how much sound it was trained")
    return said


def write_table1(rows: Sequence[Row], folder: Path) -> dict[str, Path]:
    """``table1.json``, ``table1.md`` and ``table1.html`` in ``folder``."""
    header, ours, paper = table1(rows)
    lines = [f"# {TITLE}", "", *markdown_table(header, [[as_markdown(row[0]), *row[1:]] for row in [*ours, *paper]])]
    lines += ["", "In brackets: 95 % interval of the mean over clips, by bootstrap. Scale: hours of sound trained on, "
              "over all epochs. Param.: trained parameters.", ""]  # fmt: skip
    lines += [f"- {as_markdown(line)}" for line in [*shares(rows), *notes(rows)]]
    found = {
        "header": header,
        "measured": [
            {**dict(zip(header, row, strict=True)), "out": str(r.folder)} for row, r in zip(ours, rows, strict=True)
        ],
        "quoted": [dict(zip(header, row, strict=True)) for row in paper],
        "shares": shares(rows),
        "notes": notes(rows),
    }
    page = render(
        "table1.html.j2",
        title=TITLE,
        header=header,
        measured=ours,
        quoted=paper,
        shares=shares(rows),
        notes=notes(rows),
    )
    return write_texts(
        folder, "table1", {"json": json.dumps(found, indent=1), "md": "\n".join(lines) + "\n", "html": page}
    )
