"""The sound of a folder of videos: as of each alone, whatever shares its batch, and whatever fails beside it."""

import numpy as np

from generate.sampling import Sampler
from pipeline.media.writing import read_wav
from tests.generate.folder.made import SMALL, files, lines
from tests.media_factory import make_media


def test_the_same_sound_as_one_by_one(generate, videos, tmp_path):
    """Windows of several films share batches; a film of more windows than a batch is made by itself."""
    folder = videos("short.mp4", "rain/other.mp4")
    for name, seconds in (("film.mp4", 15), ("long.mp4", 25)):
        make_media(folder / name, seconds=seconds, fps=4, audio=None, values=[9 * n % 256 for n in range(4 * seconds)])
    options = (*SMALL, "--set", "generation.batch=2", "--seed", 3)
    text = generate(folder, "-o", tmp_path / "out", "--suffix", "wav", *options)
    assert "4 made" in text
    for name, label in (("short", ""), ("rain/other", "rain"), ("film", ""), ("long", "")):
        generate(folder / f"{name}.mp4", "-o", tmp_path / "one.wav", "--label", label, *options)
        one, rate = read_wav(tmp_path / "one.wav")
        many, _ = read_wav(tmp_path / "out" / f"{name}.wav")
        assert len(one) == len(many) >= rate
        assert np.abs(one).max() > 0.003
        np.testing.assert_allclose(many, one, rtol=0, atol=2 / 32768)


def test_candidates(generate, videos, tmp_path):
    folder = videos("a.mp4")
    options = (*SMALL, "--candidates", 2, "--seed", 5)
    generate(folder, "-o", tmp_path / "out", "--suffix", "wav", *options)
    text = generate(folder / "a.mp4", "-o", tmp_path / "one.wav", *options)
    (line,) = lines(tmp_path / "out")
    assert f"seed {line['seed']}, token cosine {line['score']:.3f}" in text
    one, many = (read_wav(path)[0] for path in (tmp_path / "one.wav", tmp_path / "out" / "a.wav"))
    np.testing.assert_allclose(many, one, rtol=0, atol=2 / 32768)


def test_a_batch_has_windows_of_several_videos(generate, videos, sampled, tmp_path):
    generate(videos("a.mp4", "b.mp4", "c.mp4"), "-o", tmp_path / "out", *SMALL, "--set", "generation.batch=2")
    assert [size for _, _, size in sampled] == [2, 1]


def test_a_sound_that_is_not_finite_fails_alone(generate, videos, tmp_path, monkeypatch):
    def synthesise(self, tokens, labels, noise, seeds, on_step=lambda: None):
        waves = np.full((len(tokens), self.preset.media.samples), 0.1, np.float32)
        waves[0] = np.nan
        return waves

    monkeypatch.setattr(Sampler, "synthesise", synthesise)
    text = generate(videos("a.mp4", "b.mp4"), "-o", tmp_path / "out", *SMALL, code=8)
    assert "failed      a.mp4: the sampler gave NaN or Inf" in text
    assert files(tmp_path / "out") == {"b.mp4"}


def test_a_batch_that_fails_is_tried_one_by_one(generate, videos, tmp_path, monkeypatch):
    def synthesise(self, tokens, labels, noise, seeds, on_step=lambda: None):
        if "bad" in labels:
            raise RuntimeError("a defect")
        return np.full((len(tokens), self.preset.media.samples), 0.1, np.float32)

    monkeypatch.setattr(Sampler, "synthesise", synthesise)
    text = generate(videos("bad/a.mp4", "good/b.mp4"), "-o", tmp_path / "out", *SMALL, code=8)
    assert "RuntimeError: a defect" in text
    assert files(tmp_path / "out") == {"good/b.mp4"}
