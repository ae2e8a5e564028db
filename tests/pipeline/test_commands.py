"""What the commands say, and with which exit code, where names, lists and settings are not what they should be."""

import hashlib
import importlib
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from manifests.manifest import read_manifest
from pipeline.__main__ import app
from pipeline.cache import open_store
from tests.media_factory import make_media
from tests.tiny import TINY


def invoke(*arguments, app=app):
    """Exit code, stdout and stderr of a command; anything but a typed error is raised here."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def messy(tmp_path_factory):
    """A folder of videos as bad as they get, each of which ended the job once."""
    folder = tmp_path_factory.mktemp("messy [official]") / "videos"
    made = make_media(folder / "Clip [official].mp4", seconds=1, fps=8, size=(64, 64))
    names = ["a[/x].mp4", "cash $x_{$/a.mp4", "same.mp4", "same.mkv", "x" * 251 + ".mp4", "two\nlines.mp4", "._a.mp4"]
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        os.link(made, folder / name)
    os.link(made, os.fsencode(folder) + b"/caf\xe9.mp4")
    (folder / "cash $x_{$" / "up").symlink_to("..")
    (folder / "far.mp4").symlink_to("y" * 300)
    (folder / "broken[/b].mp4").parent.mkdir()
    (folder / "broken[/b].mp4").write_bytes(b"no video")
    return folder


def test_extraction_goes_on_whatever_files_are_called(messy, tmp_path):
    code, out, err = invoke(
        "extract", "--manifest", messy, "--cache", tmp_path / "cache", "--preset", TINY, "--stage", "cavp",
        "--set", "cache.decode_workers=1",
    )  # fmt: skip
    assert (code, "error" in err) == (0, False)
    for said in ("caf\\udce9.mp4: its name is not UTF-8", "far.mp4: File name too long", "/up: it is a link back to"):
        assert said in out
    features = open_store(tmp_path / "cache", "hdf5").read("cavp", 0)
    lines = hashlib.sha256(b"two\nlines").hexdigest()[:8]
    expected = ["Clip [official]", "x]", "a", "same", "same__mkv", "x" * 251, f"two_lines__{lines}"]
    assert sorted(features.clip_ids) == sorted(expected)
    (left_out,) = features.left_out
    assert (left_out.clip_id, left_out.kind) == ("b]", "unreadable")
    assert "broken[/b].mp4" in left_out.message
    assert "cash $x {$" in features.labels


def test_manifest_shows_names_as_they_are(messy, tmp_path):
    code, out, _ = invoke("manifest", "--videos", messy, "--out", tmp_path / "[/m].parquet")
    assert code == 0
    assert "ok 7, unreadable 1" in out
    assert "[/m].parquet" in "".join(out.split())  # a table may break lines
    assert len(read_manifest(tmp_path / "[/m].parquet").clips) == 8


def test_a_list_with_faults_it_can_live_with(tmp_path):
    rows = "aaaaaaaaaaa,1,f\u00eate,train\nbbbbbbbbbbb,2,y,test\naaaaaaaaaaa,1,z,train\n"
    (tmp_path / "list.csv").write_bytes(rows.encode("latin-1"))
    code, out, _ = invoke("manifest", "--vggsound", tmp_path / "list.csv", "--out", tmp_path / "m.parquet")
    assert code == 0
    assert "list.csv is not UTF-8: it was read as Windows-1252" in out
    assert "1 row: aaaaaaaaaaa_000001 (with another label or split)" in out
    assert [clip.label for clip in read_manifest(tmp_path / "m.parquet").clips] == ["f\u00eate", "y"]


def test_inputs_that_end_with_exit_code_4(tmp_path):
    (tmp_path / "list.csv").write_text("aaaaaaaaaaa,inf,x,train\n")
    code, _, err = invoke("manifest", "--vggsound", tmp_path / "list.csv", "--out", tmp_path / "m.parquet")
    assert (code, err) == (
        4,
        f"error: {tmp_path}/list.csv:1: start 'inf' is not a number of seconds from 0 to 999999\n",
    )
    (tmp_path / "list.csv").write_text("aaaaaaaaaaa,1,x,train\n")
    arguments = ("manifest", "--vggsound", tmp_path / "list.csv", "--out", tmp_path / "m.parquet")
    assert invoke(*arguments, "--clips-per-shard", 0)[::2] == (4, "error: clips per shard must be at least 1, not 0\n")
    assert invoke(*arguments)[0] == 0
    table = pq.read_table(tmp_path / "m.parquet")
    pq.write_table(table.set_column(0, "clip_id", pa.array(["../../b"])), tmp_path / "m.parquet")
    for command in (("extract", "--preset", TINY, "--cache", tmp_path / "cache"), ("status", tmp_path / "cache")):
        code, _, err = invoke(*command, "--manifest", tmp_path / "m.parquet")
        assert code == 4
        assert "row 1: '../../b': it has a '/', which would lead to another folder" in err
    assert not (tmp_path / "cache").exists()


COMMANDS = {
    "pipeline": ["extract", "--manifest", "none", "--cache", "none"],
    "trainer": ["--cache", "none", "--run", "none"],
    "generate": ["none.mp4"],
    "evaluation": ["--out", "none"],
}


@pytest.mark.parametrize("package", COMMANDS)
def test_wrong_settings_end_every_command_with_exit_code_3(package, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = importlib.import_module(f"{package}.__main__").app
    for setting, said in (
        ("generation.steps=[1", "error: --set generation.steps: '[1' is not YAML"),
        ("generation.steps=-5", "error: preset micro with --set: generation.steps is -5, and must be"),
        ("training.log_every=0", "training.log_every is 0, and must be a whole number from 1 to"),
        ("mapper.kind=[/x]", "mapper.kind is '[/x]', and must be one of gpt2, diffusion"),
    ):
        code, _, err = invoke(*COMMANDS[package], "--preset", "micro", "--set", setting, app=command)
        assert code == 3
        assert said in err
        assert len(err.splitlines()) == 1
    code, _, err = invoke(*COMMANDS[package], "--preset", "macro", app=command)
    assert (code, "unknown preset macro: there are micro, paper" in err) == (3, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--vggsound", "--videos"])
def test_a_manifest_never_takes_the_place_of_an_input(tmp_path, monkeypatch, option):
    video = make_media(tmp_path / "videos" / "a.mp4", seconds=1, fps=8, size=(64, 64))
    listed = tmp_path / "list.csv"
    listed.write_text("aaaaaaaaaaa,1,dog,train\n")
    given, target = (listed, listed) if option == "--vggsound" else (tmp_path / "videos", video)
    (tmp_path / "link").symlink_to(target)
    before = target.read_bytes()
    monkeypatch.setattr("pipeline.probing.probe_clips", lambda clips: pytest.fail("work before a known error"))
    for out in (target, tmp_path / "link"):
        code, _, err = invoke("manifest", option, given, "--out", out)
        assert (code, "never written over" in err) == (6, True)
    assert target.read_bytes() == before


@pytest.mark.parametrize("names", [("", "cache"), ("videos", "")])
def test_a_place_without_a_name_is_not_this_folder(tmp_path, monkeypatch, names):
    """``make extract CACHE=$UNSET`` wrote stages into the working directory."""
    make_media(tmp_path / "videos" / "a.mp4", seconds=1, fps=8, size=(64, 64))
    monkeypatch.chdir(tmp_path)
    code, _, err = invoke("extract", "--manifest", names[0], "--cache", names[1], "--preset", TINY)
    assert (code, "has no name" in err) == (4, True)
    assert os.listdir(tmp_path) == ["videos"]
