"""Spectrograms beside the truth and the video frames (the paper's Figure 2). Light to import: workers draw."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common.writing import replacing

RATE, WINDOW, HOP, BINS = 16_000, 1024, 160, 128
RANGE_DB = 70.0  # shown below the loudest
_LOWEST, _FLOOR = 20.0, 1e-12
_WIDTH, _LEFT, _RIGHT, _HEIGHT, _GAP, _TITLE, _AXIS = 900, 62, 12, 150, 14, 24, 34  # pixels
_FRAMES = 8


def _mel(hertz: float) -> float:
    return 1127 * math.log1p(hertz / 700)


def mel_bin(hertz: float) -> float:
    """Where a frequency is among the bins of :func:`log_mel`, whose centres are the whole numbers."""
    low, high = _mel(_LOWEST), _mel(RATE / 2)
    return (BINS + 1) * (_mel(hertz) - low) / (high - low) - 1


@lru_cache(maxsize=1)
def _filters() -> np.ndarray:
    """Triangles (spectrum bins, mel bins) from 20 Hz to 8 kHz, equally far from each other on the mel scale."""
    mel = np.linspace(_mel(_LOWEST), _mel(RATE / 2), BINS + 2)
    lines = 1127 * np.log1p(np.linspace(0, RATE / 2, WINDOW // 2 + 1) / 700)[:, None]
    rise, fall = (lines - mel[:-2]) / np.diff(mel)[:-1], (mel[2:] - lines) / np.diff(mel)[1:]
    return np.maximum(np.minimum(rise, fall), 0).astype(np.float32)


def log_mel(waveform: np.ndarray) -> np.ndarray:
    """16-kHz waveform (samples,), as if of at least 64 ms -> log-mel (bins, frames) in dB, one frame every 10 ms."""
    whole = np.pad(np.asarray(waveform, np.float32), (0, max(0, WINDOW - len(waveform))))
    frames = np.lib.stride_tricks.sliding_window_view(whole, WINDOW)[::HOP]
    spectrum = np.fft.rfft(frames * np.hanning(WINDOW).astype(np.float32), axis=1)
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    return (10 * np.log10(power.astype(np.float32) @ _filters() + _FLOOR)).T


def draw_clip(
    path: str | Path,
    title: str,
    frames: np.ndarray,
    generated: np.ndarray,
    truth: np.ndarray | None,
    seconds: float,
) -> None:
    """Write a PNG: eight of the frames (T, H, W, 3), the true and the generated spectrogram."""
    tracks = [("generated", generated)] if truth is None else [("truth", truth), ("generated", generated)]
    side = _WIDTH // _FRAMES
    height = _TITLE + side + _GAP + len(tracks) * (_HEIGHT + _GAP) - _GAP + _AXIS
    page = Image.new("RGB", (_WIDTH, height), "white")
    draw = ImageDraw.Draw(page)
    draw.text((_WIDTH / 2, _TITLE / 2), title[:120], "black", _font(13), anchor="mm")
    for number, row in enumerate(np.linspace(0, len(frames) - 1, _FRAMES).round().astype(int)):
        page.paste(Image.fromarray(frames[row]).resize((side, side), reducing_gap=2.0), (number * side, _TITLE))
    top, width = _TITLE + side + _GAP, _WIDTH - _LEFT - _RIGHT
    for name, waveform in tracks:
        levels = log_mel(waveform)
        shade = np.clip((levels - levels.max()) / RANGE_DB + 1, 0, 1)[::-1]
        picture = Image.fromarray((255 * shade).astype(np.uint8), "L")
        picture.putpalette(_palette())
        page.paste(picture.convert("RGB").resize((width, _HEIGHT)), (_LEFT, top))
        draw.rectangle((_LEFT - 1, top - 1, _LEFT + width, top + _HEIGHT), outline="black")
        for share in (0, 0.5, 1):
            place = top + _HEIGHT * (1 - share)
            draw.line((_LEFT - 4, place, _LEFT - 1, place), "black")
            draw.text((_LEFT - 6, place), f"{share * BINS:.0f}", "black", _font(9), anchor="rm")
        label = Image.new("L", (_HEIGHT, 15))
        ImageDraw.Draw(label).text((_HEIGHT / 2, 7), f"{name}, mel bin", 255, _font(11), anchor="mm")
        page.paste("black", (8, top), label.rotate(90, expand=True))
        top += _HEIGHT + _GAP
    top -= _GAP
    for second in np.linspace(0, seconds, 6):
        place = _LEFT + width * second / seconds
        draw.line((place, top, place, top + 4), "black")
        draw.text((place, top + 6), f"{second:g}", "black", _font(9), anchor="mt")
    draw.text((_LEFT + width / 2, top + 24), "seconds", "black", _font(11), anchor="mm")
    with replacing(path) as temporary:
        page.save(temporary, compress_level=3)


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans, which matplotlib brings: labels have letters of many alphabets."""
    import matplotlib as mpl

    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


@lru_cache(maxsize=1)
def _palette() -> bytes:
    import matplotlib as mpl

    return (mpl.colormaps["magma"](np.arange(256), bytes=True)[:, :3]).tobytes()
