"""A small audiovisual world: 10-s clips of things that visibly hit, flash or move while they sound.

What is seen decides the sound: when (events), how hard (loudness) and how big (pitch). Everything
follows from one seed, so every machine renders the same pixels and samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from pipeline.manifest import clip_name
from pipeline.media_writing import write_video

SECONDS, FRAMES_PER_SECOND, SAMPLE_RATE = 10, 20, 16_000
WIDTH, HEIGHT = 256, 192
_SAMPLES = SECONDS * SAMPLE_RATE


@dataclass(frozen=True)
class Event:
    time: float  # seconds
    strength: float  # 0 to 1


@dataclass(frozen=True)
class Scene:
    """One clip: its class, the events seen and heard, and what it looks like."""

    label: str
    events: tuple[Event, ...]
    size: float  # 0 (small, high) to 1 (large, low)
    colour: tuple[int, int, int]
    background: tuple[int, int, int]
    seed: int
    extra: dict[str, float] = field(default_factory=dict)


def _envelope(time: np.ndarray, decay: float) -> np.ndarray:
    return np.where(time >= 0, np.exp(-np.maximum(time, 0) / decay), 0.0)


def _add(track: np.ndarray, start: float, sound: np.ndarray) -> None:
    first = round(start * SAMPLE_RATE)
    last = min(first + len(sound), len(track))
    if last > first:
        track[first:last] += sound[: last - first]


def _impacts(scene: Scene, partials: list[float], decay: float, base: float, noise: float) -> np.ndarray:
    """Struck bodies: decaying partials over a base pitch that falls with size, and a burst of noise."""
    random = np.random.default_rng(scene.seed)
    track = np.zeros(_SAMPLES)
    time = np.arange(round(6 * decay * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = base * 2 ** (1 - 2 * scene.size)
    for event in scene.events:
        sound = sum(
            np.sin(2 * np.pi * pitch * ratio * time) * _envelope(time, decay / (1 + index)) / (1 + index)
            for index, ratio in enumerate(partials)
        )
        burst = random.standard_normal(len(time)) * _envelope(time, 0.008) * noise
        _add(track, event.time, event.strength * (sound + burst))
    return track


def _ball(scene: Scene) -> np.ndarray:
    return _impacts(scene, [1.0, 1.6], 0.06, 160, 0.6)


def _hammer(scene: Scene) -> np.ndarray:
    return _impacts(scene, [1.0, 2.76, 5.4, 8.9], 0.25, 620, 0.4)


def _clock(scene: Scene) -> np.ndarray:
    return _impacts(scene, [1.0, 1.5], 0.012, 2200, 0.8)


def _siren(scene: Scene) -> np.ndarray:
    time = np.arange(_SAMPLES) / SAMPLE_RATE
    sweep = np.sin(2 * np.pi * scene.extra["rate"] * time)
    pitch = 500 * 2 ** (1 - scene.size) * 2 ** (0.5 * sweep)
    loud = np.interp(time, [e.time for e in scene.events], [e.strength for e in scene.events])
    return np.tanh(2 * np.sin(2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE)) * loud


def _bird(scene: Scene) -> np.ndarray:
    track = np.zeros(_SAMPLES)
    time = np.arange(round(0.16 * SAMPLE_RATE)) / SAMPLE_RATE
    for event in scene.events:
        pitch = (2600 - 900 * scene.size) * (1 + 0.5 * np.sin(2 * np.pi * 9 * time) + 2 * time)
        sound = np.sin(2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE) * np.sin(np.pi * time / time[-1]) ** 2
        _add(track, event.time, event.strength * sound)
    return track


def _rain(scene: Scene) -> np.ndarray:
    random = np.random.default_rng(scene.seed)
    time = np.arange(_SAMPLES) / SAMPLE_RATE
    loud = np.interp(time, [e.time for e in scene.events], [e.strength for e in scene.events])
    noise = random.standard_normal(_SAMPLES)
    return 0.6 * np.diff(noise, prepend=0.0) * loud


Draw = Callable[[ImageDraw.ImageDraw, Scene, float], None]


def _since(scene: Scene, time: float) -> float:
    """Seconds since the latest event (10 if there is none)."""
    return min((time - event.time for event in scene.events if event.time <= time), default=10.0)


def _disc(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)


def _draw_ball(draw: ImageDraw.ImageDraw, scene: Scene, time: float) -> None:
    floor, radius = HEIGHT - 25, 10 + 22 * scene.size
    draw.rectangle([0, floor, WIDTH, HEIGHT], fill=(90, 70, 50))
    before = [event.time for event in scene.events if event.time <= time]
    after = [event.time for event in scene.events if event.time > time]
    if before and after:  # a parabola between two bounces
        span = after[0] - before[-1]
        height = 4.9 * 60 * (time - before[-1]) * (after[0] - time) / max(span, 0.3)
    elif after:
        height = 4.9 * 60 * ((after[0] + 1.0) ** 2 - (time + 1.0) ** 2) / 4
    else:
        height = 0.0
    x = WIDTH * (0.3 + 0.04 * time)
    _disc(draw, x, floor - radius - min(height, 2 * HEIGHT), radius, scene.colour)


def _draw_hammer(draw: ImageDraw.ImageDraw, scene: Scene, time: float) -> None:
    draw.rectangle([110, 140, 190, 165], fill=(70, 70, 80))
    next_hit = min((event.time - time for event in scene.events if event.time > time), default=10.0)
    lift = min(_since(scene, time) / 0.35, next_hit / 0.12, 1.0)
    angle = -1.1 * lift
    x, y = 60 + 90 * np.cos(angle), 135 + 90 * np.sin(angle)
    draw.line([60, 135, x, y], fill=(140, 100, 60), width=6)
    half = 10 + 12 * scene.size
    draw.rectangle([x - half, y - half, x + half, y + half], fill=scene.colour)
    if _since(scene, time) < 0.1:
        _disc(draw, 150, 138, 14, (255, 240, 160))


def _draw_clock(draw: ImageDraw.ImageDraw, scene: Scene, time: float) -> None:
    _disc(draw, 128, 70, 30 + 25 * scene.size, scene.colour)
    passed = sum(event.time <= time for event in scene.events)
    swing = 0.6 * (1 if passed % 2 else -1) * min(_since(scene, time) / 0.1, 1.0)
    x, y = 128 + 100 * np.sin(swing), 70 + 100 * np.cos(swing)
    draw.line([128, 70, x, y], fill=(30, 30, 30), width=4)
    _disc(draw, x, y, 10, (200, 170, 40))


def _draw_siren(draw: ImageDraw.ImageDraw, scene: Scene, time: float) -> None:
    draw.rectangle([60, 120, 196, 160], fill=(220, 220, 230))
    glow = 0.5 + 0.5 * np.sin(2 * np.pi * scene.extra["rate"] * time)
    loud = float(np.interp(time, [e.time for e in scene.events], [e.strength for e in scene.events]))
    bright = int(255 * glow * loud)
    _disc(draw, 128, 105, 18 + 25 * scene.size, (bright, 20, 255 - bright))


def _draw_bird(draw: ImageDraw.ImageDraw, scene: Scene, time: float) -> None:
    radius = 18 + 22 * scene.size
    _disc(draw, 120, 100, radius, scene.colour)
    _disc(draw, 120 + radius, 85, radius * 0.6, scene.colour)
    opening = 10 if _since(scene, time) < 0.16 else 1
    beak = 120 + radius * 1.6
    draw.polygon([(beak, 80), (beak + 28, 82 - opening), (beak, 86)], fill=(250, 170, 30))
    draw.polygon([(beak, 86), (beak + 28, 88 + opening), (beak, 92)], fill=(250, 170, 30))


def _draw_rain(draw: ImageDraw.ImageDraw, scene: Scene, time: float) -> None:
    loud = float(np.interp(time, [e.time for e in scene.events], [e.strength for e in scene.events]))
    random = np.random.default_rng(scene.seed)
    for _ in range(int(140 * loud)):
        x, y = random.random() * WIDTH, (random.random() * HEIGHT + 260 * time) % HEIGHT
        draw.line([x, y, x - 2, y + 6 + 8 * scene.size], fill=(170, 190, 220), width=2)


@dataclass(frozen=True)
class Kind:
    """A class of the world: how its events come about, how it sounds and how it looks."""

    sound: Callable[[Scene], np.ndarray]
    draw: Draw
    events: str  # "sparse", "regular" or "level"


KINDS: dict[str, Kind] = {
    "ball bouncing": Kind(_ball, _draw_ball, "sparse"),
    "hammer striking": Kind(_hammer, _draw_hammer, "sparse"),
    "clock ticking": Kind(_clock, _draw_clock, "regular"),
    "siren wailing": Kind(_siren, _draw_siren, "level"),
    "bird chirping": Kind(_bird, _draw_bird, "sparse"),
    "rain falling": Kind(_rain, _draw_rain, "level"),
}


def make_scene(label: str, seed: int) -> Scene:
    """Draw the parameters of one clip; the same label and seed give the same scene."""
    random = np.random.default_rng([seed, list(KINDS).index(label)])
    kind = KINDS[label].events
    if kind == "sparse":
        times = np.cumsum(random.uniform(0.5, 1.8, size=20)) - 0.2
        strengths = random.uniform(0.4, 1.0, size=20)
    elif kind == "regular":
        times = np.arange(random.uniform(0.1, 0.5), SECONDS, random.uniform(0.4, 1.0))
        strengths = np.full(len(times), random.uniform(0.5, 1.0))
    else:
        times = np.linspace(0, SECONDS, 6)
        strengths = random.uniform(0.1, 1.0, size=6)
    events = tuple(
        Event(float(t), float(s)) for t, s in zip(times, strengths, strict=True) if t < SECONDS - 0.3 or kind == "level"
    )
    colours = random.integers(60, 256, size=3), random.integers(20, 120, size=3)
    return Scene(
        label=label,
        events=events,
        size=float(random.random()),
        colour=tuple(map(int, colours[0])),  # type: ignore[arg-type]
        background=tuple(map(int, colours[1])),  # type: ignore[arg-type]
        seed=seed,
        extra={"rate": float(random.uniform(0.3, 1.2))},
    )


def render_frames(scene: Scene) -> Iterator[np.ndarray]:
    """Yield RGB uint8 (192, 256, 3) frames, 20 a second for 10 s."""
    for number in range(SECONDS * FRAMES_PER_SECOND):
        image = Image.new("RGB", (WIDTH, HEIGHT), scene.background)
        KINDS[scene.label].draw(ImageDraw.Draw(image), scene, number / FRAMES_PER_SECOND)
        yield np.asarray(image)


def render_waveform(scene: Scene) -> np.ndarray:
    """float32 (160000,), peak at most 0.8, with a faint floor of noise."""
    track = KINDS[scene.label].sound(scene) * 0.3
    track = track + 1e-3 * np.random.default_rng(scene.seed + 1).standard_normal(_SAMPLES)
    return np.clip(track, -0.8, 0.8).astype(np.float32)


def render_world(folder: str | Path, clips: int, seed: int = 0) -> Iterator[tuple[Path, bool]]:
    """Write ``clips`` mp4 files below ``folder``/<split>/<label>; yield each path and whether it was made now.

    One clip in six is for validation and one in six for test. Files already there are left alone.
    """
    labels = list(KINDS)
    for number in range(clips):
        label = labels[number % len(labels)]
        turn = (number // len(labels)) % 6
        split = {4: "validation", 5: "test"}.get(turn, "train")
        stem = clip_name(f"world{number:06d}", 0)
        path = Path(folder) / split / label.replace(" ", "_") / f"{stem}.mp4"
        made = not path.exists()
        if made:
            scene = make_scene(label, seed * 1_000_003 + number)
            write_video(path, render_frames(scene), FRAMES_PER_SECOND, render_waveform(scene), SAMPLE_RATE)
        yield path, made
