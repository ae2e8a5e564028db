"""Every kind of container and codec that people have, and every recipe of issue 15: the picture with number n is
on screen from n / fps on, and ticks sound at known seconds, so what is read back says what was decoded."""

import itertools

import numpy as np
import pytest

from common.errors import ClipError
from pipeline.decoding import decode_killable
from pipeline.media import decode_clip, decode_waveform, probe
from presets.config import MediaConfig
from tests.media_factory import make_media, set_matrix, tone
from tests.zoo import TICKS, ZOO, heard_ticks, make_numbered, read_numbers

CONFIG = MediaConfig(frame_size=64)
SECONDS = 20.0


def expect(clip, start, fps, seconds=SECONDS, ticks=TICKS):
    """Sound and picture are late by the same (encoders have delays), each frame and tick is where it belongs."""
    late = 0.0
    if clip.waveform is not None:
        heard = heard_ticks(clip.waveform)
        due = [tick - start for tick in ticks if 0.1 < tick - start < 9.6]
        nearest = [min(heard, key=lambda time, tick=tick: abs(time - tick)) for tick in due]
        lates = [time - tick for time, tick in zip(nearest, due, strict=True)]
        late = float(np.median(lates))
        assert -0.03 < late < 0.25
        assert max(abs(value - late) for value in lates) < 0.005
        assert len(heard) <= len([tick for tick in ticks if -0.3 < tick - start < 10])  # and no others
    for moment, number in zip(clip.times, read_numbers(clip.frames), strict=True):
        exact = (start + moment - late) * fps
        if exact > seconds * fps - 0.1:
            assert number in (None, seconds * fps - 1) if exact < seconds * fps + 0.1 else number is None
            continue
        assert number in {max(0, int(np.floor(exact + margin))) for margin in (-0.1, 0.1)}, (start, moment, number)


@pytest.mark.parametrize("name", list(ZOO))
@pytest.mark.parametrize("start", [0.0, 8.0, 16.3])
def test_every_container_and_codec(zoo, name, start):
    fps = ZOO[name].get("fps", 10)
    clip = decode_clip(zoo(name), CONFIG, start=start)
    expect(clip, start, fps)
    assert probe(zoo(name)).duration_s == pytest.approx(SECONDS, abs=0.25)  # F7: also where no length is declared


@pytest.mark.parametrize("name", ["mpeg2.mpg", "mpeg4.ts", "h264.avi"])
def test_windows_start_anywhere(zoo, name):
    """After a seek, time stamps of MPEG-PS are guesses, and the first frames of a long GOP are made up."""
    for start in np.arange(0.4, 14, 1.3):
        clip = decode_clip(zoo(name), CONFIG, start=float(start))
        expect(clip, start, ZOO[name].get("fps", 10))


@pytest.mark.parametrize("name", ["h264.ts", "transport_stream.mp4", "mpeg4.avi", "h264.avi", "mpeg2.mpg", "mpeg4.mp4"])
def test_decord_is_not_asked_where_it_is_wrong_or_hangs(zoo, name):
    """F1, F2, F3: also where it is configured, and through a worker, whose limit is never reached."""
    with pytest.raises(ClipError, match="cannot be trusted"):
        decode_clip(zoo(name), CONFIG, backend="decord")
    clip = decode_killable(zoo(name), MediaConfig(frame_size=64, backend="decord"), start=8.0, seconds=30)
    expect(clip, 8.0, ZOO[name].get("fps", 10))


@pytest.mark.parametrize("name", ["h264.mp4", "hevc.mp4", "h264.mkv", "vp9.webm"])
def test_both_decoders_agree_where_both_are_asked(zoo, name):
    """Pixel for pixel: caches that decord's frames made stay good."""
    theirs, ours = (decode_clip(zoo(name), CONFIG, backend=backend, audio=False) for backend in ("decord", "pyav"))
    np.testing.assert_array_equal(theirs.frames, ours.frames)
    np.testing.assert_array_equal(theirs.shown, ours.shown)


# --- time stamps --------------------------------------------------------------------------------------


def test_frames_without_time_stamps_are_refused(tmp_path):
    path = make_numbered(tmp_path / "raw.mp4", seconds=3, audio=None, form="h264", options={"bf": "2"})
    with pytest.raises(ClipError, match=r"raw\.mp4"):
        decode_clip(path, CONFIG)


def test_time_stamps_that_go_back_are_refused(tmp_path):
    part = make_numbered(tmp_path / "part.ts", seconds=3).read_bytes()
    path = tmp_path / "joined.ts"
    path.write_bytes(part + part)
    with pytest.raises(ClipError, match=r"joined\.ts") as caught:
        decode_clip(path, CONFIG)
    assert caught.value.kind == "timestamps"


# --- gaps in the sound (F4) ---------------------------------------------------------------------------


@pytest.mark.parametrize("gap", [(3.0, 5.0), (3.0, 3.4)])
@pytest.mark.parametrize(("suffix", "audio"), [("mp4", "aac"), ("mkv", "aac"), ("ts", "mp2"), ("webm", "libopus")])
def test_a_gap_in_the_sound_moves_nothing(tmp_path, gap, suffix, audio):
    video = "libvpx" if suffix == "webm" else "libx264"
    path = make_numbered(tmp_path / f"a.{suffix}", video=video, audio=audio, missing_sound=gap, seconds=10)
    whole = make_numbered(tmp_path / f"b.{suffix}", video=video, audio=audio, seconds=10)
    for start in (0.0, 2.0, 4.5):
        waveform = decode_waveform(path, CONFIG, start)
        late = heard_ticks(decode_waveform(whole, CONFIG))[0] - TICKS[0]
        due = [t + late - start for t in TICKS if t < 9.6 and not gap[0] - 0.05 <= t <= gap[1] and t - start > 0.05]
        np.testing.assert_allclose(heard_ticks(waveform), due, atol=0.006)
        left, right = (round((moment + late - start) * 16_000) for moment in gap)
        assert not waveform[max(left + 1600, 0) : max(right - 1600, 0)].any()


@pytest.mark.parametrize("jitter", [0.003, 0.009])
def test_jitter_and_overlaps_are_no_gaps(tmp_path, jitter):
    """Stamps a little early and late by turns: a tone stays unbroken."""
    path = make_numbered(tmp_path / "a.mkv", seconds=4, sound=tone(4, 48_000), sound_jitter=jitter)
    waveform = decode_waveform(path, CONFIG)
    blocks = np.sqrt(np.square(waveform[1600:60_800].reshape(-1, 80)).mean(axis=1))  # 5 ms each
    assert blocks.min() > 0.15
    assert np.abs(np.diff(waveform[1600:60_800])).max() < 0.08  # of a tone of 440 Hz, amplitude 0.3: 0.052


# --- a picture that stands still, or is not there (F8) ------------------------------------------------


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts"])
def test_a_held_picture_is_a_picture(tmp_path, suffix):
    audio = "pcm_s16le" if suffix == "avi" else "aac"
    path = make_numbered(
        tmp_path / f"a.{suffix}", audio=audio, times=[0.0, 3.0, 19.0, 19.5], seconds=20, options={"bf": "0"}
    )
    for start in (0.0, 8.0):
        clip = decode_clip(path, CONFIG, start=start)
        expected = [int(moment + start >= 3.0) for moment in clip.times]
        numbers = read_numbers(clip.frames)
        # One frame late where the muxer's delay is.
        assert sum(number != wanted for number, wanted in zip(numbers, expected, strict=True)) <= 1
        assert clip.shown[1:].all()  # the first sample can come before the first frame


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts", "webm"])
def test_a_picture_that_ends_before_the_sound(tmp_path, suffix):
    video, audio = ("libvpx", "libopus") if suffix == "webm" else ("libx264", "pcm_s16le" if suffix == "avi" else "aac")
    path = make_numbered(tmp_path / f"a.{suffix}", video=video, audio=audio, seconds=5, sound_seconds=20)
    numbers = read_numbers(decode_clip(path, CONFIG).frames)
    assert numbers[19] in (47, 46)
    assert numbers[22:] == [None] * 18
    with pytest.raises(ClipError, match=r"no picture between 8 and 18 s") as caught:
        decode_clip(path, CONFIG, start=8.0)
    assert caught.value.kind == "too_short"
    blank = decode_clip(path, CONFIG, start=8.0, blank=True)
    assert not blank.frames.any()
    assert not blank.shown.any()
    assert heard_ticks(blank.waveform)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_picture_that_begins_17_seconds_after_the_sound(tmp_path, suffix):
    path = make_numbered(tmp_path / f"a.{suffix}", seconds=3, picture_start=17, sound_seconds=20)
    with pytest.raises(ClipError, match="no picture"):
        decode_clip(path, CONFIG)
    clip = decode_clip(path, CONFIG, start=10.0)
    assert clip.shown.sum() == 12
    assert read_numbers(clip.frames)[28:] == [int(moment * 10 + 1e-6) for moment in np.arange(12) / 4]
    assert not decode_clip(path, CONFIG, blank=True).shown.any()


# --- files that end before they say (F9) --------------------------------------------------------------


@pytest.mark.parametrize("name", ["h264.mkv", "vp9.webm", "vp8.webm", "h264.flv"])
def test_a_file_that_was_cut_is_noticed(zoo, tmp_path, name):
    data = zoo(name).read_bytes()
    path = tmp_path / f"cut.{name.partition('.')[2]}"
    path.write_bytes(data[: int(0.4 * len(data))])
    for read in (decode_clip, decode_waveform):
        with pytest.raises(ClipError, match="claims") as caught:
            read(path, CONFIG)
        assert caught.value.kind == "truncated"


# --- what is meant (F17) ------------------------------------------------------------------------------

UNIT = 1 << 16
MATRICES = [
    (a, b, c, d)
    for a, b, c, d in itertools.product((-1, 0, 1), repeat=4)
    if abs(a) == abs(d) and abs(b) == abs(c) and abs(a) + abs(b) == 1
]


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("resize", ["antialiased", "swscale"])
def test_pictures_are_seen_as_shown(tmp_path, matrix, resize):
    """All eight: turned, mirrored, and both. A display matrix moves (x, y) to (a x + c y, b x + d y)."""
    image = np.zeros((96, 128, 3), np.uint8)
    corners = {(-1, -1): 0, (1, -1): 1, (-1, 1): 2}  # left top red, right top green, left bottom blue
    image[:48, :64, 0] = image[:48, 64:, 1] = image[48:, :64, 2] = 255
    path = set_matrix(make_media(tmp_path / "a.mp4", seconds=1, audio=False, values=[image] * 20), matrix)
    frame = decode_clip(path, MediaConfig(frame_size=64, resize=resize), audio=False).frames[0].astype(int)
    a, b, c, d = matrix
    for (x, y), colour in corners.items():
        column, row = a * x + c * y, b * x + d * y
        shown = frame[16 if row < 0 else 48, 16 if column < 0 else 48]
        assert shown.argmax() == colour
        assert shown[colour] > 150


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_the_track_that_is_marked_default_is_heard(tmp_path, suffix):
    path = make_numbered(tmp_path / f"a.{suffix}", seconds=5, second_sound=True)
    np.testing.assert_allclose(heard_ticks(decode_waveform(path, CONFIG)), [t for t in TICKS if t < 4.9], atol=0.01)
