import tempfile

import pytest

from app.making import Limits, Maker
from app.place import Place
from generate.video_to_audio import VideoToAudio
from tests.media_factory import make_media


@pytest.fixture(scope="session")
def model():
    """The shipped models, as on a fresh machine."""
    return VideoToAudio.from_pretrained()


@pytest.fixture
def maker(model, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Place() as place:
        yield Maker(model, place, Limits(megabytes=1, seconds=15))


@pytest.fixture(scope="session")
def film(tmp_path_factory):
    return make_media(tmp_path_factory.mktemp("film") / "my film.mp4", seconds=3)
