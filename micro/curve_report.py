"""The figure and the page of the curve of quality against cost (:mod:`micro.curve`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from common.writing import replacing
from micro.judge import HIGHER, TITLES
from micro.onsets import CAP_SECONDS, TOLERANCE_SECONDS
from micro.points import DECIDES, worse
from micro.study_report import cell
from micro.study_sound import SYNTHESIS_BATCH

_SHOWN = ("class_accuracy", "onset_f1", "timing_error", "loudness", "FD")
_WORDS = {name: title.removesuffix(", s") for name, title in TITLES.items()}
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
_MARKERS = "osD^v"


def draw_curve(results: dict[str, Any], path: Path) -> None:
    """Each figure that decides against the seconds a clip, a line a scheduler, the first point's spread as a band."""
    points, first = results["points"], results["points"][0]
    figure, axes = plt.subplots(2, 2, figsize=(9.6, 7.0), sharex=True)
    for name, axis in zip(DECIDES, axes.flat, strict=True):
        mean, spread = first["figures"][name]
        if results["cheapest"]:
            axis.axhspan(mean - spread, mean + spread, color="0.88", zorder=0, label=f"{first['name']} ± spread")
        axis.axhline(mean, color="0.55", linewidth=1, linestyle="--", zorder=1, label=first["name"])
        for number, method in enumerate(dict.fromkeys(point["method"] for point in points)):
            own = sorted((p for p in points if p["method"] == method), key=lambda point: point["seconds"])
            seconds, values = [p["seconds"] for p in own], [p["figures"][name][0] for p in own]
            spreads = [p["figures"][name][1] for p in own]
            place = {"marker": _MARKERS[number % len(_MARKERS)], "markersize": 5, "linewidth": 1.4, "zorder": 3}
            axis.plot(seconds, values, color=f"C{number}", label=method, **place)
            axis.errorbar(seconds, values, spreads, color=f"C{number}", fmt="none", capsize=3, linewidth=1, alpha=0.45)
            # One scheduler's steps above right of its points, the next one's below left: equal steps cost the same.
            offset, side = ((6, 5), "left") if number % 2 == 0 else ((-6, -13), "right")
            for point, second, value in zip(own, seconds, values, strict=True):
                text = axis.annotate(
                    f"{point['steps']}", (second, value), offset, textcoords="offset points", ha=side, zorder=5,
                    color=f"C{number}", fontsize=9, fontweight="bold" if point["name"] == results["cheapest"] else None,
                )  # fmt: skip
                text.set_path_effects([withStroke(linewidth=3, foreground="white")])
        for chosen in (point for point in points if point["name"] == results["cheapest"]):
            axis.plot(
                chosen["seconds"], chosen["figures"][name][0], "o", markersize=14, markerfacecolor="none",
                markeredgecolor="black", linestyle="none", zorder=4, label=f"cheapest within it: {chosen['name']}",
            )  # fmt: skip
        axis.set_title(f"{TITLES[name]} ({'higher' if name in HIGHER else 'lower'} is better)", fontsize=10)
        axis.set_xscale("log")
        axis.grid(alpha=0.25)
        axis.margins(x=0.13, y=0.15)
        every = [point["seconds"] for point in points]
        ticks = [tick for tick in _TICKS if min(every) / 1.3 <= tick <= max(every) * 1.3]
        axis.xaxis.set_major_locator(FixedLocator(ticks))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_minor_formatter(NullFormatter())
    for axis in axes[-1]:
        axis.set_xlabel("CPU seconds a clip (numbers: steps)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=len(labels), frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.95))
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)


def write_curve(results: dict[str, Any], folder: Path) -> Path:
    """``curve.md`` and ``curve.png``."""
    draw_curve(results, folder / "curve.png")
    points, first = results["points"], results["points"][0]
    compared = results["cheapest"] is not None
    lines = []
    for point in points:
        cells = [cell(point["figures"][name]) for name in _SHOWN]
        times = f"{first['seconds'] / point['seconds']:.1f}"
        row = [point["name"], *cells, f"{point['seconds']:.2f}", times]
        if compared:
            faults = ", ".join(_WORDS[name] for name in worse(point, first)) or "no"
            row.append("" if point is first else faults)
        lines.append("| " + " | ".join(row) + " |")
    titles = ["", *(TITLES[name] for name in _SHOWN), "s a clip", "times faster", *(["worse"] if compared else [])]
    table = "\n".join(["| " + " | ".join(titles) + " |", "| --- |" + " --- |" * (len(titles) - 1), *lines])
    deciding = ", ".join(_WORDS[name] for name in DECIDES)
    if compared:
        mappers = f"{results['seeds']} trained mappers (mean ± standard deviation over their seeds)"
        rule = f"""- worse: in which of {deciding}
  the mean is worse than that of {first["name"]} by more than its spread.
"""
        found = f"The cheapest point that is worse in none of them: **{results['cheapest']}**."
    else:
        mappers, rule = "one trained mapper", ""
        found = "One mapper has no spread that the points could be compared by."
    text = f"""# Quality against cost of sampling, at micro scale

Written by `make study`, or by `python -m micro curve` for a study that is there. Preset `{results["preset"]}`,
{mappers}, {results["clips"]} test clips, {results["clips with events"]} of them with
known instants; the same start noise at every point.

{table}

- s a clip: CPU seconds of the sampler alone (UNet and scheduler, with guidance), one thread, batches of up to
  {SYNTHESIS_BATCH}, median over clips and seeds. Mapper, VAE and vocoder come on top and cost the same at every point.
- events F1: onsets within {TOLERANCE_SECONDS} s of the instants; timing error: at most {CAP_SECONDS} s.
- FD: in the features of the micro classifier. [study.md](study.md) has the ceiling and the controls of all figures.
{rule}
{found} The preset option `fast`
([generation.md](../generation.md#fewer-steps)) is {results["fast"]}. All this is of small models on a rendered
world, and shows nothing of the official AudioLDM-2.

![Quality against cost](curve.png)
"""
    path = folder / "curve.md"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
