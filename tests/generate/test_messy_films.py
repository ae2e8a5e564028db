"""``python -m generate VIDEO`` on files that once hung it, had no length, or lost their picture on the way."""

from pipeline.media.writing import read_wav
from tests.zoo import ZOO, make_numbered


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
