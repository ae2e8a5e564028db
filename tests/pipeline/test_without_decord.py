"""Where decord is not installed, which has no wheels for ARM and for macOS, PyAV decodes alone."""

import importlib.metadata
import sys

import pytest

from common.errors import ClipError, PresetError
from pipeline.decoding import DecodePool, Job
from pipeline.media import decode_clip, second_backend
from pipeline.stages import fingerprint
from presets import load_preset
from presets.config import MediaConfig
from tests.media_factory import make_media
from tests.pipeline.test_decoding import misbehaving
from tests.tiny import TINY


@pytest.fixture(autouse=True)
def no_decord(monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name == "decord":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setitem(sys.modules, "decord", None)
    monkeypatch.setattr(importlib.metadata, "version", version)


def test_pyav_decodes_for_either_resize(tmp_path):
    path = make_media(tmp_path / "a.mp4", seconds=1)
    for resize in ("antialiased", "swscale"):
        assert decode_clip(path, MediaConfig(resize=resize)).frames[:4].any()


def test_asking_for_decord_is_an_error_of_the_preset_not_of_the_clips(tmp_path):
    path, config = make_media(tmp_path / "a.mp4", seconds=1), MediaConfig(backend="decord")
    with pytest.raises(PresetError, match=r"media\.backend=decord needs the package decord"):
        decode_clip(path, config)
    with DecodePool(config, 1, timeout_seconds=5.0) as pool, pytest.raises(PresetError):
        list(pool.decode([Job(str(path))]))
    assert not pool.workers


def test_a_file_that_kills_its_decoder_is_given_up_after_one_try(tmp_path):
    assert second_backend(MediaConfig()) is None
    jobs = [Job(str(make_media(tmp_path / f"{name}.mp4", seconds=1))) for name in ("dies", "a")]
    with DecodePool(MediaConfig(), 1, timeout_seconds=60.0, decoder=misbehaving) as pool:
        dead, whole = pool.decode(jobs)
    assert isinstance(dead, ClipError)
    assert dead.kind == "crashed"
    assert whole.frames[:4].any()


def test_shards_are_those_of_a_machine_with_decord():
    made = fingerprint("cavp", load_preset(TINY), "w", "r", "m", "no")
    assert made["media"]["backend"] == "decord"  # its pictures, whoever made them
    assert "decord" not in made["made_by"]
    assert {"torch", "av"} <= set(made["made_by"])
