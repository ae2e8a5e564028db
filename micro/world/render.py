"""A small audiovisual world: 10-s clips of things that visibly hit, open, turn or fall while they sound.

What is seen decides the sound: when (events), how hard or fast (loudness), how big (pitch), what it is made
of (timbre). Backgrounds, colours, camera, noise and silent bystanders say nothing about it. Everything
follows from a seed, so every machine renders the same pixels and samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from manifests.names import clip_name
from micro.world import looks, sounds
from micro.world.scene import FRAMES_PER_SECOND, HEIGHT, SAMPLE_RATE, SAMPLES, SECONDS, WIDTH, Event, Scene
from pipeline.media.writing import write_video

# Sizes that train and validation never show: the test split is made of them alone.
HELD_OUT_SIZES = ((0.28, 0.38), (0.62, 0.72))


@dataclass(frozen=True)
class Kind:
    """A class: its family, how its events come about, how it sounds and how it looks."""

    family: str
    events: str  # "sparse", "regular" or "level"
    sound: Callable[[Scene], np.ndarray]
    draw: Callable[[looks.Look], None]


# Alike to the eye and not to the ear: hammer and drum, bird and owl.
KINDS: dict[str, Kind] = {
    "ball bouncing": Kind("impact", "sparse", sounds.ball, looks.draw_ball),
    "hammer striking": Kind("impact", "sparse", sounds.hammer, looks.draw_hammer),
    "drum beating": Kind("impact", "sparse", sounds.drum, looks.draw_drum),
    "footsteps walking": Kind("impact", "regular", sounds.footsteps, looks.draw_footsteps),
    "clock ticking": Kind("repeated", "regular", sounds.clock, looks.draw_clock),
    "woodpecker pecking": Kind("repeated", "sparse", sounds.woodpecker, looks.draw_woodpecker),
    "rain falling": Kind("sustained", "level", sounds.rain, looks.draw_rain),
    "engine idling": Kind("sustained", "level", sounds.engine, looks.draw_engine),
    "siren wailing": Kind("sustained", "level", sounds.siren, looks.draw_siren),
    "bird chirping": Kind("voiced", "sparse", sounds.bird, looks.draw_bird),
    "dog barking": Kind("voiced", "sparse", sounds.dog, looks.draw_dog),
    "owl hooting": Kind("voiced", "sparse", sounds.owl, looks.draw_owl),
}


def make_scene(label: str, seed: int, split: str = "train") -> Scene:
    """Draw the parameters of one clip; the same label, seed and split give the same scene.

    The test split has only the held-out sizes, the others never have them.
    """
    random = np.random.default_rng([seed, list(KINDS).index(label)])
    kind = KINDS[label].events
    if kind == "sparse":
        # From hurried to rare: the mean interval is the clip's own.
        mean = random.uniform(0.7, 1.9)
        times = random.uniform(0.2, 1.2) + np.cumsum(mean * random.uniform(0.65, 1.35, size=20))
        strengths = random.uniform(0.2, 1.0, size=20)
    elif kind == "regular":
        times = np.arange(random.uniform(0.15, 0.7), SECONDS, random.uniform(0.55, 1.2))
        strengths = np.full(len(times), random.uniform(0.3, 1.0))
    else:
        times = np.linspace(0, SECONDS, 6)
        strengths = random.uniform(0.1, 1.0, size=6)
    last = SECONDS if kind == "level" else SECONDS - 0.4
    events = tuple(Event(float(t), float(s)) for t, s in zip(times, strengths, strict=True) if t <= last)
    colour, background = random.integers(60, 256, size=3), random.integers(20, 110, size=3)
    return Scene(
        label=label,
        events=events,
        size=_size(random, split),
        material=float(random.random()),
        rate=float(random.uniform(0.25, 0.8)),
        colour=(int(colour[0]), int(colour[1]), int(colour[2])),
        background=(int(background[0]), int(background[1]), int(background[2])),
        seed=seed,
        sustained=kind == "level",
    )


def _size(random: np.random.Generator, split: str) -> float:
    while True:
        size = float(random.random())
        if any(low <= size <= high for low, high in HELD_OUT_SIZES) == (split == "test"):
            return size


def render_frames(
    scene: Scene, frames_per_second: int = FRAMES_PER_SECOND, numbers: range | None = None
) -> Iterator[np.ndarray]:
    """Yield RGB uint8 (144, 192, 3) frames: all of the 10 s, or those of the given numbers.

    Nuisance: a graded background, a camera that sways, a bystander that drifts without a sound, sensor noise.
    """
    random = np.random.default_rng([scene.seed, 99])
    phases, sway = random.uniform(0, 2 * np.pi, size=3), random.uniform(0, 4)
    bystander = tuple(int(value) for value in random.integers(40, 160, size=3))
    speed, lane, radius = random.uniform(-12, 12), random.uniform(8, 30), random.uniform(3, 8)
    shade = np.linspace(random.uniform(0.6, 1.0), random.uniform(1.0, 1.4), HEIGHT)[:, None, None]
    canvas = np.clip(shade * np.array(scene.background), 0, 255)
    canvas = np.broadcast_to(canvas, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    grain = random.normal(0, random.uniform(1, 5), size=(4, HEIGHT, WIDTH, 1))
    for number in range(SECONDS * frames_per_second) if numbers is None else numbers:
        time = number / frames_per_second
        image = Image.fromarray(canvas)
        dx, dy = sway * np.sin(0.9 * time + phases[0]), sway * np.sin(0.7 * time + phases[1])
        look = looks.Look(ImageDraw.Draw(image), scene, time, float(dx), float(dy))
        look.disc((phases[2] * 30 + speed * time) % WIDTH, lane, radius, (bystander[0], bystander[1], bystander[2]))
        KINDS[scene.label].draw(look)
        yield np.clip(np.asarray(image) + grain[number % 4], 0, 255).astype(np.uint8)


def render_waveform(scene: Scene) -> np.ndarray:
    """float32 (160000,), peak at most 0.8, with a faint floor of noise."""
    track = KINDS[scene.label].sound(scene) * 0.35
    random = np.random.default_rng([scene.seed, 98])
    track = track + random.uniform(5e-4, 2e-3) * random.standard_normal(SAMPLES)
    return np.clip(track, -0.8, 0.8).astype(np.float32)


def split_of(number: int) -> str:
    """The split of a world's clip: of six clips in a row, or of a class, one is for validation, one for test."""
    return {4: "validation", 5: "test"}.get((number + number // len(KINDS)) % 6, "train")


def scene_of(number: int, seed: int = 0) -> Scene:
    """The scene of a world's clip, by its number."""
    return make_scene(list(KINDS)[number % len(KINDS)], seed * 1_000_003 + number, split_of(number))


def render_world(
    folder: str | Path, clips: int, seed: int = 0, numbers: range | None = None
) -> Iterator[tuple[Path, bool]]:
    """Write ``clips`` mp4 files below ``folder``/<split>/<label>; yield each path and whether it was made now.

    As in real data, of every 144 clips one has no sound and one is cut off. Files already there are left alone.
    ``numbers``: of the clips to write, where others write the rest.
    """
    for number in range(clips) if numbers is None else numbers:
        scene, split = scene_of(number, seed), split_of(number)
        stem = clip_name(f"world{number:06d}", 0)
        path = Path(folder) / split / scene.label.replace(" ", "_") / f"{stem}.mp4"
        made = not path.exists()
        if made:
            waveform = render_waveform(scene)
            if number % 144 == 100:
                waveform = np.zeros_like(waveform)
            write_video(path, render_frames(scene), FRAMES_PER_SECOND, waveform, SAMPLE_RATE)
            if number % 144 == 101:
                whole = path.read_bytes()
                path.write_bytes(whole[: len(whole) // 2])
        yield path, made
