"""Both backends on awkward media: the frame shown at time t has grey level 10 + 20 t."""

from dataclasses import replace

import av
import numpy as np
import pytest
from PIL import Image

from common.errors import ClipError, InputError
from evaluation.sounds import SoundInput
from generate.mux import mux
from generate.outputs import made_here
from pipeline.media import decode_clip, decode_waveform, probe
from pipeline.media.sound import decode_waveforms
from presets.config import MediaConfig
from tests.media_factory import make_media, rotate, tagged, tone

CONFIG = MediaConfig()
BACKENDS = ["decord", "pyav"]


def shown_times(clip):
    """The times that the frames were made for, read back from their grey levels."""
    return (clip.frames.mean(axis=(1, 2, 3)) - 10) / 20


@pytest.mark.parametrize("backend", BACKENDS)
class TestFrames:
    def test_contract(self, tmp_path, backend):
        clip = decode_clip(make_media(tmp_path / "a.mp4"), CONFIG, backend=backend)
        assert clip.frames.shape == (40, 224, 224, 3)
        assert clip.frames.dtype == np.uint8
        assert clip.waveform.shape == (160_000,)
        assert clip.waveform.dtype == np.float32
        np.testing.assert_allclose(clip.times, np.arange(40) / 4)
        late = clip.times - shown_times(clip)
        assert late.min() > -0.01  # grey levels come back to within one
        assert late.max() < 0.06  # never older than one frame at 20 per second

    def test_variable_frame_rate_is_sampled_by_time(self, tmp_path, backend):
        times = [*np.arange(0, 3, 0.1), *np.arange(3, 6, 0.5), *np.arange(6, 10, 0.04)]
        clip = decode_clip(make_media(tmp_path / "a.mp4", times=times), CONFIG, backend=backend)
        expected = [max(t for t in times if t <= moment + 1e-6) for moment in clip.times]
        np.testing.assert_allclose(shown_times(clip), expected, atol=0.08)

    @pytest.mark.parametrize("suffix", ["mp4", "mkv"])
    def test_late_video_stays_in_step_with_the_sound(self, tmp_path, backend, suffix):
        click = np.zeros(160_000, np.float32)
        click[32_000:32_200] = 0.8
        path = make_media(tmp_path / f"a.{suffix}", video_start=0.7, audio=click)
        clip = decode_clip(path, CONFIG, backend=backend)
        np.testing.assert_allclose(shown_times(clip), np.maximum(clip.times - 0.7, 0), atol=0.06)
        assert abs(np.argmax(np.abs(clip.waveform) > 0.2) - 32_000) < 100

    def test_late_sound_is_preceded_by_zeros(self, tmp_path, backend):
        click = np.zeros(160_000, np.float32)
        click[32_000:32_200] = 0.8
        clip = decode_clip(make_media(tmp_path / "a.mp4", audio_start=0.7, audio=click), CONFIG, backend=backend)
        assert abs(np.argmax(np.abs(clip.waveform) > 0.2) - 32_000 - 0.7 * 16_000) < 100

    def test_short_clip_is_zero_padded(self, tmp_path, backend):
        clip = decode_clip(make_media(tmp_path / "a.mp4", seconds=3), CONFIG, backend=backend)
        assert clip.frames[:12].mean() > 9
        assert not clip.frames[12:].any()
        assert np.abs(clip.waveform[:48_000]).max() > 0.2
        assert not clip.waveform[50_000:].any()

    def test_long_clip_is_cut_and_windows_start_anywhere(self, tmp_path, backend):
        # levels repeat every 10 s so that they fit 8 bits
        times = [n / 10 for n in range(250)]
        values = [10 + 20 * (t % 10) for t in times]
        path = make_media(tmp_path / "a.mp4", times=times, values=values, audio=tone(25))
        clip = decode_clip(path, CONFIG, backend=backend, start=7.5)
        expected = np.floor((clip.times + 7.5) * 10 + 1e-6) / 10 % 10
        np.testing.assert_allclose(shown_times(clip), expected, atol=0.08)
        assert np.abs(clip.waveform[-1000:]).max() > 0.2

    @pytest.mark.parametrize("resize", ["antialiased", "swscale"])
    def test_rotation_flag_is_obeyed(self, tmp_path, backend, resize):
        image = np.zeros((96, 128, 3), np.uint8)
        image[:48, :64], image[:48, 64:], image[48:, :64] = [255, 0, 0], [0, 255, 0], [0, 0, 255]
        path = rotate(make_media(tmp_path / "a.mp4", seconds=2, values=[image] * 40))
        frame = decode_clip(path, MediaConfig(resize=resize), backend=backend).frames[2].astype(int)
        assert frame[50, 170].argmax() == 0
        assert frame[50, 170, 0] > 200  # a quarter turn clockwise puts red on the right
        assert frame[170, 170].argmax() == 1
        assert frame[50, 50].argmax() == 2

    @pytest.mark.parametrize("size", [(241, 333), (333, 241)])
    def test_odd_sizes(self, tmp_path, backend, size):
        clip = decode_clip(make_media(tmp_path / "a.mp4", size=size), CONFIG, backend=backend)
        np.testing.assert_allclose(shown_times(clip), clip.times, atol=0.06)

    def test_one_frame(self, tmp_path, backend):
        path = make_media(tmp_path / "a.mp4", times=[0.0], audio=tone(10))
        with pytest.raises(ClipError) as caught:
            decode_clip(path, CONFIG, backend=backend)
        assert caught.value.kind == "too_short"

    def test_no_video(self, tmp_path, backend):
        with pytest.raises(ClipError) as caught:
            decode_clip(make_media(tmp_path / "a.mp4", video=False), CONFIG, backend=backend)
        assert caught.value.kind == "no_video"

    def test_truncated_after_the_index(self, tmp_path, backend):
        path = make_media(tmp_path / "a.mp4", faststart=True, size=(240, 320))
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(ClipError) as caught:
            decode_clip(path, CONFIG, backend=backend)
        assert caught.value.kind in ("truncated", "unreadable")


@pytest.mark.parametrize(("rate", "layout"), [(48_000, "5.1"), (8_000, "mono"), (44_100, "stereo"), (96_000, "mono")])
def test_sound_of_any_rate_and_layout(tmp_path, rate, layout):
    path = make_media(tmp_path / "a.mp4", audio=tone(10, rate), rate=rate, layout=layout, seconds=1)
    waveform = decode_waveform(path, CONFIG)
    spectrum = np.abs(np.fft.rfft(waveform[16_000:32_000]))
    assert spectrum.argmax() == 440
    assert np.abs(waveform).max() <= 1.0
    assert np.abs(waveform[155_000:159_000]).max() > 0.1


def test_no_audio_and_silence_still_give_frames(tmp_path):
    clip = decode_clip(make_media(tmp_path / "a.mp4", audio=None), CONFIG)
    assert clip.waveform is None
    assert clip.audio_fault.kind == "no_audio"
    muted = decode_clip(make_media(tmp_path / "b.mp4", audio=np.zeros(160_000)), CONFIG)
    assert muted.audio_fault.kind == "silent"
    assert muted.frames.any()


def test_a_folder_is_not_called_absent(tmp_path):
    with pytest.raises(ClipError, match=r"missing_file: .* is not a file"):
        probe(tmp_path)


@pytest.mark.parametrize(
    ("content", "kind"),
    [(None, "missing_file"), (b"", "empty_file"), (b"this is not a video\n" * 50, "unreadable")],
)
def test_files_that_are_no_media(tmp_path, content, kind):
    path = tmp_path / "clip.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ClipError) as caught:
        decode_clip(path, CONFIG)
    assert caught.value.kind == kind
    assert str(path) in caught.value.message
    with pytest.raises(ClipError):
        probe(path)


def test_resizes_of_the_authors(tmp_path):
    """``antialiased`` is PIL's on the full frame, ``swscale`` is decord's own resize, whatever the backend."""
    import decord

    random = np.random.default_rng(0)
    image = np.kron(random.integers(0, 256, (12, 16, 3)), np.ones((40, 40, 1))).astype(np.uint8)
    path = make_media(tmp_path / "a.mp4", seconds=2, values=[image] * 40, size=image.shape[:2])
    full = decord.VideoReader(str(path))[20].asnumpy()
    pil = np.asarray(Image.fromarray(full).resize((224, 224), Image.Resampling.BILINEAR))
    theirs = decord.VideoReader(str(path), width=224, height=224)[20].asnumpy()
    for backend in BACKENDS:
        antialiased = decode_clip(path, CONFIG, backend=backend).frames[4]
        swscale = decode_clip(path, MediaConfig(resize="swscale"), backend=backend).frames[4]
        np.testing.assert_array_equal(antialiased, pil)
        assert np.abs(swscale.astype(int) - theirs).mean() < 0.6 * np.abs(pil.astype(int) - theirs).mean()
    np.testing.assert_array_equal(decode_clip(path, MediaConfig(resize="swscale")).frames[4], theirs)


def test_probe_reads_the_header(tmp_path):
    info = probe(make_media(tmp_path / "a.mp4", size=(240, 320), fps=25, rate=44_100, audio=tone(10, 44_100)))
    assert (info.width, info.height, info.has_audio, info.audio_rate) == (320, 240, True, 44_100)
    assert info.fps == pytest.approx(25, rel=0.02)
    assert info.duration_s == pytest.approx(10, abs=0.1)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_tags_that_are_no_utf_8_are_no_reason_to_refuse_a_film(tmp_path, suffix):
    film = make_media(tmp_path / f"a.{suffix}", seconds=2)
    named, ascii_named = (
        tagged(film, tmp_path / f"{n}.{suffix}", title, language if suffix == "mkv" else "")
        for n, (title, language) in enumerate(
            [("d\xe9j\xe0 vu \xe0 No\xebl", "fran\xe7ais"), ("deja vu a Noel", "francais")]
        )
    )
    assert probe(named) == probe(ascii_named)
    clip, plain = decode_clip(named, CONFIG), decode_clip(ascii_named, CONFIG)
    np.testing.assert_array_equal(clip.frames, plain.frames)
    np.testing.assert_array_equal(clip.waveform, plain.waveform)
    assert SoundInput(seconds=2).read(named).any()
    if suffix != "avi":
        mux(named, tone(2), 16_000, tmp_path / "out.mkv", audio="add-track")
        assert made_here(tmp_path / "out.mkv")
    assert not made_here(named)


@pytest.mark.parametrize("kind", ["m3u8", "ffconcat"])
def test_a_playlist_shows_no_other_film(kind, tmp_path):
    film, listed = make_media(tmp_path / "film.mp4", seconds=1), tmp_path / f"list.{kind}"
    listed.write_text(
        {
            "m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{film}\n#EXT-X-ENDLIST\n",
            "ffconcat": "ffconcat version 1.0\nfile film.mp4\n",
        }[kind]
    )
    with pytest.raises(ClipError, match=r"unreadable: .*playlist, which names others"):
        probe(listed)


@pytest.mark.parametrize("rate", [44_100, 16_000])
def test_sound_at_several_rates_out_of_one_decoding(tmp_path, rate):
    """What is at 16 kHz does not depend on what else is asked for; the others are no copies of it."""
    sound = tone(11, rate, frequency=3000) + (tone(11, rate, frequency=11_000) if rate > 22_000 else 0)
    path = make_media(tmp_path / "a.mp4", seconds=11, audio=sound, rate=rate, audio_start=0.5)
    plain = decode_clip(path, CONFIG, start=0.3)
    both = decode_clip(path, CONFIG, start=0.3, rates=[48_000, 16_000])
    assert np.array_equal(both.waveform, plain.waveform)
    assert both.sound() is both.sound(16_000) is both.waveform
    wide = both.sound(48_000)
    assert (wide.shape, wide.dtype) == ((480_000,), np.float32)
    first = [np.argmax(np.abs(wave) > 0.1) / hertz for wave, hertz in ((wide, 48_000), (both.waveform, 16_000))]
    assert first == pytest.approx([0.2, 0.2], abs=0.03), "AAC begins softly"
    assert first[0] == pytest.approx(first[1], abs=0.001)
    loudest = np.abs(np.fft.rfft(wide[48_000 : 2 * 48_000]))  # by Hz
    assert loudest[3000] > 5000
    assert (loudest[11_000] > 5000) == (rate > 22_000)
    with pytest.raises(InputError, match="without sound at 32000 Hz: it has 16000, 48000"):
        both.sound(32_000)


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_f64le", "pcm_s64le"])
def test_several_rates_of_sound_without_a_named_layout(tmp_path, codec):
    """As in most wavs: FFmpeg names the layout of a frame in place, and would refuse it the second time."""
    path = tmp_path / "a.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(1)[None], format="fltp", layout="mono")
        frame.sample_rate = 16_000
        for piece in av.AudioResampler(format=stream.codec_context.format, layout="mono").resample(frame):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    both = decode_waveforms(path, CONFIG, [48_000, 22_050])
    assert [len(both[rate]) for rate in (16_000, 22_050, 48_000)] == [160_000, 220_500, 480_000]
    for rate, wave in both.items():
        assert np.array_equal(wave, decode_waveform(path, replace(CONFIG, sample_rate=rate)))
        assert np.abs(wave[: rate // 2]).max() == pytest.approx(0.3, abs=0.02)


def test_no_sound_at_any_rate(tmp_path):
    clip = decode_clip(make_media(tmp_path / "a.mp4", seconds=1, audio=None), CONFIG, rates=[48_000])
    with pytest.raises(ClipError, match="no audio stream"):
        clip.sound(48_000)
