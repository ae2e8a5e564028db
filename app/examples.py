"""Films to try: the demo's test clips where they are, else a few of its kind, rendered now."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from micro.world.render import KINDS, make_scene, render_frames, render_waveform
from micro.world.scene import FRAMES_PER_SECOND, SAMPLE_RATE
from pipeline.media.writing import write_video

DEMO = Path("demo/clips/test")
# One of each family that the micro models tell apart well, and whose events are seen.
LABELS = ("ball bouncing", "dog barking", "drum beating", "clock ticking", "hammer striking", "owl hooting")
CLASSES = tuple(KINDS)
_SEED = 20  # of scenes that no data set of ours has


def examples(folder: str | Path, count: int = len(LABELS), demo: str | Path = DEMO) -> Iterator[tuple[Path, str]]:
    """Up to ``count`` films with their labels: 10 s each, of sizes that no model was trained on.

    A film of the demo is given as it is; one that is rendered is written into ``folder``.
    """
    for label in LABELS[:count]:
        name = label.replace(" ", "_")
        made = sorted(Path(demo, name).glob("*.mp4"))
        yield made[0] if made else _rendered(Path(folder) / f"{name}.mp4", label), label


def _rendered(path: Path, label: str) -> Path:
    scene = make_scene(label, _SEED, "test")
    write_video(path, render_frames(scene), FRAMES_PER_SECOND, render_waveform(scene), SAMPLE_RATE)
    return path
