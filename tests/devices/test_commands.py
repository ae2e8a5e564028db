"""``--device`` means the same in every command, and what is not there is an error before any work is done."""

import pytest
import torch
from accelerate.state import AcceleratorState
from typer.testing import CliRunner

import evaluation.__main__
import generate.__main__
import pipeline.__main__
import trainer.__main__
from pipeline.media.writing import write_wav
from tests.media_factory import make_media, tone
from tests.tiny import TINY
from tests.trainer.caches import write_cache

NOT_THERE = {
    "cuda": "no CUDA device",
    "cuda:7": "no CUDA device",
    "mps": "no MPS device",
    "graphics card": "unknown device 'graphics card'",
}


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """Each would run, were the device there."""
    folder = tmp_path_factory.mktemp("commands")
    video = make_media(folder / "clips" / "train" / "tone" / "clip.mp4", seconds=2)
    write_cache(folder / "cache", clips=6)
    for side in ("out/wav_8s", "out/truth"):
        write_wav(folder / side / "clip.wav", tone(8.2), 16_000)
    return {
        "extract": (pipeline.__main__.app, "extract", "--manifest", folder / "clips", "--cache", folder / "new"),
        "train": (trainer.__main__.app, "--cache", folder / "cache", "--run", folder / "run"),
        "generate": (generate.__main__.app, video, "--run", folder / "run", "-o", folder / "out.mp4"),
        "evaluate": (evaluation.__main__.app, "--out", folder / "out", "--networks", "onsets"),
    }


@pytest.mark.parametrize("command", ["extract", "train", "generate", "evaluate"])
@pytest.mark.parametrize("device", list(NOT_THERE))
def test_a_device_that_is_not_there_is_an_error(commands, command, device, monkeypatch):
    for kind in ("cuda", "mps"):  # whatever this machine has
        monkeypatch.setattr(torch.get_device_module(kind), "is_available", lambda: False)
    AcceleratorState._reset_state(reset_partial_state=True)
    app, *words = commands[command]
    result = CliRunner().invoke(app, [*map(str, words), "--preset", TINY, "--device", device])
    assert result.exit_code == 4, result.output
    assert NOT_THERE[device] in " ".join(result.output.split())


def test_an_unknown_precision_is_an_error(commands):
    app, *words = commands["extract"]
    result = CliRunner().invoke(app, [*map(str, words), "--preset", TINY, "--precision", "int8"])
    assert result.exit_code == 4
    assert "unknown precision" in result.output
