"""What a clip of the small world is made of, and the measures that its sound and its picture share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SECONDS, FRAMES_PER_SECOND, SAMPLE_RATE = 10, 12, 16_000
WIDTH, HEIGHT = 192, 144
SAMPLES = SECONDS * SAMPLE_RATE
# A woodpecker's roll: slow enough for a latent row of 80 ms, or it is heard as one tick of a clock.
PECKS, PECK_SECONDS = 6, 0.08

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
    sustained: bool

    @property
    def onsets(self) -> tuple[float, ...]:
        """Seconds at which something starts to sound; none where the sound is sustained."""
        return () if self.sustained else tuple(event.time for event in self.events)

    def level(self, time: float | np.ndarray) -> np.ndarray:
        """Strength in [0, 1] of a sustained sound at these seconds."""
        return np.asarray(np.interp(time, [e.time for e in self.events], [e.strength for e in self.events]))
