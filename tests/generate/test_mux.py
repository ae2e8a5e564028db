"""Outputs read back independently: packets bit for bit, their times, tags, what a decoder sees."""

import os
from fractions import Fraction
from unittest.mock import Mock

import av
import numpy as np
import pytest

from common.errors import ClipError, InputError, WriteError
from generate.mux import Picture, mux, plan_picture
from generate.video_to_audio import VideoToAudio
from pipeline.media import decode_waveform
from presets.config import MediaConfig
from tests.media_factory import make_media, rotate, tone

OPTIONS = {
    "libx264": {"preset": "ultrafast", "bf": "2", "b-adapt": "0", "threads": "1"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=none"},
    "libsvtav1": {"preset": "13", "svtav1-params": "lp=1"},
    "libvpx-vp9": {"cpu-used": "8", "deadline": "realtime"},
    "mpeg4": {"bf": "2"},
}
FORMATS = {"prores": "yuv422p10le", "gif": "rgb8", "mjpeg": "yuvj420p", "huffyuv": "yuv422p"}


def make_picture(path, codec, frames=10, fps=10, tag=None, size=(64, 48), **settings):
    """Ten frames of rising grey with a mark that moves, without sound."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height = size
        stream.pix_fmt = FORMATS.get(codec, "yuv420p")
        stream.options = OPTIONS.get(codec, {})
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        if tag:
            stream.codec_context.codec_tag = tag
        for number in range(frames):
            image = np.full((size[1], size[0], 3), 40 + 15 * number, np.uint8)
            image[:8, 5 * number : 5 * number + 5] = 255
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    # SVT-AV1 gives root's process real-time priority, which all that it starts would inherit: nothing else then runs.
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return path


def packets(path):
    """Bytes and times of all packets of the picture, also of those that have no decoding time."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        origin = container.start_time / av.time_base
        return [
            (bytes(p), round(float(p.pts * stream.time_base) - origin, 3)) for p in container.demux(stream) if p.size
        ]


def payload(data):
    """The NAL units of a packet, whether start codes (TS, AVI) or lengths (mp4, mkv) part them."""
    if data[:3] in (b"\0\0\0", b"\0\0\1") and data[:5] != b"\0\0\0\1\0" and (data[:4] == b"\0\0\0\1" or data[2] == 1):
        parts = data.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")[1:]
    else:
        parts, position = [], 0
        while position < len(data):
            size = int.from_bytes(data[position : position + 4], "big")
            parts.append(data[position + 4 : position + 4 + size])
            position += 4 + size
    return parts


def pictures(path):
    """(time from the container's start, mean luma) of every frame, from the start on, in the order of display."""
    with av.open(str(path)) as container:
        origin = container.start_time / av.time_base
        found = [(f.time - origin, float(f.to_ndarray(format="gray").mean())) for f in container.decode(video=0)]
    return [(round(time, 3), round(grey, 1)) for time, grey in found]


def sound_of(path):
    """Sound as a float array at its own rate, or None."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None
        return np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("audio", [True, None])
def test_picture_is_copied_bit_for_bit_and_sound_is_the_new_one(tmp_path, name, audio):
    source = make_media(tmp_path / name, audio=audio)
    mux(source, tone(10, frequency=1000), 16_000, tmp_path / "out.mp4")
    assert packets(source) == packets(tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert [stream.codec_context.name for stream in container.streams] == ["h264", "aac"]
        assert container.duration / av.time_base == pytest.approx(10, abs=0.1)
    waveform = decode_waveform(tmp_path / "out.mp4", MediaConfig())
    assert np.abs(np.fft.rfft(waveform[16_000:32_000])).argmax() == 1000


# Which file, with which codec, asked for which output: what is written, and under which tag.
COPIED = [
    ("a.mp4", "libx264", ".mp4", ".mp4", "avc1"), ("a.mkv", "libx264", ".mp4", ".mp4", "avc1"),
    ("a.flv", "libx264", ".mp4", ".mp4", "avc1"), ("a.ts", "libx264", ".mp4", ".mp4", "avc1"),
    ("a.mp4", "libx264", ".mkv", ".mkv", ""), ("a.mp4", "libx264", ".webm", ".mkv", ""),
    ("a.mp4", "libx265", ".mp4", ".mp4", "hev1"), ("hvc1.mp4", "libx265", ".mp4", ".mp4", "hvc1"),
    ("hvc1.mp4", "libx265", ".mov", ".mov", "hvc1"),
    ("a.mp4", "libsvtav1", ".mp4", ".mp4", "av01"), ("a.mkv", "libsvtav1", ".webm", ".webm", ""),
    ("a.mkv", "libsvtav1", ".mov", ".mkv", ""),
    ("a.webm", "libvpx-vp9", ".mp4", ".mp4", "vp09"), ("a.webm", "libvpx-vp9", ".webm", ".webm", ""),
    ("a.webm", "libvpx", ".mp4", ".mkv", ""), ("a.webm", "libvpx", ".webm", ".webm", ""),
    ("a.mov", "prores", ".mov", ".mov", "apcn"), ("a.mov", "prores", ".mp4", ".mkv", ""),
    ("a.avi", "mpeg4", ".mp4", ".mp4", "mp4v"), ("a.avi", "mjpeg", ".mp4", ".mp4", "mp4v"),
    ("a.mov", "mjpeg", ".mp4", ".mp4", "mp4v"), ("a.avi", "msmpeg4v3", ".mp4", ".mkv", ""),
]  # fmt: skip


@pytest.mark.parametrize(("name", "codec", "asked", "written", "tag"), COPIED)
def test_copies(tmp_path, name, codec, asked, written, tag):
    source = make_picture(tmp_path / name, codec, tag="hvc1" if "hvc1" in name else None)
    picture = plan_picture(source, asked)
    assert (picture.suffix, picture.encoded, bool(picture.note)) == (written, False, asked != written)
    out = tmp_path / f"out{written}"
    mux(source, tone(1), 16_000, out, picture)
    ours, theirs = packets(out), packets(source)
    if name.endswith(".ts"):  # start codes become lengths, parameter sets may move to the header
        ours, theirs = ([(set(payload(data)), time) for data, time in each] for each in (ours, theirs))
        assert all(a[0] <= b[0] or b[0] <= a[0] for a, b in zip(ours, theirs, strict=True))
        ours, theirs = ([time for _, time in each] for each in (ours, theirs))
    assert ours == theirs
    assert pictures(out) == pictures(source)
    assert len(pictures(out)) == 10
    with av.open(str(out)) as container:
        assert container.streams.video[0].codec_context.codec_tag.strip("\0") == tag
        assert container.streams.audio[0].codec_context.name == ("opus" if written == ".webm" else "aac")


@pytest.mark.parametrize(
    ("name", "codec", "asked", "codec_asked", "written"),
    [
        ("a.wmv", "wmv2", ".mp4", "auto", ".mp4"), ("a.flv", "flv", ".mp4", "auto", ".mp4"),
        ("a.gif", "gif", ".mp4", "auto", ".mp4"), ("a.gif", "gif", ".webm", "auto", ".mkv"),
        ("a.avi", "huffyuv", ".mov", "auto", ".mov"), ("a.avi", "libx264", ".mp4", "auto", ".mp4"),
        ("a.webm", "libvpx", ".mp4", "h264", ".mp4"), ("a.mov", "prores", ".mkv", "h264", ".mkv"),
        ("a.avi", "mjpeg", ".mp4", "h264", ".mp4"),
    ],
)  # fmt: skip
def test_encodes(tmp_path, name, codec, asked, codec_asked, written):
    """Each frame at its time; a grey level is met within what 4:2:0 at this quality leaves."""
    source = make_picture(tmp_path / name, codec)
    picture = plan_picture(source, asked, codec_asked)
    assert (picture.suffix, picture.encoded, bool(picture.note)) == (written, True, codec_asked == "auto")
    out = tmp_path / f"out{written}"
    mux(source, tone(1), 16_000, out, picture)
    with av.open(str(out)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
        decoded = [(f.time, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    assert [round(time, 2) for time, _ in decoded] == [round(n / 10, 2) for n in range(10)]
    for number, (_, image) in enumerate(decoded):
        assert abs(image[20:].mean() - (40 + 15 * number)) < 3
        assert image[2:6, : 5 * number].size == 0 or image[2:6, : max(5 * number - 4, 1)].mean() < 255 - 40


def test_h264_is_copied_where_h264_is_asked_for(tmp_path):
    assert plan_picture(make_picture(tmp_path / "a.mkv", "libx264"), ".mp4", "h264") == Picture(".mp4")


def test_without_a_way(tmp_path):
    gif = make_picture(tmp_path / "a.gif", "gif")
    with pytest.raises(ClipError, match="--video-codec h264"):
        plan_picture(gif, ".mp4", "copy")
    with pytest.raises(ClipError, match=r"gif cannot be copied into \.mp4"):
        mux(gif, tone(1), 16_000, tmp_path / "out.mp4")
    with pytest.raises(InputError, match="a webm file holds no"):
        plan_picture(gif, ".webm", "h264")
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize(("codec", "name"), [("libx265", "a.mp4"), ("prores", "a.mov"), ("libvpx-vp9", "a.webm")])
def test_colours_stay(tmp_path, codec, name):
    """BT.2020 with PQ, as phones and cameras tag their HDR."""
    tags = {"color_primaries": 9, "color_trc": 16, "colorspace": 9, "color_range": 1}
    source = make_picture(tmp_path / name, codec, **tags)
    for asked, how in ((".mov", "auto"), (".mp4", "auto"), (".mkv", "auto"), (".mp4", "h264")):
        picture = plan_picture(source, asked, how)
        mux(source, tone(1), 16_000, tmp_path / f"out{picture.suffix}", picture)
        with av.open(str(tmp_path / f"out{picture.suffix}")) as container:
            context = container.streams.video[0].codec_context
            assert {tag: getattr(context, tag) for tag in tags} == tags, (asked, how)


def test_turned_pictures_stay_turned(tmp_path):
    """A copy keeps the display matrix; what is encoded is turned: bright where it was bright."""
    image = np.zeros((64, 96, 3), np.uint8)
    image[:16, :24] = 255  # top left: shown at the top right after a quarter turn clockwise
    source = rotate(make_media(tmp_path / "a.mp4", seconds=1, size=(64, 96), values=[image] * 20))
    mux(source, tone(1), 16_000, tmp_path / "copy.mp4")
    with av.open(str(tmp_path / "copy.mp4")) as container:
        assert next(container.decode(video=0)).rotation == -90
    mux(source, tone(1), 16_000, tmp_path / "new.mp4", Picture(".mp4", encoded=True))
    with av.open(str(tmp_path / "new.mp4")) as container:
        frame = next(container.decode(video=0))
        assert (frame.rotation, frame.width, frame.height) == (0, 64, 96)
        shown = frame.to_ndarray(format="gray")
    assert shown[:20, -12:].mean() > 200
    assert shown[:20, :40].mean() < 50
    assert shown[40:].mean() < 50


def test_sound_and_picture_alternate(tmp_path):
    """What is due together lies together: a player needs no more than a second of the file at once."""
    source = make_media(tmp_path / "a.mkv", seconds=10, audio=None)
    mux(source, (tone(10)[n : n + 7777] for n in range(0, 160_000, 7777)), 16_000, tmp_path / "out.mp4")
    latest = {"video": 0.0, "audio": 0.0}
    with av.open(str(tmp_path / "out.mp4")) as container:
        order = sorted((p.pos, p.stream.type, float(p.pts * p.time_base)) for p in container.demux() if p.size)
    for _, kind, time in order:
        latest[kind] = time
        assert abs(latest["video"] - latest["audio"]) < 1.2
    heard = sound_of(tmp_path / "out.mp4")
    assert len(heard) == pytest.approx(480_000, abs=2048)


def test_files_without_a_picture(tmp_path):
    with pytest.raises(ClipError, match="no video stream"):
        mux(make_media(tmp_path / "a.mp4", video=False), tone(1), 16_000, tmp_path / "out.mp4")
    (tmp_path / "b.mp4").write_text("text")
    with pytest.raises(ClipError, match="not a media file"):
        mux(tmp_path / "b.mp4", tone(1), 16_000, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()
    assert not list(tmp_path.glob(".*"))


def test_arguments_that_cannot_be(tmp_path):
    """From Python nothing else looks at them: the film would be written over, integers be heard as noise."""
    film = make_media(tmp_path / "a.mp4", seconds=0.2)
    before, sound = film.read_bytes(), tone(0.2)
    (tmp_path / "link.mp4").symlink_to(film)
    for out in (film, tmp_path / "link.mp4"):
        with pytest.raises(WriteError, match=r"the input .* itself"):
            mux(film, sound, 16_000, out)
    with pytest.raises(InputError, match=r"a film is written as .mp4"):
        mux(film, sound, 16_000, tmp_path / "out.avi")
    with pytest.raises(InputError, match="rate of the sound is 0"):
        mux(film, sound, 0, tmp_path / "out.mp4")
    for wrong in ((sound * 32767).astype(np.int16), np.stack([sound, sound]), list(sound)):
        with pytest.raises(InputError, match="a sound is a float array"):
            mux(film, wrong, 16_000, tmp_path / "out.mp4")
    with pytest.raises(WriteError, match="itself"):
        VideoToAudio.write(Mock(), film, film)
    with pytest.raises(WriteError, match=r"is a .wav"):
        VideoToAudio.write(Mock(), film, tmp_path / "out.mp4")
    assert film.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"a.mp4", "link.mp4"}
