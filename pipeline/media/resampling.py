"""Sound at another rate, by FFmpeg's resampler with a filter long enough for what is heard.

Its default filter leaves images only 38 dB below a tone of 7 kHz on the way from 16 to 48 kHz, and dims the tone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np

from common.errors import InputError

LOWEST_RATE, HIGHEST_RATE = 8_000, 192_000
# In samples of the lower rate, and the share of its band that is kept when the rate goes down. When it goes up,
# swresample keeps the whole band, and images of its last 2 % with it: those are taken out of the sound before.
_TAPS = 256
_FILTER = f"filter_size={_TAPS}:cutoff=0.97"
_EDGE, _EDGE_TAPS, _EDGE_BETA = 0.965, 401, 8.0  # -6 dB there, flat below 0.95, more than 80 dB down from 0.98 on
_BLOCK = 65_536
_LAYOUTS = {1: "mono", 2: "stereo"}


def check_rate(rate: int | None) -> None:
    """Raise :class:`InputError` for a rate in Hz that no sound file here is written at; None is the sound's own."""
    if rate is not None and not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise InputError(f"a sound file can have a rate from {LOWEST_RATE} to {HIGHEST_RATE} Hz, not {rate}")


class Filter:
    """A chain of FFmpeg's filters on float sound (channels, samples), fed part by part, without a shift in time."""

    def __init__(self, rate: int, channels: int, *chain: tuple[str, str], out_channels: int | None = None):
        self.rate, self.channels, self.layout = rate, channels, _LAYOUTS[channels]
        self.graph = av.filter.Graph()
        node: Any = self.graph.add_abuffer(
            sample_rate=rate, format="fltp", layout=self.layout, time_base=Fraction(1, rate)
        )
        ends = (
            ("aformat", f"sample_fmts=fltp:channel_layouts={_LAYOUTS[out_channels or channels]}"),
            ("abuffersink", ""),
        )
        for name, arguments in (*chain, *ends):
            following = self.graph.add(name, arguments or None)
            node.link_to(following)
            node = following
        self.graph.configure()
        self.fed = 0

    def feed(self, part: np.ndarray) -> Iterator[np.ndarray]:
        """What comes out once ``part`` (channels, samples) went in."""
        for first in range(0, part.shape[1], _BLOCK):
            block = np.ascontiguousarray(part[:, first : first + _BLOCK], np.float32)
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=self.layout)
            frame.sample_rate, frame.pts, frame.time_base = self.rate, self.fed, Fraction(1, self.rate)
            self.fed += block.shape[1]
            self.graph.push(frame)
            yield from self._pull()

    def end(self) -> Iterator[np.ndarray]:
        """What is left; nothing can be fed after it."""
        self.graph.push(None)
        yield from self._pull()

    def _pull(self) -> Iterator[np.ndarray]:
        while True:
            try:
                yield self.graph.pull().to_ndarray()
            except (av.error.BlockingIOError, av.error.EOFError):
                return


def _without_edge(parts: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The same sound (channels, samples) without the uppermost part of its band: linear phase, not moved."""
    half = _EDGE_TAPS // 2
    taps = _EDGE * np.sinc(_EDGE * np.arange(-half, half + 1)) * np.kaiser(_EDGE_TAPS, _EDGE_BETA)
    taps = (taps / taps.sum()).astype(np.float32)
    held: np.ndarray | None = None

    def through(part: np.ndarray) -> np.ndarray:
        nonlocal held
        assert held is not None
        whole = np.concatenate([held, part], axis=1)
        held = whole[:, max(whole.shape[1] - 2 * half, 0) :]
        if whole.shape[1] <= 2 * half:
            return whole[:, :0]
        return np.stack([np.convolve(channel, taps, "valid") for channel in whole])

    for part in parts:
        if held is None:
            held = np.zeros((len(part), half), np.float32)
        yield through(part.astype(np.float32, copy=False))
    if held is not None:
        yield through(np.zeros((len(held), half), np.float32))


def resampled(parts: Iterable[np.ndarray], rate: int, new_rate: int) -> Iterator[np.ndarray]:
    """Parts of sound, float (samples,) or (channels, samples), at ``new_rate``: as long, and not moved.

    Sample n lies at n / rate seconds before and after. Memory does not grow with the length.
    """
    if rate == new_rate:
        yield from parts
        return
    chain: Filter | None = None
    taken = given = 0
    flat = True

    def counted() -> Iterator[np.ndarray]:
        nonlocal taken, flat
        for part in parts:
            flat = part.ndim == 1
            taken += part.shape[-1]
            yield np.atleast_2d(part)

    for part in _without_edge(counted()) if new_rate > rate else counted():
        chain = chain or Filter(rate, len(part), ("aresample", f"{new_rate}:{_FILTER}"))
        for piece in chain.feed(part):
            given += piece.shape[1]
            yield piece[0] if flat else piece
    if chain is None:
        return
    wanted = round(taken * new_rate / rate)
    silence = np.zeros((chain.channels, math.ceil(_TAPS * max(rate / new_rate, 1))), np.float32)  # flushing is inexact
    for piece in itertools.chain(chain.feed(silence), chain.end()):
        piece = piece[:, : max(wanted - given, 0)]
        given += piece.shape[1]
        if piece.size:
            yield piece[0] if flat else piece
