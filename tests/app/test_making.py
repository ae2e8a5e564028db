"""What the page makes, and what it refuses before any work."""

import av
import numpy as np
import pytest
from PIL import Image

from app.examples import CLASSES, examples
from app.making import Limits, Maker, Request, StoppedError
from app.pictures import draw_sound
from common.errors import ClipError, InputError
from pipeline.media import probe
from pipeline.media.writing import read_wav
from tests.media_factory import make_media


def test_a_film_its_sound_and_their_picture(maker, film):
    before, said = film.read_bytes(), []
    wanted = Request(film, "dog barking", seed=5, steps=2, guidance_scale=2.0, candidates=2)
    result = maker.make(wanted, lambda share, note: said.append((share, note)))
    assert film.read_bytes() == before
    made = probe(result.film)
    assert made.duration_s == pytest.approx(3, abs=0.1)
    assert made.has_audio
    with av.open(str(result.film)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
    waveform, rate = read_wav(result.sound)
    assert rate == 16000
    assert len(waveform) == 3 * rate
    assert np.abs(waveform).max() > 0.01
    assert result.seed in (5, 6)
    assert -1 <= result.score <= 1
    assert Image.open(result.picture).size[0] > 500
    shares = [share for share, _ in said]
    assert shares == sorted(shares)
    assert {0.25, 0.5, 0.75, 1.0} <= set(shares), "each of the two steps of the two candidates is told"
    again = maker.model.best(film, "dog barking", seed=result.seed, steps=2, guidance_scale=2.0)
    assert np.abs(again.waveform - waveform).max() < 0.05, "the seed that is shown makes the same sound"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": 201}, "201 steps are asked for; this page takes up to 200"),
        ({"candidates": 5}, "5 candidates"),
        ({"label": "a" * 201}, "201 letters of the label"),
        ({"negative_prompt": "a" * 201}, "201 letters of the negative prompt"),
        ({"scheduler": "NoScheduler"}, "no scheduler 'NoScheduler'"),
        ({"seed": -1}, "seed"),
    ],
)
def test_what_cannot_be_is_refused(maker, film, monkeypatch, change, said):
    monkeypatch.setattr(maker.model, "_tokens", None)  # nothing was begun
    with pytest.raises(Exception, match=said) as caught:
        maker.make(Request(film, **change))
    assert hasattr(caught.value, "exit_code"), "one of our typed errors"
    assert list(maker.place.files.iterdir()) == [], "nothing is left of it"


def test_films_over_the_limits_are_refused(maker, film, tmp_path):
    long = make_media(tmp_path / "long.mp4", seconds=16, fps=2, values=[40] * 32)
    with pytest.raises(InputError, match=r"long\.mp4 plays 16 s; this page takes films of up to 15 s"):
        maker.make(Request(long))
    large = tmp_path / "large.mp4"
    large.write_bytes(film.read_bytes() + bytes(2**20))
    with pytest.raises(InputError, match=r"large\.mp4 has 1 MB; this page takes films of up to 1 MB"):
        maker.make(Request(large))
    text = tmp_path / "text.mp4"
    text.write_text("no film")
    with pytest.raises(ClipError, match="unreadable"):
        maker.make(Request(text))


def test_a_stop_ends_the_work_and_leaves_nothing(maker, film):
    seen = []

    def stop(share, note):
        seen.append(share)
        if share > 0:
            raise StoppedError

    with pytest.raises(StoppedError):
        maker.make(Request(film, steps=50), stop)
    assert len(seen) == 2, "after the first step"
    assert list(maker.place.files.iterdir()) == []
    maker.close()
    with pytest.raises(StoppedError):
        maker.make(Request(film))


def test_a_film_that_no_browser_shows_comes_back_as_one_that_each_does(maker, tmp_path):
    film = make_media(tmp_path / "old.avi", seconds=2, codec="mpeg4")
    result = maker.make(Request(film, steps=1))
    assert result.film.name == "old.mp4"
    with av.open(str(result.film)) as container:
        assert container.streams.video[0].codec_context.name == "h264"


def test_the_picture_shows_each_window_where_it_sounds(tmp_path):
    """Two windows, of ones and of minus ones: red until the second begins, blue from there on."""
    path = tmp_path / "picture.png"
    tokens = np.stack([np.ones((8, 96)), -np.ones((8, 96))])
    draw_sound(path, np.zeros(16 * 16000, np.float32), tokens, [0.0, 8.0], 10.0, 16.0)
    image = np.asarray(Image.open(path).convert("RGB")).astype(int)
    row = image[int(image.shape[0] * 0.8)]
    red = np.flatnonzero(row[:, 0] > row[:, 2] + 40)
    blue = np.flatnonzero(row[:, 2] > row[:, 0] + 40)
    assert red.max() < blue.min()
    assert len(red) == pytest.approx(len(blue), rel=0.05)


def test_examples_are_rendered_where_no_demo_was_made(tmp_path, maker):
    (path, label), *more = examples(tmp_path, 1, demo=tmp_path / "no demo")
    assert not more
    assert label in CLASSES
    assert Maker(maker.model, maker.place, Limits()).length_of(path) == pytest.approx(10, abs=0.1)
    shown = tmp_path / "demo" / path.stem / "clip.mp4"
    shown.parent.mkdir(parents=True)
    path.rename(shown)
    assert list(examples(tmp_path, 1, demo=tmp_path / "demo")) == [(shown, label)]
    assert not path.exists(), "the demo's own is taken"
