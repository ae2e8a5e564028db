"""``python -m generate VIDEO`` on files that hung it once, had no length or lost their picture; damaged sound."""

import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from generate.mux import mux, plan_own_sound
from pipeline.media.writing import read_wav, write_wav
from tests.generate.test_own_sound import tracks_of
from tests.media_factory import make_media, tone
from tests.zoo import ZOO, heard_ticks, make_numbered, ticking

ROOT = Path(__file__).parents[2]


def seconds_of(path):
    waveform, rate = read_wav(path)
    return len(waveform) / rate


def test_a_transport_stream_named_mp4(generate, tmp_path):
    """decord never came back from it, and Ctrl-C did nothing."""
    film = make_numbered(tmp_path / "film.mp4", seconds=12, **ZOO["transport_stream.mp4"])
    generate(film, "-o", tmp_path / "o.wav")
    assert abs(seconds_of(tmp_path / "o.wav") - 12.03) < 0.1


def test_no_length_in_the_file_and_no_picture_after_five_seconds(generate, tmp_path):
    """The second window has no picture: the film still has, and is as long as it is."""
    film = make_numbered(tmp_path / "film.webm", seconds=5, sound_seconds=17, **ZOO["to_a_pipe.webm"])
    generate(film, "-o", tmp_path / "o.wav")
    assert abs(seconds_of(tmp_path / "o.wav") - 17.0) < 0.1


def test_a_film_that_was_cut_is_refused(generate, tmp_path):
    film = make_numbered(tmp_path / "film.mkv", seconds=12, **ZOO["h264.mkv"])
    data = film.read_bytes()
    film.write_bytes(data[: int(0.6 * len(data))])
    text = generate(film, "-o", tmp_path / "o.wav", code=4)
    assert "truncated" in text
    assert not (tmp_path / "o.wav").exists()


def spoil(film, out, first, last):
    """A copy of a film whose packets of sound, from one to another, are noise."""
    data, random = bytearray(film.read_bytes()), np.random.default_rng(0)
    with av.open(str(film)) as file:
        places = [(packet.pos, packet.size) for packet in file.demux(file.streams.audio[0]) if packet.size]
    for position, size in places[first:last]:
        data[position : position + size] = bytes(random.integers(0, 256, size, np.uint8))
    out.write_bytes(bytes(data))
    return out


def test_damage_in_the_original_sound_is_a_gap_in_the_mix(tmp_path):
    film = make_numbered(tmp_path / "film.mp4", seconds=4)
    damaged = spoil(film, tmp_path / "damaged.mp4", 90, 120)  # from 1.9 to 2.5 s
    mux(damaged, ticking(4, 16_000, (1.0,)), 16_000, tmp_path / "o.mp4", audio="mix")
    (track,) = tracks_of(tmp_path / "o.mp4")
    heard = heard_ticks(track.samples[0], 48_000)
    assert set(np.round(heard, 2)) >= {0.5, 1.0, 1.7, 3.1}
    assert np.abs(track.samples).max() < 1.0
    assert track.samples.shape[1] / 48_000 == pytest.approx(4.0, abs=0.05)


def test_an_original_sound_that_cannot_be_decoded_is_said_before(tmp_path):
    film = spoil(make_numbered(tmp_path / "film.mp4", seconds=2), tmp_path / "damaged.mp4", 0, None)
    for audio in ("mix", "add-track"):
        assert "cannot be decoded: the generated sound is the only one" in plan_own_sound(film, ".mp4", audio).note
        mux(film, ticking(2, 16_000, (1.0,)), 16_000, tmp_path / "o.mp4", audio=audio)
        (track,) = tracks_of(tmp_path / "o.mp4")
        assert heard_ticks(track.samples[0], 48_000) == pytest.approx([1.0], abs=0.001)


def test_the_original_is_the_track_that_players_take(tmp_path):
    """The second one is marked default: it is that one which is mixed, and kept."""
    film = make_numbered(tmp_path / "film.mkv", seconds=2, second_sound=True)
    for audio, place in (("mix", 0), ("add-track", 1)):
        mux(film, np.zeros(32_000, np.float32), 16_000, tmp_path / "o.mp4", audio=audio)
        track = tracks_of(tmp_path / "o.mp4")[place]
        assert heard_ticks(track.samples[0], track.rate) == pytest.approx([0.5, 1.7], abs=0.002)


PEAK = """
import sys
from pathlib import Path
from generate.mux import mux
for film in sys.argv[2:]:
    mux(film, Path(film).with_suffix(".wav"), 16_000, Path(film).with_suffix(".mp4"), audio=sys.argv[1])
    print("peak", next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from Linux' /proc")
@pytest.mark.parametrize("audio", ["mix", "add-track"])
def test_memory_of_a_long_film_with_its_own_sound(tmp_path, audio):
    """Twenty minutes, decoded at once, would be 460 MB of stereo."""
    films = []
    for seconds in (20, 1200):
        wave = np.tile(ticking(20, 48_000), seconds // 20)
        films.append(make_media(tmp_path / f"{seconds}.mkv", seconds=seconds, fps=1, rate=48_000, layout="stereo",
                                audio=wave, values=[99] * seconds))  # fmt: skip
        write_wav(films[-1].with_suffix(".wav"), (tone(1) for _ in range(seconds)), 16_000)
    result = subprocess.run(
        [sys.executable, "-c", PEAK, audio, *map(str, films)], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    short, long = (int(line.split()[1]) / 1024 for line in result.stdout.splitlines() if line.startswith("peak"))
    print(f"peak memory: {short:.0f} MiB for 20 s, {long:.0f} MiB for 1200 s")
    assert long - short < 50  # the index of the file is held: 24 bytes and more for each packet
