"""What is heard in the small world: one function a class, Scene -> (160000,) before loudness and noise floor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from micro.world.scene import PECK_SECONDS, PECKS, SAMPLE_RATE, SAMPLES, SECONDS, Scene


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
    track = np.zeros(SAMPLES)
    for number, event in enumerate(scene.events):
        first = round(event.time * SAMPLE_RATE)
        wave = sound(number)[: SAMPLES - first]
        track[first : first + len(wave)] += (0.25 + 0.75 * event.strength) * wave
    return track


def _octaves(scene: Scene, span: float = 1.0) -> float:
    """Pitch factor of the size: larger is lower."""
    return float(2 ** (span * (0.5 - scene.size)))


def ball(scene: Scene) -> np.ndarray:
    random, time = np.random.default_rng(scene.seed), _time(0.4)
    decay = 0.09 - 0.05 * scene.material  # rubber rings on, wood is dry and has a knock
    knock = [1.0, 1.6] + [3.9] * (scene.material > 0.5)
    return _each(scene, lambda _: 1.3 * _struck(time, 150 * _octaves(scene), knock, decay, 0.25, random))


def hammer(scene: Scene) -> np.ndarray:
    random, time = np.random.default_rng(scene.seed), _time(0.9)
    decay = 0.12 + 0.25 * scene.material
    return _each(scene, lambda _: _struck(time, 900 * _octaves(scene), [1.0, 2.76, 5.4], decay, 0.5, random))


def drum(scene: Scene) -> np.ndarray:
    random, time = np.random.default_rng(scene.seed), _time(0.5)
    pitch = 95 * _octaves(scene) * (1 + 0.8 * np.exp(-time / 0.03))
    body = np.sin(2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE) * np.exp(-time / 0.16)
    snares = np.exp(-time / 0.11) * (0.35 + 0.5 * scene.material)
    return _each(scene, lambda _: body + snares * random.standard_normal(len(time)))


def footsteps(scene: Scene) -> np.ndarray:
    random, time = np.random.default_rng(scene.seed), _time(0.25)

    def step(_: int) -> np.ndarray:
        noise = random.standard_normal(len(time))
        kernel = np.hanning(5 + round(6 * scene.size))
        dull = np.convolve(noise, kernel / np.linalg.norm(kernel), "same")
        heel, toe = np.exp(-time / 0.018), np.exp(-np.abs(time - 0.09) / 0.015) * 0.7
        return 0.8 * dull * (heel + toe)

    return _each(scene, step)


def clock(scene: Scene) -> np.ndarray:
    random, time = np.random.default_rng(scene.seed), _time(0.15)
    pitch = 2400 * _octaves(scene)
    return _each(scene, lambda n: _struck(time, pitch * (1.0, 0.8)[n % 2], [1.0, 1.9], 0.03, 0.5, random))


def woodpecker(scene: Scene) -> np.ndarray:
    random, time = np.random.default_rng(scene.seed), _time(0.5)
    sound = np.zeros(len(time))
    for knock in range(PECKS):
        late = np.maximum(time - PECK_SECONDS * knock, 0)
        part = _struck(late, 620 * _octaves(scene), [1.0, 1.45, 2.3], 0.035, 0.5, random)
        sound += np.where(time >= PECK_SECONDS * knock, part, 0.0)
    return _each(scene, lambda _: sound)


def rain(scene: Scene) -> np.ndarray:
    noise = np.random.default_rng(scene.seed).standard_normal(SAMPLES)
    bright = np.diff(noise, prepend=0.0)
    return 0.5 * (scene.size * noise + (1 - scene.size) * bright) * scene.level(_time(SECONDS))


def engine(scene: Scene) -> np.ndarray:
    level = scene.level(_time(SECONDS))
    turns = np.cumsum(55 * _octaves(scene) * (0.7 + 0.8 * level)) / SAMPLE_RATE
    sound = sum(np.sin(2 * np.pi * turns * k + k * k) / k**0.7 for k in range(1, 15))
    return 0.3 * sound * level


def siren(scene: Scene) -> np.ndarray:
    time = _time(SECONDS)
    pitch = 900 * _octaves(scene) * 2 ** (0.3 * np.sin(2 * np.pi * scene.rate * time))
    return 0.6 * np.tanh(2 * np.sin(2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE)) * scene.level(time)


def bird(scene: Scene) -> np.ndarray:
    time = _time(0.22)
    pitch = 3000 * _octaves(scene, 0.6) * (1 + 0.25 * np.sin(2 * np.pi * 9 * time) + 1.5 * time)
    sound = np.sin(2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE) * np.sin(np.pi * time / time[-1]) ** 0.5
    return _each(scene, lambda _: sound)


def dog(scene: Scene) -> np.ndarray:
    random, time = np.random.default_rng(scene.seed), _time(0.28)
    turns = np.cumsum(420 * _octaves(scene) * (1.25 - 1.8 * time)) / SAMPLE_RATE
    shape = np.minimum(time / 0.015, 1) * np.exp(-time / 0.1)

    def bark(_: int) -> np.ndarray:
        voice = sum(np.sin(2 * np.pi * turns * k) / k**0.5 for k in range(1, 8))
        return shape * (0.55 * voice + 0.25 * random.standard_normal(len(time)))

    return _each(scene, bark)


def owl(scene: Scene) -> np.ndarray:
    time = _time(0.5)
    pitch = 380 * _octaves(scene, 0.6) * (1 + 0.12 * np.sin(np.pi * time / time[-1]))
    sound = np.sin(2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE) * np.sin(np.pi * time / time[-1]) ** 0.7
    return _each(scene, lambda _: sound)
