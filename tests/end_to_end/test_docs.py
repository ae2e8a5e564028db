"""The code of docs/python.md, run from top to bottom as it stands there."""

import re
from pathlib import Path

import av
import matplotlib
import pytest

from pipeline.media.writing import read_wav
from tests.media_factory import make_media

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def test_python(tmp_path, monkeypatch, capsys):
    matplotlib.use("Agg")
    make_media(tmp_path / "clip.mp4", seconds=4)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    blocks = list(re.finditer(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL))
    assert len(blocks) >= 6
    page = PAGE.read_text()
    names = {"__name__": "page"}
    for block in blocks:
        line = page.count("\n", 0, block.start(1))
        exec(compile("\n" * line + block[1], str(PAGE), "exec"), names)
    assert len(names["waveform"]) == 4 * names["rate"]
    assert "tokens (1, 8, 96)" in capsys.readouterr().out
    assert (tmp_path / "spectrogram.png").stat().st_size > 1000
    assert len(read_wav(tmp_path / "out.wav")[0]) == 4 * 16_000
    for name in ("out.mp4", "mixed.mkv", "long.mp4"):
        with av.open(str(tmp_path / name)) as film:
            assert film.duration / av.time_base == pytest.approx(4, abs=0.1)
            assert [stream.rate for stream in film.streams.audio] == [48_000]
            assert len(film.streams.video) == 1
