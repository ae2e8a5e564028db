"""Tables of :mod:`micro.probe` in Markdown: for its own page, and for the card of the weights."""

from __future__ import annotations

from typing import Any

_PROBES = {
    "class": "class_accuracy",
    "size r": "size_r",
    "level r": "level_r",
    "instant AP, 125 ms": "instant_ap",
    "instant AP, 250 ms": "instant_ap_250",
}
_CEILING = {
    "class": "class_accuracy",
    "onset F1": "onset_f1",
    "timing error, s": "timing_error",
    "loudness r": "loudness_r",
}


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join([_row(*head), _row(*["---"] * len(head)), *(_row(*row) for row in rows)])


def _number(values: dict[str, Any], name: str) -> str:
    return f"{values[name]:.3f}" if name in values else ""


def probe_table(results: dict[str, Any]) -> str:
    """What each feature knows."""
    rows = [
        [name, " x ".join(map(str, one["shape"])), *(_number(one, key) for key in _PROBES.values())]
        for name, one in results["probes"].items()
    ]
    return _table(["feature", "shape", *_PROBES], rows)


def ceiling_table(results: dict[str, Any]) -> str:
    """What each stage leaves."""
    rows = [[stage, *(_number(one, key) for key in _CEILING.values())] for stage, one in results["ceiling"].items()]
    return _table(["stage", *_CEILING], rows)


def card_section(results: dict[str, Any]) -> str:
    """The section of the model card, from what is in ``probe.json``."""
    scenes = results["scenes"]
    chance = next((one["instant_share"] for one in results["probes"].values()), 0.0)
    text = (
        f"## What each part knows\n\nBy `python -m micro probe`: linear probes trained on {scenes['train']} scenes, "
        f"their ridge chosen on {scenes['validation']}, measured on {scenes['test']} of held-out sizes. Class: "
        "accuracy of a logistic regression of the feature pooled over time. Size, and level (loudness as it is seen, "
        "of sustained sounds, each 250 ms): correlation, given the class. Instant (whether something begins to "
        f"sound): average precision; chance is {chance:.3f} at 125 ms.\n\n"
        f"{probe_table(results)}\n"
    )
    if "ceiling" in results:
        text += (
            f"\nThe ceiling by stage, {results['ceiling_scenes']} scenes: class by the shipped classifier.\n\n"
            f"{ceiling_table(results)}\n"
        )
    return text


def write_tables(results: dict[str, Any]) -> str:
    """The page: the card's section, then everything by class."""
    text = f"# Probes of the preset {results['preset']}\n\n{card_section(results)}"
    if results["left_out"]:
        text += "\nLeft out:\n\n" + "\n".join(f"- {name}: {why}" for name, why in results["left_out"].items()) + "\n"
    for title, key in (
        ("Class accuracy", "class_accuracy_by_class"),
        ("Level r", "level_r_by_class"),
        ("Instant AP, 125 ms", "instant_ap_by_class"),
    ):
        labels = list(next((one[key] for one in results["probes"].values()), {}))
        rows = [[name, *(f"{one[key][label]:.2f}" for label in labels)] for name, one in results["probes"].items()]
        text += f"\n## {title} of the probes, by class\n\n{_table(['feature', *labels], rows)}\n"
    for title, key in _CEILING.items():
        stages = results.get("ceiling", {})
        if stages:
            labels = [label for label, one in next(iter(stages.values()))["by_class"].items() if key in one]
            rows = [[s, *(f"{one['by_class'][label][key]:.2f}" for label in labels)] for s, one in stages.items()]
            text += f"\n## Ceiling, by class: {title}\n\n{_table(['stage', *labels], rows)}\n"
    text += "\n## Taken for another class\n\n"
    heard = {f"{stage}, by ear": one for stage, one in results.get("ceiling", {}).items()}
    for name, one in {**results["probes"], **heard}.items():
        wrong = "; ".join(
            f"{true} for {', '.join(f'{other} ({count})' for other, count in others.items())}"
            for true, others in one["confusions"].items()
        )
        text += f"- {name}: {wrong or 'nothing'}\n"
    if any(results["mapper_inputs"].values()):
        rows = [
            [name, part, f"{one['norm']:.3f}", f"{one['over_time']:.3f}"]
            for name, parts in results["mapper_inputs"].items()
            for part, one in parts.items()
        ]
        text += (
            "\n## What the mappers read\n\nMean norm of a row, and its root mean square distance over time from the "
            f"clip's mean.\n\n{_table(['mapper', 'part', 'norm', 'over time'], rows)}\n"
        )
    return text


def rows_of(results: dict[str, Any]) -> dict[str, str]:
    """A line for each feature and stage, as the command shows them."""
    lines = {name: probe_line(one) for name, one in results["probes"].items()}
    for stage, one in results.get("ceiling", {}).items():
        lines[f"ceiling: {stage}"] = ", ".join(f"{t} {one[key]:.3f}" for t, key in _CEILING.items() if key in one)
    return lines


def probe_line(one: dict[str, Any]) -> str:
    return ", ".join(f"{title} {one[key]:.3f}" for title, key in _PROBES.items())
