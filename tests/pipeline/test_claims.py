"""Claims: read whatever they hold, never block for ever, released however a command ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from common.console import command
from common.errors import WriteError
from common.writing import file_system_time
from manifests.builders import clips_from_folder
from manifests.manifest import make_manifest
from pipeline.cache import claims as module
from pipeline.cache import open_store
from pipeline.cache.claims import EXPIRY, Claim, Claims
from pipeline.extract import Extractor
from presets import load_preset
from tests.media_factory import make_media
from tests.tiny import TINY

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
claim_like = st.fixed_dictionaries(
    {"host": json_values, "pid": json_values},
    optional={"place": json_values, "started": json_values, "owner": json_values},
)


@pytest.fixture
def claims(tmp_path):
    return Claims(open_store(tmp_path).files)


def put(claims, data, age=0.0):
    path = claims.files.path(claims.name("cavp", 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    then = file_system_time(path.parent) - age
    os.utime(path, (then, then))
    return path


@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_whatever_is_no_claim_is_nobodys(data):
    assert Claim.parse(data, 0.0) == Claim(None, "", 0.0)


@given(claim_like)
def test_claims_of_any_types_are_read(values):
    claim = Claim.parse(json.dumps(values).encode(), 0.0)
    assert isinstance(claim.alive, bool)
    if claim.worker is not None:
        assert isinstance(values["host"], str)
        assert isinstance(values["pid"], int)


@pytest.mark.parametrize(
    "data",
    [
        b"", b'{"host": "a", "pi', b"[]", b"null", b'{"host": "h", "pid": "12"}', b'{"host": "h"}', b"\xff\x00",
        b"[" * 9000,
    ],
)  # fmt: skip
def test_an_unreadable_claim_is_dead(claims, data):
    """A disk that was full between create and write, or a kill there, must not block the shard for ever."""
    path = put(claims, data)
    assert not claims.find("cavp", 0).alive
    assert claims.take("cavp", 0)
    assert claims.find("cavp", 0).alive
    claims.release("cavp", 0)
    assert list(path.parent.iterdir()) == []


def test_a_claim_that_is_a_folder_does_not_end_the_job(claims):
    claims.files.path(claims.name("cavp", 0)).mkdir(parents=True)
    assert not claims.find("cavp", 0).alive
    assert claims.take("cavp", 0)


def test_who_has_a_claim(claims, tmp_path):
    other = Claims(claims.files)
    assert claims.take("cavp", 0)
    assert not other.take("cavp", 0)
    other.release("cavp", 0)  # not its own
    assert claims.find("cavp", 0).alive
    sister = Claims(claims.files, claims.owner)  # another worker of the same job
    assert sister.take("cavp", 0)
    sister.release_all()
    assert other.take("cavp", 0)
    assert not other._closed
    other.release_all()
    assert not other.take("cavp", 0)
    other.open()
    assert other.take("cavp", 0)


def test_dead_workers_and_expired_claims(claims):
    sleeper = subprocess.Popen(["sleep", "60"])
    mine = {"host": socket.gethostname(), "pid": sleeper.pid}
    put(claims, mine)  # as older versions wrote it
    assert claims.find("cavp", 0).alive
    put(claims, mine, age=EXPIRY + 5)
    assert not claims.find("cavp", 0).alive
    sleeper.kill()
    sleeper.wait()
    put(claims, mine)
    assert not claims.find("cavp", 0).alive
    # A container of the same host name counts its processes from 1 as well.
    put(claims, {"host": socket.gethostname(), "place": "another", "pid": 1, "started": "5"})
    assert claims.find("cavp", 0).alive
    put(claims, {"host": socket.gethostname(), "place": "another", "pid": 1, "started": "5"}, age=EXPIRY + 5)
    assert not claims.find("cavp", 0).alive


def test_age_is_by_the_clock_of_the_file_system(claims, monkeypatch):
    put(claims, {"host": "elsewhere", "pid": 1})
    for wrong in (0.0, 4e9):  # this host's clock is years off
        monkeypatch.setattr(time, "time", lambda wrong=wrong: wrong)
        assert claims.find("cavp", 0).alive
        assert not Claims(claims.files).take("cavp", 0)


def test_of_many_who_find_a_dead_claim_one_gets_it(claims):
    for _ in range(10):
        put(claims, b"")
        barrier, taken = threading.Barrier(6), []

        def take(barrier=barrier, taken=taken):
            mine = Claims(claims.files)
            barrier.wait()
            if mine.take("cavp", 0):
                taken.append(mine.owner)

        threads = [threading.Thread(target=take) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = claims.find("cavp", 0)
        assert found.owner in taken
        assert len(taken) <= 2  # a courtesy, not a lock: a second one does the same work once more


def test_file_systems_without_hard_links(claims, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(module.os, "link", refuse)
    assert claims.take("cavp", 0)
    assert claims.find("cavp", 0).alive
    assert not Claims(claims.files).take("cavp", 0)


def test_where_claims_cannot_be_written(tmp_path):
    (tmp_path / "cavp").write_text("a file")
    with pytest.raises(WriteError, match="is a file, not a folder"):
        Claims(open_store(tmp_path).files).take("cavp", 0)


# --- however a command ends ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)], ids=str
)
def test_signals_of_a_scheduler_end_like_ctrl_c(tmp_path, capsys, number, code):
    """A real extraction, told to stop while it holds claims."""
    for name in "abcdef":
        make_media(tmp_path / "v" / f"{name}.mp4", seconds=2, size=(32, 32))
    manifest = make_manifest(clips_from_folder(tmp_path / "v"), 3)
    store = open_store(tmp_path / "cache")
    seen = []

    def on_clip(done):
        seen.extend(path.name for path in tmp_path.rglob("*.claim"))
        if done:
            os.kill(os.getpid(), number)

    @command
    def extract():
        preset = load_preset(TINY, ["cache.encode_batch=1", "cache.decode_workers=1"])
        with Extractor(manifest, store, preset, ["cavp"], on_clip=on_clip) as extractor:
            extractor.run([0, 1])

    before = signal.getsignal(number)
    with pytest.raises(typer.Exit) as caught:
        extract()
    assert caught.value.exit_code == code
    assert "run the same command again" in capsys.readouterr().err
    assert "shard-00000.claim" in seen
    assert [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()] == ["manifest.parquet"]
    assert signal.getsignal(number) is before


def test_an_ignored_signal_stays_ignored():
    """``nohup make extract`` goes on when its terminal is closed."""
    code = """
import os
from common.console import command

@command
def run():
    os.kill(os.getpid(), 1)

run()
print("went on")
"""
    result = subprocess.run(["nohup", sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "went on\n", result.stderr
