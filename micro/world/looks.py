"""What is seen in the small world: one function a class, which draws a frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import ImageDraw

from micro.world.scene import HEIGHT, PECK_SECONDS, PECKS, WIDTH, Colour, Scene

_RING_SECONDS = 0.5  # how long dust, ripples and sparks stay: at 4 frames per second two frames show them


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


def draw_ball(look: Look) -> None:
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


def draw_hammer(look: Look) -> None:
    grey = int(90 + 120 * look.scene.material)  # hard steel shines
    size = 14 + 22 * look.scene.size
    look.box(103 - size, 104, 103 + size, 118, (grey, grey, grey + 20))
    look.box(103 - size / 2, 118, 103 + size / 2, 136, (grey // 2, grey // 2, grey // 2))
    _draw_swing(look, (70, 70, 80), 9, 9)
    look.ring(103, 104, (255, 200, 60))


def draw_drum(look: Look) -> None:
    size = 16 + 26 * look.scene.size
    look.box(103 - size, 104, 103 + size, 138, look.scene.colour)
    look.box(103 - size, 102, 103 + size, 107, (245, 240, 230))
    if look.scene.material > 0.5:  # snares
        for x in np.linspace(-size, size, 6):
            look.line(103 + x, 108, 103 - x, 138, (240, 240, 240), 1)
    _draw_swing(look, (230, 220, 200), 4, 4)
    look.ring(103, 104)


def draw_footsteps(look: Look) -> None:
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


def draw_clock(look: Look) -> None:
    radius = 20 + 18 * look.scene.size
    look.disc(96, 48, radius, look.scene.colour)
    look.disc(96, 48, radius - 5, (245, 245, 240))
    look.line(96, 48, 96, 48 - radius * 0.6, (20, 20, 20), 2)
    _draw_pendulum(look, (210, 170, 50))
    look.ring(96, 48, (60, 60, 60))


def draw_woodpecker(look: Look) -> None:
    look.box(140, -20, 170, HEIGHT + 20, (100, 70, 40))
    radius = 10 + 14 * look.scene.size
    hammering = look.since < PECKS * PECK_SECONDS
    beat = look.since % PECK_SECONDS < PECK_SECONDS / 2
    head = 138 - radius - 16 + ((12 if beat else 4) if hammering else -6)
    look.disc(118 - radius, 92, radius * 1.2, look.scene.colour)
    look.disc(head, 68, radius * 0.7, (190, 30, 30))
    look.polygon([(head + radius * 0.6, 64), (head + radius * 0.6 + 16, 68), (head + radius * 0.6, 72)], (220, 200, 90))
    look.ring(139, 68, (230, 190, 120))


def draw_rain(look: Look) -> None:
    scene, level = look.scene, float(look.scene.level(look.time))
    random = np.random.default_rng(scene.seed)
    look.disc(60, 12, 26, (150, 155, 165))
    look.disc(120, 10, 34, (140, 145, 155))
    for _ in range(int(6 + 160 * level)):
        x, y = random.random() * WIDTH, (random.random() * HEIGHT + 210 * look.time) % HEIGHT
        look.line(x, y, x - 2, y + 6 + 8 * scene.size, (185, 205, 235), 2)


def draw_engine(look: Look) -> None:
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
        look.disc(57 + 6 * puff, 50 - 12 * puff, 3 + 20 * level, (205, 205, 205))


def draw_siren(look: Look) -> None:
    """A lamp that turns: its colour says where it is, its rays how loud it wails."""
    scene = look.scene
    look.box(46, 90, 146, 126, (220, 220, 230))
    glow = 0.5 + 0.5 * np.sin(2 * np.pi * scene.rate * look.time)
    bright = float(scene.level(look.time))
    for ray in range(1, 8):  # as far as it is loud
        angle, far = -np.pi * ray / 8, 24 + 12 * scene.size + 50 * bright
        look.line(96, 78, 96 + far * np.cos(angle), 78 + far * np.sin(angle), (250, 230, 140), 3)
    look.disc(96, 78, 12 + 18 * scene.size, (int(40 + 215 * glow * bright), 20, int(40 + 215 * (1 - glow) * bright)))


def _draw_body(look: Look, radius: float) -> None:
    """Bird and owl: the same body, another face."""
    look.line(30, 122, 162, 122, (100, 70, 40), 6)
    look.disc(92, 104 - radius * 0.6, radius, look.scene.colour)
    look.disc(92 + radius * 0.7, 92 - radius * 1.3, radius * 0.65, look.scene.colour)


def draw_bird(look: Look) -> None:
    radius = 14 + 14 * look.scene.size
    _draw_body(look, radius)
    x, y = 92 + radius * 1.3, 92 - radius * 1.3
    opening = 9 if look.since < 0.22 else 1
    look.polygon([(x, y - 4), (x + 18, y - 2 - opening), (x, y)], (250, 170, 30))
    look.polygon([(x, y), (x + 18, y + 2 + opening), (x, y + 4)], (250, 170, 30))
    look.disc(x - radius * 0.4, y - 4, 2, (10, 10, 10))
    look.ring(x + 14, y)


def draw_owl(look: Look) -> None:
    radius = 14 + 14 * look.scene.size
    _draw_body(look, radius)
    x, y = 92 + radius * 0.7, 92 - radius * 1.3
    for side in (-1, 1):
        look.disc(x + side * radius * 0.28, y - 2, radius * 0.26, (255, 230, 90))
        look.disc(x + side * radius * 0.28, y - 2, radius * 0.12, (10, 10, 10))
    look.disc(x, y + radius * 0.35, 5 if look.since < 0.5 else 1.5, (60, 30, 20))
    look.ring(x, y + radius * 0.35)


def draw_dog(look: Look) -> None:
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
