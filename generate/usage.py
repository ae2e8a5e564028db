"""Flags of ``python -m generate`` that make no sense together."""

from __future__ import annotations

from pathlib import Path

import typer

from generate.outputs import SOUND_SUFFIXES

_MODES = {"video": "one video", "folder": "a folder of videos", "split": "a split of --cache"}
_VIDEOS = ("video", "folder")
# What a flag is for; those that are not named are for all.
_FOR: dict[str, tuple[str, ...]] = {
    "labels": ("folder",),
    "suffix": ("folder",),
    **dict.fromkeys(("label", "start", "duration", "audio", "gain", "rate", "candidates"), _VIDEOS),
    **dict.fromkeys(("manifest", "cache", "split", "cache_format"), ("split",)),
    **dict.fromkeys(("task_id", "num_tasks"), ("folder", "split")),
}


def check_usage(context: typer.Context, mode: str) -> None:
    """Raise :class:`typer.BadParameter` (exit code 2) that names both of what does not go together.

    ``mode``: ``video``, ``folder`` or ``split``.
    """
    values = context.params
    flags = {parameter.name: parameter.opts[0] for parameter in context.command.params if parameter.name}
    given = {name for name in flags if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"}
    for name in flags:
        if name in given and mode not in (modes := _FOR.get(name, tuple(_MODES))):
            meant = "no video was named" if mode == "split" else f"{values['video']} is {_MODES[mode]}"
            raise typer.BadParameter(f"{flags[name]} is for {' or '.join(_MODES[each] for each in modes)}, and {meant}")
    if {"label", "labels"} <= given:
        raise typer.BadParameter("--label and --labels: give one label for all, or a table of them")
    if "gain" in given and values["audio"] == "replace":
        raise typer.BadParameter(
            "--gain is of the video's own sound, which --audio replace leaves out: take mix or add-track"
        )
    suffix = _suffix(values["suffix"], values["output"], mode)
    if "rate" in given and suffix not in SOUND_SUFFIXES:
        raise typer.BadParameter(
            f"--rate is for {' and '.join(SOUND_SUFFIXES)}, and {suffix} files have sound of 48000 Hz: take another "
            f"{'--suffix' if mode == 'folder' else '-o'}, or leave --rate out"
        )
    if values["audio"] != "replace" and suffix in SOUND_SUFFIXES:
        raise typer.BadParameter(
            f"--audio {values['audio']} is for videos, and {suffix} files hold the generated sound alone"
        )


def _suffix(asked: str | None, output: Path, mode: str) -> str:
    """Of the outputs: of a folder by --suffix, of one video by -o."""
    if mode == "video":
        return output.suffix.lower() or ".mp4"
    return ".mp4" if asked is None else f".{asked.lower().removeprefix('.')}"
