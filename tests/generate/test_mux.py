import av
import numpy as np
import pytest

from generate.mux import mux
from pipeline.errors import ClipError
from pipeline.media import decode_waveform
from presets.config import MediaConfig
from tests.media_factory import make_media, tone


def packets(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        origin = container.start_time / av.time_base
        return [
            (bytes(p), round(float(p.pts * stream.time_base) - origin, 3))
            for p in container.demux(stream)
            if p.dts is not None
        ]


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


def test_files_without_a_picture(tmp_path):
    with pytest.raises(ClipError, match="no video stream"):
        mux(make_media(tmp_path / "a.mp4", video=False), tone(1), 16_000, tmp_path / "out.mp4")
    (tmp_path / "b.mp4").write_text("text")
    with pytest.raises(ClipError, match="cannot be copied"):
        mux(tmp_path / "b.mp4", tone(1), 16_000, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()
    assert not list(tmp_path.glob(".*"))
