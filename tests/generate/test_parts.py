"""A part of a film: the frames that are seen in it, each at its moment, with the sounds of that moment."""

import av
import numpy as np
import pytest

from common.errors import InputError
from generate.mux import mux, plan_picture
from generate.outputs import plan_output
from tests.generate.test_mux import make_picture, packets
from tests.generate.test_own_sound import tracks_of
from tests.media_factory import tone
from tests.zoo import TICKS, ZOO, heard_ticks, make_numbered, read_number, ticking

SECONDS = 6
_EVERY_25 = {"preset": "veryfast", "g": "25", "sc_threshold": "0", "bf": "3", "b-adapt": "0"}
_OPEN = "log-level=0:keyint=25:min-keyint=25:scenecut=0:open-gop=1:bframes=3"
# A key frame every 2.5 s; in open groups, frames shown before one follow it in the file.
FILMS = {
    "h264.mp4": {"options": _EVERY_25},
    "h264.ts": {"options": _EVERY_25},
    "open.mkv": {"options": {**_EVERY_25, "x264-params": "open-gop=1"}},
    "hevc.mp4": {"video": "libx265", "options": {"preset": "ultrafast", "x265-params": _OPEN}},
    "vp9.webm": {"video": "libvpx-vp9", "audio": "libopus", "options": {**ZOO["vp9.webm"]["options"], "g": "25"}},
    "mpeg2.mpg": ZOO["mpeg2.mpg"],
    "h264.avi": ZOO["h264.avi"],
    "pipe.mkv": ZOO["to_a_pipe.mkv"],
}


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("films"), {}

    def film(name):
        if name not in made:
            made[name] = make_numbered(folder / name, seconds=SECONDS, **FILMS[name])
        return made[name]

    return film


def shown(path):
    """(seconds from the container's start, number) of every frame."""
    with av.open(str(path)) as file:
        origin = (file.start_time or 0) / av.time_base
        return [(f.time - origin, read_number(f.to_ndarray(format="rgb24"))) for f in file.decode(video=0)]


def lateness(film):
    """Seconds by which the numbers of a film are late for its container's start, as encoders are.

    Not in AVI, whose times FFmpeg makes up: the n-th frame is the n-th.
    """
    return 0.0 if film.suffix == ".avi" else shown(film)[0][0]


def written(film, out, seconds, **options):
    plan = plan_output(film, out, **options)
    options.pop("codec", None)
    mux(film, ticking(seconds, 16_000, (0.25,)), 16_000, plan.video, plan.picture, **options)
    return plan


@pytest.mark.parametrize(
    ("name", "out", "start", "duration", "encoded"),
    [
        ("h264.mp4", "o.mp4", 2.5, 2.0, False), ("h264.mp4", "o.mkv", 2.5, None, False),
        ("h264.mp4", "o.mp4", 0.0, 2.0, False), ("h264.mp4", "o.mov", 1.2, 2.0, True),
        ("h264.ts", "o.mp4", 3.1, 1.5, True), ("open.mkv", "o.mp4", 2.5, 2.0, False),
        ("hevc.mp4", "o.mp4", 2.5, 2.0, False), ("hevc.mp4", "o.mp4", 3.3, 2.0, True),
        ("vp9.webm", "o.webm", 2.5, 1.5, False), ("vp9.webm", "o.webm", 1.2, 1.0, True),
        ("mpeg2.mpg", "o.mp4", 3.0, 1.5, True), ("h264.avi", "o.mp4", 1.8, 2.0, True),
        ("pipe.mkv", "o.mp4", 4.3, None, True),
    ],
)  # fmt: skip
def test_frames_and_sounds_of_the_part(films, tmp_path, name, out, start, duration, encoded):
    """All frames that are on screen in the part and no other; ours is heard at its place, the original at its own."""
    film = films(name)
    length = duration or SECONDS - start
    plan = written(film, tmp_path / out, length, audio="mix", start=start, duration=duration)
    assert plan.picture.encoded == encoded
    assert any("where no key frame is known: it is encoded again as" in note for note in plan.notes) == encoded
    frames, late, fps = shown(tmp_path / out), lateness(film), FILMS[name].get("fps", 10)
    (track,) = tracks_of(tmp_path / out)
    begin = tracks_shift(track)
    times = np.array([time for time, _ in frames]) - begin
    numbers = [number for _, number in frames]
    first = int(np.floor((start - late) * fps + 0.02)) if encoded else int(np.ceil((start - late) * fps - 0.02))
    last = int(np.ceil((start + length - late) * fps - 0.02)) - 1
    wanted = list(range(first, min(last, round(SECONDS * fps) - 1) + 1))
    assert numbers[: len(wanted)] == wanted
    assert len(numbers) - len(wanted) in (range(1) if encoded else range(4))  # what the last ones refer to
    due = np.maximum(np.array(numbers) / fps + late - start, 0.0)
    np.testing.assert_allclose(times, due, atol=0.002)
    theirs = [tick + late - start for tick in TICKS if start < tick + late < start + length - 0.03]
    heard = [tick - begin for tick in heard_ticks(track.samples[0], 48_000)]
    assert heard == pytest.approx(sorted([0.25, *theirs]), abs=0.012)
    assert track.samples.shape[1] / 48_000 == pytest.approx(length, abs=0.05)


def tracks_shift(track):
    """Where our own tick says that the part begins: Matroska is late by a decoder's delay as a whole."""
    shift = min((tick - 0.25 for tick in heard_ticks(track.samples[0], 48_000)), key=abs)
    assert abs(shift) < 0.025
    return shift


@pytest.mark.parametrize("name", ["h264.mp4", "open.mkv", "hevc.mp4"])
def test_a_copied_part_is_the_same_bytes(films, tmp_path, name):
    film = films(name)
    plan = written(film, tmp_path / "o.mkv", 2, codec="copy", start=2.5, duration=2.0)
    assert not plan.notes
    ours, theirs = (dict(reversed(pair) for pair in packets(path)) for path in (tmp_path / "o.mkv", film))
    begin = min(ours)
    assert len(ours) in range(20, 23)  # frames that others refer to may follow the end
    assert all(theirs[round(time - begin + 2.5, 3)] == data for time, data in ours.items())


def test_a_copy_ends_with_what_its_last_frames_refer_to(films, tmp_path):
    """An end between frames that refer to a later one: that one stays, and no frame of the part is lost."""
    film = films("hevc.mp4")
    for duration in (1.9, 2.0, 2.1, 2.2, 2.3):
        written(film, tmp_path / "o.mp4", duration, start=2.5, duration=duration)
        numbers = [number for _, number in shown(tmp_path / "o.mp4")]
        assert numbers[: round(duration * 10)] == list(range(25, 25 + round(duration * 10)))
        assert len(numbers) <= round(duration * 10) + 3


def test_the_second_track_of_a_part(films, tmp_path):
    film = films("h264.mp4")
    written(film, tmp_path / "o.mp4", 3, audio="add-track", start=2.5, duration=3.0)
    ours, theirs = tracks_of(tmp_path / "o.mp4")
    assert heard_ticks(ours.samples[0], 48_000) == pytest.approx([0.25], abs=0.002)
    expected = [tick - 2.5 for tick in TICKS if 2.5 < tick < 5.5]
    assert heard_ticks(theirs.samples[0], 48_000) == pytest.approx(expected, abs=0.002)


def test_frames_of_unequal_length(tmp_path):
    """What is on screen when the part begins is seen from its begin on, however long ago it came."""
    times = [0.0, 0.2, 0.3, 1.9, 2.0, 3.7, 4.0]
    film = make_numbered(tmp_path / "a.mkv", seconds=4.1, times=times, options={"preset": "veryfast"})
    written(film, tmp_path / "o.mp4", 3, start=1.0, duration=3.0)
    assert [(round(time, 3), number) for time, number in shown(tmp_path / "o.mp4")] == [
        (0.0, 2), (0.9, 3), (1.0, 4), (2.7, 5),
    ]  # fmt: skip
    written(film, tmp_path / "o.mp4", 0.5, start=2.5, duration=0.5)
    assert [number for _, number in shown(tmp_path / "o.mp4")] == [4]


def test_a_copy_from_between_key_frames_is_refused(films, tmp_path):
    with pytest.raises(InputError, match=r"no key frame is known: there are some at 2\.5 and 5 s"):
        plan_output(films("h264.mp4"), tmp_path / "o.mp4", "copy", start=3.3)
    with pytest.raises(InputError, match="encodes it again"):
        plan_output(make_picture(tmp_path / "a.avi", "mjpeg"), tmp_path / "o.mp4", "copy", start=0.5)
    assert not list(tmp_path.glob("o*"))
    assert plan_picture(films("h264.mp4"), ".mp4", "h264", start=3.3).encoded


def test_sound_longer_than_the_part_is_cut(films, tmp_path):
    mux(films("h264.mp4"), tone(6), 16_000, tmp_path / "o.mp4", start=2.5, duration=1.0)
    (track,) = tracks_of(tmp_path / "o.mp4")
    assert track.samples.shape[1] / 48_000 == pytest.approx(1.0, abs=0.03)
