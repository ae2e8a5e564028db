"""The study's page: tables of ours, the paper's order beside ours, Figure 3."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.writing import write_text
from micro.figure3 import draw_figure3
from micro.judge import HIGHER, TITLES
from micro.onsets import CAP_SECONDS, TOLERANCE_SECONDS
from micro.study import FIGURE3, LABEL, MFM, SHUFFLED, V2A, slug
from micro.study_measure import STILL_FALLING, convergence

_FUSED = {"Table 2": "CAVP+TimeChat", "Table 3": "concat"}  # what MFM-Mapper is called there
# Words of whoever runs the study, and what `python -m micro probe` found in it: taken in where they are.
REASONS, PROBE = "reasons.md", "probe.json"
# What a probe says of the same thing as a figure, and its title.
_PROBED = {
    "timing_error": ("instant_ap", "average precision of instants"),
    "class_probability": ("class_accuracy", "class accuracy"),
    "FD": ("class_accuracy", "class accuracy"),
}
_ENCODERS, _FUSIONS = (MFM, "CAVP", "TimeChat"), (MFM, "add", "cat")
# Table, its measure, its order; ours, rows.
_ORDERS = (
    ("Table 2", "FD_PaSST", "CAVP+TimeChat > CAVP > TimeChat", "FD", _ENCODERS),
    ("Table 2", "DeSync", "CAVP+TimeChat > CAVP > TimeChat", "timing_error", _ENCODERS),
    ("Table 2", "IB-score", "CAVP+TimeChat > TimeChat > CAVP", "class_probability", _ENCODERS),
    ("Table 2", "", "", "token_error", _ENCODERS),
    ("Table 3", "FD_PaSST", "concat > cat > add", "FD", _FUSIONS),
    ("Table 3", "DeSync", "concat > add > cat", "timing_error", _FUSIONS),
    ("Table 3", "", "", "token_error", _FUSIONS),
)


def cell(value: Sequence[float] | None) -> str:
    """Mean ± spread of a table; without the spread where there is none."""
    if value is None:
        return ""
    return f"{value[0]:.3f}" + (f" ± {value[1]:.3f}" if value[1] else "")


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _main_table(results: dict[str, Any]) -> str:
    lines = []
    for name, figures in results["figures"].items():
        about = results["trained"].get(name, {})
        trained = ["", "", ""]
        if about:
            trained = [f"{about['parameters'] / 1e6:.3f}", f"{about['hours']:.2f}", f"{about['scale']:.1f}"]
        lines.append([name, *(cell(figures.get(figure)) for figure in TITLES), *trained])
    return _table(["", *TITLES.values(), "parameters, M", "hours", "scale, h"], lines)


def _orders(results: dict[str, Any]) -> list[list[str]]:
    """Rows of the table of orders; those of the paper's Tables 2 and 3 as :data:`_ORDERS`, as far as they are made."""
    figures, lines = results["figures"], []
    for table, theirs, paper, figure, names in _made_orders(results):
        means = {name: figures[name][figure][0] for name in names}
        ranked = _ranked(means, figure in HIGHER).replace(MFM, _FUSED[table])
        lines.append([table, theirs, paper or "not given", TITLES[figure], ranked, _holds(paper, ranked)])
    return lines


def _made_orders(results: dict[str, Any]) -> list[tuple[str, str, str, str, tuple[str, ...]]]:
    return [order for order in _ORDERS if all(order[3] in results["figures"].get(name, {}) for name in order[4])]


def _figure3_orders(results: dict[str, Any]) -> list[list[str]]:
    trained = [name for name in FIGURE3 if name in results["curves"]]
    ends = {FIGURE3[name]: convergence(results["curves"][name])["error"] for name in trained}
    at_end = {FIGURE3[name]: points[-1]["figures"] for name, points in results["figure3"]["lines"].items()}
    ours, lines = [("validation error", ends, False)], []
    for figure in ("class_probability", "timing_error"):
        means = {name: figures[figure][0] for name, figures in at_end.items()}
        ours.append((TITLES[figure], means, figure in HIGHER))
    for title, means, higher in ours:
        if len(means) == 2:
            paper, ranked = "GPT-2 > Diff-Mapper", _ranked(means, higher)
            lines.append(["Figure 3", "all, at the end", paper, title, ranked, _holds(paper, ranked)])
    return lines


def _order_table(results: dict[str, Any]) -> str:
    head = ["", "the paper's measure", "its order, best first", "ours", "order here, best first", "same"]
    return _table(head, [*_orders(results), *_figure3_orders(results)])


def _probed(results: dict[str, Any], probes: dict[str, dict[str, Any]]) -> str:
    """Where an order is another than the paper's, what linear probes found of it: in features, and in tokens."""
    lines = []
    for (table, theirs, _, figure, names), row in zip(_made_orders(results), _orders(results), strict=True):
        if row[-1] != "no" or figure not in _PROBED:
            continue
        key, title = _PROBED[figure]
        subjects = ["cavp", "timechat", *(f"tokens of {slug(name)}-0" for name in names)]
        found = [f"{subject} {probes[subject][key]:.3f}" for subject in subjects if key in probes.get(subject, {})]
        lines.append(f"- {table}, {theirs}: {title} by linear probes of {', '.join(found)}.\n")
    return "\nWhere an order differs ([all probes](probe.md)):\n\n" + "".join(lines) if lines else ""


def _ranked(means: dict[str, float], higher: bool) -> str:
    return " > ".join(sorted(means, key=lambda name: means[name], reverse=higher))


def _holds(paper: str, ranked: str) -> str:
    return "" if not paper else "yes" if paper == ranked else "no"


def _tests_table(results: dict[str, Any]) -> str:
    lines = [
        [test["row"], test["other"], TITLES[test["figure"]], f"{test['better']:+.3f}", f"{test['p']:.1e}"]
        for test in results["tests"]
    ]
    return _table(["", "against", "figure", "better by", "p"], lines)


def _convergence_table(results: dict[str, Any]) -> str:
    lines = []
    for name, curve in results["curves"].items():
        found, epochs = convergence(curve), int(curve[0][-1][0])
        falling = f"still falls by more than {STILL_FALLING:.0%}" if found["fall"] > STILL_FALLING else ""
        lines.append([name, str(epochs), f"{found['error']:.3f}", f"{100 * found['fall']:+.1f} %", falling])
    return _table(["", "epochs", "validation error", "fall in the last tenth", ""], lines)


def _label_words(results: dict[str, Any]) -> str:
    """How much of the class the label gives, in figures."""
    figures, said = results["figures"], []
    for row, words in (
        (MFM, "with the right label"),
        ("MFM-Mapper, no label", "with an empty prompt"),
        ("MFM-Mapper, wrong label", "with the label of another class"),
        (LABEL, "by the label alone, without video"),
    ):
        if row in figures:
            told = figures[row].get("heard_as_told")
            heard = f" (and {told[0]:.1%} as the label says)" if told else ""
            said.append(f"{words} {figures[row]['class_accuracy'][0]:.1%}{heard}")
    return f"Of the test clips are heard as what is seen: {', '.join(said)}."


def write_report(results: dict[str, Any], folder: Path) -> Path:
    """``study.md`` and ``figure3.png``."""
    draw_figure3(results, folder / "figure3.png")
    clips, baseline = results["clips"], results["baseline"]
    missing = f"\nNot made yet, and not in the tables: {'; '.join(results['missing'])}.\n" if results["missing"] else ""
    by_v2a = f""" *{V2A}*: the
preset `{baseline}`, on the same clips and splits; its audio model reads no label, so *no label* is what compares
with it.""" if baseline else ""  # fmt: skip
    probe = folder / PROBE
    probed = _probed(results, json.loads(probe.read_text())["probes"]) if probe.is_file() else ""
    text = f"""# The study at micro scale

Written by `make study`, {results["seeds"]} seeds a mapper. {clips["rendered"]} rendered clips, {clips["test"]} test
clips of sizes that no training clip has, {clips["with events"]} of them with known instants.
Mean ± standard deviation over seeds.
{missing}
- class accuracy: by a classifier trained on true sounds only; the row *truth* is its own accuracy. class probability:
  what it gives to the class of the picture.
- events hit, F1: instants that have an onset of their own within {TOLERANCE_SECONDS} s, and the balance with false
  ones.
- timing error: mean distance between instants and onsets, both ways, at most {CAP_SECONDS} s. Chance (the instants of
  another clip of the same class): {results["chance_timing_error"]:.3f} s.
- loudness r: of sustained sounds, correlation of loudness with what is seen.
- FD: Fréchet distance in the classifier's features. token error: free-running, 1 is the variance of the
  training tokens; the mean token of the training clips has {results["mean_predictor_token_error"]:.3f}.
- parameters: of the trained mapper, counted. hours: of sound that it was trained on; scale, as in the paper's
  Table 1: times the epochs.

{_main_table(results)}

*ceiling*: truth through VAE and vocoder. *oracle*: true AudioMAE tokens. *{LABEL}*: AudioLDM-2's own GPT-2 on the
label, no video. *{SHUFFLED}*: MFM-Mapper on another test clip of the same class. *-M*: 2.5 times the epochs.
*16 % of clips*: of the training clips, of every class its share, another choice for each seed.{by_v2a}

## Against each other, on the same clips

Each clip's mean over the seeds; Wilcoxon's signed-rank test, two-sided. A positive difference: the first is better.

{_tests_table(results)}

## What the label gives

{_label_words(results)}

## The paper's order beside ours

{_order_table(results)}
{probed}
![Figure 3](figure3.png)

Figure 3 as in the paper, over {_most_epochs(results)} epochs. In place of IB-score and DeSync, which need networks of
real sound: the probability that the micro classifier gives to the picture's class, and the timing error, of
{results["figure3"]["clips"]} clips sampled with the option `fast`.

## Trained to convergence?

Free-running validation error, mean over seeds; how much of it it fell in the last tenth of the epochs, by the slope
of a line through them.

{_convergence_table(results)}
"""
    if (folder / REASONS).is_file():
        text += f"\n## Reasons\n\n{(folder / REASONS).read_text(encoding='utf-8').strip()}\n"
    if results.get("curve"):
        text += "\nSchedulers and steps, quality against cost: [curve.md](curve.md).\n"
    path = folder / "study.md"
    write_text(path, text)
    return path


def _most_epochs(results: dict[str, Any]) -> int:
    return max((int(seed[-1][0]) for name in FIGURE3 for seed in results["curves"].get(name, [])), default=0)
