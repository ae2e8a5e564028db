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

from pipeline.manifest import clip_name
from pipeline.media_writing import write_video

SECONDS, FRAMES_PER_SECOND, SAMPLE_RATE = 10, 12, 16_000
WIDTH, HEIGHT = 192, 144
# Sizes that train and validation never show: the test split is made of them alone.
HELD_OUT_SIZES = ((0.28, 0.38), (0.62, 0.72))
_SAMPLES = SECONDS * SAMPLE_RATE
_RING_SECONDS = 0.5  # how long dust, ripples and sparks stay: at 4 frames per second two frames show them

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Event:
    time: float  # seconds
    strength: float  # 0 to 1


@dataclass(frozen=True)
class Scene:
    """One clip: its class, the events seen and heard, and what it looks like.

    For sustained sounds ``events`` are the corners of the loudness curve. ``material`` is 0 (soft) to 1
    (hard), ``size`` 0 (small, high) to 1 (large, low), ``rate`` in turns per second.
    """

    label: str
    events: tuple[Event, ...]
    size: float
    material: float
    rate: float
    colour: Colour
    background: Colour
    seed: int

    @property
    def onsets(self) -> tuple[float, ...]:
        """Seconds at which something starts to sound; none where the sound is sustained."""
        return () if KINDS[self.label].events == "level" else tuple(event.time for event in self.events)

    def level(self, time: float | np.ndarray) -> np.ndarray:
        """Strength in [0, 1] of a sustained sound at these seconds."""
        return np.asarray(np.interp(time, [e.time for e in self.events], [e.strength for e in self.events]))


# --- what is heard ----------------------------------------------------------------------------------


def _time(seconds: float) -> np.ndarray:
    return np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE


def _struck(
    time: np.ndarray, pitch: float, partials: list[float], decay: float, noise: float, random: np.random.Generator
) -> np.ndarray:
    """Decaying partials over a pitch, and a burst of noise."""
    sound = random.standard_normal(len(time)) * np.exp(-time / 0.012) * noise
    for index, ratio in enumerate(partials):
        sound = sound + np.sin(2 * np.pi * pitch * ratio * time) * np.exp(-time * (1 + index) / decay) / (1 + index)
    return sound


def _each(scene: Scene, sound: Callable[[int], np.ndarray]) -> np.ndarray:
    """The sound of every event, number by number, at its time and strength."""
    track = np.zeros(_SAMPLES)
    for number, event in enumerate(scene.events):
        first = round(event.time * SAMPLE_RATE)
        wave = sound(number)[: _SAMPLES - first]
        track[first : first + len(wave)] += (0.25 + 0.75 * event.strength) * wave
    return track


def _octaves(scene: Scene, span: float = 1.0) -> float:
    """Pitch factor of the size: larger is lower."""
    return float(2 ** (span * (0.5 - scene.size)))


def _ball(scene: Scene) -> np.ndarray:
    random, time = np.random.default_rng(scene.seed), _time(0.4)
    decay = 0.09 - 0.05 * scene.material  # rubber rings on, wood is dry and has a knock
    knock = [1.0, 1.6] + [3.9] * (scene.material > 0.5)
    return _each(scene, lambda _: 1.3 * _struck(time, 150 * _octaves(scene), knock, decay, 0.25, random))


def _hammer(scene: Scene) -> np.ndarray:
    random, time = np.random.default_rng(scene.seed), _time(0.9)
    decay = 0.12 + 0.25 * scene.material
    return _each(scene, lambda _: _struck(time, 900 * _octaves(scene), [1.0, 2.76, 5.4], decay, 0.5, random))


def _drum(scene: Scene) -> np.ndarray:
    random, time = np.random.default_rng(scene.seed), _time(0.5)
    pitch = 95 * _octaves(scene) * (1 + 0.8 * np.exp(-time / 0.03))
    body = np.sin(2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE) * np.exp(-time / 0.16)
    snares = np.exp(-time / 0.11) * (0.35 + 0.5 * scene.material)
    return _each(scene, lambda _: body + snares * random.standard_normal(len(time)))


def _footsteps(scene: Scene) -> np.ndarray:
    random, time = np.random.default_rng(scene.seed), _time(0.25)

    def step(_: int) -> np.ndarray:
        noise = random.standard_normal(len(time))
        kernel = np.hanning(5 + round(6 * scene.size))
        dull = np.convolve(noise, kernel / np.linalg.norm(kernel), "same")
        heel, toe = np.exp(-time / 0.018), np.exp(-np.abs(time - 0.09) / 0.015) * 0.7
        return 0.8 * dull * (heel + toe)

    return _each(scene, step)


def _clock(scene: Scene) -> np.ndarray:
    random, time = np.random.default_rng(scene.seed), _time(0.15)
    pitch = 2400 * _octaves(scene)
    return _each(scene, lambda n: _struck(time, pitch * (1.0, 0.8)[n % 2], [1.0, 1.9], 0.03, 0.5, random))


def _woodpecker(scene: Scene) -> np.ndarray:
    random, time = np.random.default_rng(scene.seed), _time(0.5)
    sound = np.zeros(len(time))
    for knock in range(7):
        late = np.maximum(time - 0.055 * knock, 0)
        part = _struck(late, 1100 * _octaves(scene), [1.0, 1.45], 0.02, 0.6, random)
        sound += np.where(time >= 0.055 * knock, part, 0.0)
    return _each(scene, lambda _: sound)


def _rain(scene: Scene) -> np.ndarray:
    noise = np.random.default_rng(scene.seed).standard_normal(_SAMPLES)
    bright = np.diff(noise, prepend=0.0)
    return 0.5 * (scene.size * noise + (1 - scene.size) * bright) * scene.level(_time(SECONDS))


def _engine(scene: Scene) -> np.ndarray:
    level = scene.level(_time(SECONDS))
    turns = np.cumsum(55 * _octaves(scene) * (0.7 + 0.8 * level)) / SAMPLE_RATE
    sound = sum(np.sin(2 * np.pi * turns * k + k * k) / k**0.7 for k in range(1, 15))
    return 0.3 * sound * (0.3 + 0.7 * level)


def _siren(scene: Scene) -> np.ndarray:
    time = _time(SECONDS)
    pitch = 900 * _octaves(scene) * 2 ** (0.6 * np.sin(2 * np.pi * scene.rate * time))
    return 0.6 * np.tanh(2 * np.sin(2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE)) * scene.level(time)


def _bird(scene: Scene) -> np.ndarray:
    time = _time(0.22)
    pitch = 3000 * _octaves(scene, 0.6) * (1 + 0.25 * np.sin(2 * np.pi * 9 * time) + 1.5 * time)
    sound = np.sin(2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE) * np.sin(np.pi * time / time[-1]) ** 0.5
    return _each(scene, lambda _: sound)


def _dog(scene: Scene) -> np.ndarray:
    random, time = np.random.default_rng(scene.seed), _time(0.28)
    turns = np.cumsum(420 * _octaves(scene) * (1.25 - 1.8 * time)) / SAMPLE_RATE
    shape = np.minimum(time / 0.015, 1) * np.exp(-time / 0.1)

    def bark(_: int) -> np.ndarray:
        voice = sum(np.sin(2 * np.pi * turns * k) / k**0.5 for k in range(1, 8))
        return shape * (0.55 * voice + 0.25 * random.standard_normal(len(time)))

    return _each(scene, bark)


def _owl(scene: Scene) -> np.ndarray:
    time = _time(0.5)
    pitch = 380 * _octaves(scene, 0.6) * (1 + 0.12 * np.sin(np.pi * time / time[-1]))
    sound = np.sin(2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE) * np.sin(np.pi * time / time[-1]) ** 0.7
    return _each(scene, lambda _: sound)


# --- what is seen -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """A frame while it is drawn: the scene at one instant, seen by a camera that sways."""

    draw: ImageDraw.ImageDraw
    scene: Scene
    time: float
    dx: float
    dy: float

    @property
    def since(self) -> float:
        """Seconds since the latest event (10 if there is none)."""
        return min((self.time - e.time for e in self.scene.events if e.time <= self.time), default=10.0)

    @property
    def until(self) -> float:
        """Seconds until the next event (10 if there is none)."""
        return min((e.time - self.time for e in self.scene.events if e.time > self.time), default=10.0)

    @property
    def strength(self) -> float:
        """Of the latest event."""
        return next((e.strength for e in reversed(self.scene.events) if e.time <= self.time), 0.0)

    def point(self, x: float, y: float) -> tuple[float, float]:
        return x + self.dx, y + self.dy

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        x, y = self.point(x, y)
        self.draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        self.draw.rectangle([*self.point(left, top), *self.point(right, bottom)], fill=colour)

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: Colour, width: int) -> None:
        self.draw.line([self.point(x1, y1), self.point(x2, y2)], fill=colour, width=width)

    def polygon(self, points: list[tuple[float, float]], colour: Colour) -> None:
        self.draw.polygon([self.point(x, y) for x, y in points], fill=colour)

    def ring(self, x: float, y: float, colour: Colour = (255, 250, 200)) -> None:
        """Dust, sparks or breath of the latest event: its radius says how long ago, its width how hard."""
        if self.since < _RING_SECONDS:
            radius = 6 + 70 * self.since
            x, y = self.point(x, y)
            width = 1 + round(5 * self.strength)
            self.draw.ellipse([x - radius, y - radius / 2, x + radius, y + radius / 2], outline=colour, width=width)


def _draw_ball(look: Look) -> None:
    scene, floor, radius = look.scene, HEIGHT - 22, 8 + 16 * look.scene.size
    look.box(-20, floor, WIDTH + 20, HEIGHT + 20, (90, 70, 50))
    if look.since < 10 and look.until < 10:  # a parabola between two bounces
        height = 4.9 * 26 * look.since * look.until * 4
    else:
        height = 4.9 * 26 * (look.until if look.since == 10 else look.since) * 2
    x, y = WIDTH * 0.5, floor - radius - min(height, 90)
    look.disc(x, y, radius, scene.colour)
    if scene.material > 0.5:  # wood has grain, rubber has a highlight
        look.line(x - radius * 0.8, y - 2, x + radius * 0.8, y - 2, (60, 40, 20), 2)
        look.line(x - radius * 0.7, y + 3, x + radius * 0.7, y + 3, (60, 40, 20), 2)
    else:
        look.disc(x - radius * 0.3, y - radius * 0.3, radius * 0.25, (255, 255, 255))
    look.ring(WIDTH * 0.5, floor)


def _draw_swing(look: Look, head: Colour, half_width: float, half_height: float) -> None:
    """An arm that hits at every event: hammer and drumstick move alike."""
    lift = min(look.since / 0.3, look.until / 0.12, 1.0)
    angle = -1.0 * lift
    x, y = 35 + 68 * np.cos(angle), 96 + 68 * np.sin(angle)
    look.line(35, 96, x, y, (150, 110, 70), 5)
    look.box(x - half_width, y - half_height, x + half_width, y + half_height, head)


def _draw_hammer(look: Look) -> None:
    grey = int(90 + 120 * look.scene.material)  # hard steel shines
    size = 14 + 22 * look.scene.size
    look.box(103 - size, 104, 103 + size, 118, (grey, grey, grey + 20))
    look.box(103 - size / 2, 118, 103 + size / 2, 136, (grey // 2, grey // 2, grey // 2))
    _draw_swing(look, (70, 70, 80), 9, 9)
    look.ring(103, 104, (255, 200, 60))


def _draw_drum(look: Look) -> None:
    size = 16 + 26 * look.scene.size
    look.box(103 - size, 104, 103 + size, 138, look.scene.colour)
    look.box(103 - size, 102, 103 + size, 107, (245, 240, 230))
    if look.scene.material > 0.5:  # snares
        for x in np.linspace(-size, size, 6):
            look.line(103 + x, 108, 103 - x, 138, (240, 240, 240), 1)
    _draw_swing(look, (230, 220, 200), 4, 4)
    look.ring(103, 104)


def _draw_footsteps(look: Look) -> None:
    """Legs seen from the side: one foot lands at every event."""
    look.box(-20, 126, WIDTH + 20, HEIGHT + 20, (120, 110, 100))
    passed = sum(e.time <= look.time for e in look.scene.events)
    lift = 26 * min(look.since / 0.25, look.until / 0.1, 1.0)
    long = 10 + 12 * look.scene.size
    for foot, x in enumerate((78, 112)):
        up = lift if passed % 2 == foot else 0.0
        look.line(95, 30, x, 120 - up, look.scene.colour, 9)
        look.box(x - 6, 118 - up, x + long, 126 - up, (40, 30, 30))
    look.ring(78 if passed % 2 else 112, 128, (220, 210, 190))


def _draw_pendulum(look: Look, face: Colour) -> None:
    passed = sum(e.time <= look.time for e in look.scene.events)
    swing = 0.55 * (1 if passed % 2 else -1) * min(look.since / 0.12, 1.0)
    x, y = 96 + 75 * np.sin(swing), 48 + 75 * np.cos(swing)
    look.line(96, 48, x, y, (240, 220, 120), 4)
    look.disc(x, y, 8, face)


def _draw_clock(look: Look) -> None:
    radius = 20 + 18 * look.scene.size
    look.disc(96, 48, radius, look.scene.colour)
    look.disc(96, 48, radius - 5, (245, 245, 240))
    look.line(96, 48, 96, 48 - radius * 0.6, (20, 20, 20), 2)
    _draw_pendulum(look, (210, 170, 50))
    look.ring(96, 48, (60, 60, 60))


def _draw_woodpecker(look: Look) -> None:
    look.box(140, -20, 170, HEIGHT + 20, (100, 70, 40))
    radius = 10 + 14 * look.scene.size
    hammering = look.since < 0.4
    head = 138 - radius - 16 + (12 if hammering and int(look.time / 0.0275) % 2 == 0 else 4 if hammering else -6)
    look.disc(118 - radius, 92, radius * 1.2, look.scene.colour)
    look.disc(head, 68, radius * 0.7, (190, 30, 30))
    look.polygon([(head + radius * 0.6, 64), (head + radius * 0.6 + 16, 68), (head + radius * 0.6, 72)], (220, 200, 90))
    look.ring(139, 68, (230, 190, 120))


def _draw_rain(look: Look) -> None:
    scene, level = look.scene, float(look.scene.level(look.time))
    random = np.random.default_rng(scene.seed)
    look.disc(60, 12, 26, (150, 155, 165))
    look.disc(120, 10, 34, (140, 145, 155))
    for _ in range(int(8 + 130 * level)):
        x, y = random.random() * WIDTH, (random.random() * HEIGHT + 210 * look.time) % HEIGHT
        look.line(x, y, x - 2, y + 4 + 8 * scene.size, (175, 195, 225), 1 + round(scene.size))


def _draw_engine(look: Look) -> None:
    """A flywheel: its spokes blur with speed, and exhaust grows with load."""
    level = float(look.scene.level(look.time))
    radius = 22 + 20 * look.scene.size
    look.box(30, 60, 84, 124, (80, 85, 95))
    look.disc(116, 92, radius, look.scene.colour)
    turn = 5 * look.time
    for spoke in range(4):
        angle = turn + spoke * np.pi / 2
        look.line(116, 92, 116 + radius * np.cos(angle), 92 + radius * np.sin(angle), (30, 30, 30), 4)
    for puff in range(3):
        look.disc(57 + 6 * puff, 50 - 12 * puff, 3 + 12 * level, (185, 185, 185))


def _draw_siren(look: Look) -> None:
    scene = look.scene
    look.box(46, 90, 146, 126, (220, 220, 230))
    glow = 0.5 + 0.5 * np.sin(2 * np.pi * scene.rate * look.time)
    bright = float(scene.level(look.time))
    look.disc(96, 78, 12 + 18 * scene.size, (int(40 + 215 * glow * bright), 20, int(40 + 215 * (1 - glow) * bright)))


def _draw_body(look: Look, radius: float) -> None:
    """Bird and owl: the same body, another face."""
    look.line(30, 122, 162, 122, (100, 70, 40), 6)
    look.disc(92, 104 - radius * 0.6, radius, look.scene.colour)
    look.disc(92 + radius * 0.7, 92 - radius * 1.3, radius * 0.65, look.scene.colour)


def _draw_bird(look: Look) -> None:
    radius = 14 + 14 * look.scene.size
    _draw_body(look, radius)
    x, y = 92 + radius * 1.3, 92 - radius * 1.3
    opening = 9 if look.since < 0.22 else 1
    look.polygon([(x, y - 4), (x + 18, y - 2 - opening), (x, y)], (250, 170, 30))
    look.polygon([(x, y), (x + 18, y + 2 + opening), (x, y + 4)], (250, 170, 30))
    look.disc(x - radius * 0.4, y - 4, 2, (10, 10, 10))
    look.ring(x + 14, y)


def _draw_owl(look: Look) -> None:
    radius = 14 + 14 * look.scene.size
    _draw_body(look, radius)
    x, y = 92 + radius * 0.7, 92 - radius * 1.3
    for side in (-1, 1):
        look.disc(x + side * radius * 0.28, y - 2, radius * 0.26, (255, 230, 90))
        look.disc(x + side * radius * 0.28, y - 2, radius * 0.12, (10, 10, 10))
    look.disc(x, y + radius * 0.35, 5 if look.since < 0.5 else 1.5, (60, 30, 20))
    look.ring(x, y + radius * 0.35)


def _draw_dog(look: Look) -> None:
    scale = 0.75 + 0.5 * look.scene.size
    look.box(50, 112 - 44 * scale, 50 + 56 * scale, 112 - 16 * scale, look.scene.colour)
    for leg in (54, 50 + 46 * scale):
        look.box(leg, 112 - 18 * scale, leg + 7, 122, look.scene.colour)
    x, y = 50 + 56 * scale, 112 - 50 * scale
    look.disc(x, y, 15 * scale, look.scene.colour)
    look.polygon([(x - 10 * scale, y - 8), (x - 4, y - 24 * scale), (x + 2, y - 8)], (50, 40, 40))
    opening = 9 if look.since < 0.28 else 1
    look.box(x + 8, y - 2 - opening / 2, x + 26 * scale, y + 2 - opening / 2, (60, 40, 40))
    look.box(x + 8, y + opening, x + 22 * scale, y + 4 + opening, (60, 40, 40))
    look.ring(x + 24 * scale, y + 4)


# --- classes ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A class: its family, how its events come about, how it sounds and how it looks."""

    family: str
    events: str  # "sparse", "regular" or "level"
    sound: Callable[[Scene], np.ndarray]
    draw: Callable[[Look], None]


# Alike to the eye and not to the ear: hammer and drum, bird and owl. The reverse: clock and woodpecker.
KINDS: dict[str, Kind] = {
    "ball bouncing": Kind("impact", "sparse", _ball, _draw_ball),
    "hammer striking": Kind("impact", "sparse", _hammer, _draw_hammer),
    "drum beating": Kind("impact", "sparse", _drum, _draw_drum),
    "footsteps walking": Kind("impact", "regular", _footsteps, _draw_footsteps),
    "clock ticking": Kind("repeated", "regular", _clock, _draw_clock),
    "woodpecker pecking": Kind("repeated", "sparse", _woodpecker, _draw_woodpecker),
    "rain falling": Kind("sustained", "level", _rain, _draw_rain),
    "engine idling": Kind("sustained", "level", _engine, _draw_engine),
    "siren wailing": Kind("sustained", "level", _siren, _draw_siren),
    "bird chirping": Kind("voiced", "sparse", _bird, _draw_bird),
    "dog barking": Kind("voiced", "sparse", _dog, _draw_dog),
    "owl hooting": Kind("voiced", "sparse", _owl, _draw_owl),
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
    )


def _size(random: np.random.Generator, split: str) -> float:
    while True:
        size = float(random.random())
        if any(low <= size <= high for low, high in HELD_OUT_SIZES) == (split == "test"):
            return size


def render_frames(scene: Scene, frames_per_second: int = FRAMES_PER_SECOND) -> Iterator[np.ndarray]:
    """Yield RGB uint8 (144, 192, 3) frames for 10 s.

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
    for number in range(SECONDS * frames_per_second):
        time = number / frames_per_second
        image = Image.fromarray(canvas)
        dx, dy = sway * np.sin(0.9 * time + phases[0]), sway * np.sin(0.7 * time + phases[1])
        look = Look(ImageDraw.Draw(image), scene, time, float(dx), float(dy))
        look.disc((phases[2] * 30 + speed * time) % WIDTH, lane, radius, (bystander[0], bystander[1], bystander[2]))
        KINDS[scene.label].draw(look)
        yield np.clip(np.asarray(image) + grain[number % 4], 0, 255).astype(np.uint8)


def render_waveform(scene: Scene) -> np.ndarray:
    """float32 (160000,), peak at most 0.8, with a faint floor of noise."""
    track = KINDS[scene.label].sound(scene) * 0.35
    random = np.random.default_rng([scene.seed, 98])
    track = track + random.uniform(5e-4, 2e-3) * random.standard_normal(_SAMPLES)
    return np.clip(track, -0.8, 0.8).astype(np.float32)


def split_of(number: int) -> str:
    """The split of a world's clip: of six clips in a row, or of a class, one is for validation, one for test."""
    return {4: "validation", 5: "test"}.get((number + number // len(KINDS)) % 6, "train")


def scene_of(number: int, seed: int = 0) -> Scene:
    """The scene of a world's clip, by its number."""
    return make_scene(list(KINDS)[number % len(KINDS)], seed * 1_000_003 + number, split_of(number))


def render_world(folder: str | Path, clips: int, seed: int = 0) -> Iterator[tuple[Path, bool]]:
    """Write ``clips`` mp4 files below ``folder``/<split>/<label>; yield each path and whether it was made now.

    As in real data, of every 144 clips one has no sound and one is cut off. Files already there are left alone.
    """
    for number in range(clips):
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
