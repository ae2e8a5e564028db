"""Which mapper a command takes, and what is said of it."""

from __future__ import annotations

from pathlib import Path

from common.console import out, shown
from presets import Preset
from trainer.registry import default_mapper, shipped_mapper


def mapper_source(run: str | None, settings: Preset, *, split: bool) -> str | Path:
    """What to load: ``run`` (a run, the folder of a mapper, a hub id), else the mapper that ships with the preset.

    The run ``runs/PRESET`` comes before it for a split, and instead of it where none ships. Raises
    :class:`WeightsError` where there is neither.
    """
    if run is not None:
        return run
    trained = Path("runs") / settings.name
    if (split or shipped_mapper(settings) is None) and (trained / "mapper").is_dir():
        return trained
    return default_mapper(settings)


def named_mapper(source: str | Path, settings: Preset) -> str:
    """For the summary."""
    return f"the one that ships with preset {settings.name}" if source == shipped_mapper(settings) else str(source)


def note_other_preset(trained: object, settings: Preset) -> None:
    """Only the visual encoders can be compared with the mapper's: not which target this audio model understands."""
    if trained not in (None, settings.name):
        out.print(
            f"note: the mapper was trained with preset '{shown(trained)}', and this is '{settings.name}': its tokens "
            f"mean something to {settings.audio_model} only if both have the same {settings.target}"
        )
