"""Files written whole: full disks, read-only folders, long names, writers that died."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from common import workers, writing
from common.console import command
from common.errors import ClipError, MFMError, WriteError
from common.writing import (
    ABANDONED_SECONDS,
    file_system_time,
    is_hidden,
    is_temporary,
    remove_leftovers,
    replacing,
    temporary_beside,
    visible_files,
    write_bytes,
    write_text,
)
from manifests.manifest import Clip, make_manifest, write_manifest
from pipeline.media.writing import write_video, write_wav


def everything_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def big_wav(path):
    write_wav(path, np.zeros(100_000, np.float32), 16_000)


def big_video(path):
    noise = np.random.default_rng(0).integers(0, 255, (12, 64, 64, 3), np.uint8)
    write_video(path, noise, 4, np.random.default_rng(1).normal(0, 0.3, 160_000).astype(np.float32))


def big_safetensors(path):
    import torch

    with replacing(path) as temporary:
        save_file({"a": torch.zeros(100_000)}, temporary)


def big_manifest(path):
    reason = "".join(map(chr, np.random.default_rng(0).integers(33, 900, 80_000)))
    write_manifest(make_manifest([Clip("a", "a", 0, "l", "train", "p", reason=reason)], 4), path)


@pytest.mark.parametrize("write", [big_wav, big_video, big_safetensors, big_manifest])
def test_a_full_disk_is_one_error_and_leaves_what_was_there(small_disk, write):
    write_bytes(small_disk / "out.mp4", b"before")
    with pytest.raises(WriteError, match=r"cannot write .*out\.mp4: the disk is full.*free some space") as caught:
        write(small_disk / "out.mp4")
    assert caught.value.exit_code == 6
    assert everything_in(small_disk) == ["out.mp4"]
    assert (small_disk / "out.mp4").read_bytes() == b"before"


def test_a_full_disk_blames_nothing_else(small_disk):
    (small_disk / "ballast").write_bytes(b"0" * 60_000)
    with pytest.raises(ClipError, match="no picture"), replacing(small_disk / "a.mp4"):
        raise ClipError("no_video", "no picture")
    with pytest.raises(KeyError), replacing(small_disk / "a.mp4"):
        raise KeyError("a defect of ours")
    assert everything_in(small_disk) == ["ballast"]


def test_read_only_file_system(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for path in (small_disk / "a.txt", small_disk / "new" / "a.txt"):
        with pytest.raises(WriteError, match="read-only"):
            write_text(path, "x")


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EACCES, errno.EPERM])
def test_quota_and_permissions(tmp_path, monkeypatch, number):
    """root may write everywhere: the kernel's answer is put in."""

    def refuse(*arguments, **options):
        raise OSError(number, os.strerror(number), str(arguments[0]))

    monkeypatch.setattr(writing.os, "fsync", refuse)
    with pytest.raises(WriteError, match=r"cannot write .*a\.txt"):
        write_text(tmp_path / "a.txt", "x")
    assert everything_in(tmp_path) == []


def test_paths_through_files_and_onto_folders(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(WriteError, match="is a file, not a folder"):
        write_text(tmp_path / "file" / "a.txt", "x")
    with pytest.raises(WriteError, match="is a file, not a folder"):
        write_text(tmp_path / "file" / "deeper" / "a.txt", "x")
    with pytest.raises(WriteError, match="there is a folder of this name"):
        write_text(tmp_path / "folder", "x")
    with pytest.raises(WriteError, match="longer than the file system allows"):
        write_text(tmp_path / ("n" * 256), "x")
    assert everything_in(tmp_path) == ["file"]


def test_a_file_that_was_read_meanwhile_is_not_blamed_on_the_target(tmp_path):
    with pytest.raises(IsADirectoryError), replacing(tmp_path / "a.txt"):
        tmp_path.joinpath(".").read_text()
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text((tmp_path / "missing").read_text())


@pytest.mark.parametrize("length", [249, 252, 255])
@pytest.mark.parametrize("letter", ["x", "ü"])
def test_the_longest_names(tmp_path, length, letter):
    name = letter * ((length - 4) // len(letter.encode()))
    write_wav(tmp_path / f"{name}.wav", np.zeros(10, np.float32), 16_000)
    write_text(tmp_path / f"a.{name}", "the suffix is the name")
    assert len(everything_in(tmp_path)) == 2


def test_writers_of_one_file_do_not_meet(tmp_path):
    """More threads than ids: the last whole one wins, and no reader ever sees another length."""
    path = tmp_path / "a"
    write_bytes(path, b"0" * 1000)

    def write(number):
        for _ in range(20):
            write_bytes(path, bytes([number]) * 1000)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        data = path.read_bytes()
        assert len(data) == 1000
        assert len(set(data)) == 1
    assert everything_in(tmp_path) == ["a"]


SCRIPT = """
import sys, time
from common.writing import replacing
with replacing(sys.argv[1]) as temporary:
    temporary.write_bytes(b"half")
    print("there", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_writer_leaves_goes_with_the_next_run(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "song.wav")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "there\n"
    (left,) = tmp_path.iterdir()
    assert is_hidden(left)
    assert is_temporary(left)
    assert left.suffix == ".wav"
    assert visible_files(tmp_path, "*.wav") == []
    assert remove_leftovers(tmp_path) == []  # its writer lives
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with replacing(tmp_path / "mine.wav") as mine:  # one that is being written stays
        mine.write_bytes(b"")
        assert remove_leftovers(tmp_path, tmp_path / "no such folder") == [left]
    assert everything_in(tmp_path) == ["mine.wav"]


def test_an_interrupted_command_leaves_nothing_even_if_its_clearing_up_was_interrupted(tmp_path):
    folder = tmp_path / "checkpoint"

    @command
    def work():
        temporary_beside(folder).mkdir()  # as a folder that is renamed when it is whole
        (next(tmp_path.iterdir()) / "weights").write_text("half")
        temporary_beside(tmp_path / "a.wav").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit):
        work()
    assert list(tmp_path.iterdir()) == []
    assert not writing._own


def test_of_other_containers_and_older_versions_only_the_abandoned_goes(tmp_path):
    """The same host name and process id in another container are another process."""
    mine = temporary_beside(tmp_path / "a.wav").name
    other = mine.replace(workers._place(), "0123456789ab")
    names = [other, ".clip.123.tmp.wav", ".shard-00000.h5.host.123.89abcdef.tmp", ".manifest.parquet.12.tmp"]
    keep = [".hidden.wav", ".env", "clip.123.tmp.wav", "a.tmp", ".123.tmp"]
    for name in [*names, *keep]:
        (tmp_path / name).write_text("x")
    folder = tmp_path / other.replace(".tmp.wav", ".tmp")
    folder.mkdir()
    (folder / "inside").write_text("x")
    assert remove_leftovers(tmp_path) == []
    past = file_system_time(tmp_path) - ABANDONED_SECONDS - 5
    for path in [*tmp_path.iterdir(), folder / "inside"]:
        os.utime(path, (past, past))
    assert {path.name for path in remove_leftovers(tmp_path)} == {*names, folder.name}
    assert everything_in(tmp_path) == sorted(keep)


def test_a_reused_process_id_is_another_process(tmp_path):
    me = workers.this_worker()
    assert me.alive() is True
    assert workers.Worker(me.host, me.place, me.pid, "1").alive() is False
    assert workers.Worker(me.host, me.place, 2**22 + 5, me.started).alive() is False
    assert workers.Worker(me.host, me.place, 2**90, me.started).alive() is False
    assert workers.Worker(me.host, "elsewhere", me.pid, me.started).alive() is None


def test_hidden_files_and_folders_are_no_inputs(tmp_path):
    for name in ("a.wav", ".b.wav", "sub/c.wav", ".hidden/d.wav", "sub/.e.tmp.wav", "notes.txt"):
        (tmp_path / ".root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / ".root" / name).write_text("x")
    root = tmp_path / ".root"  # where the folder itself lies does not matter
    assert visible_files(root, "*.wav") == [root / "a.wav"]
    assert visible_files(root, "**/*.wav") == [root / "a.wav", root / "sub" / "c.wav"]
    assert visible_files(tmp_path / "none") == []


def test_the_clock_is_the_file_systems(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 0.0)  # this host's clock is far off
    (tmp_path / "a").write_text("x")
    assert abs(file_system_time(tmp_path) - (tmp_path / "a").stat().st_mtime) < 5
    assert file_system_time(tmp_path / "none") == 0.0
    assert everything_in(tmp_path) == ["a"]


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=80))
def test_any_name_is_written_or_refused_by_type(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("any")
    try:
        write_bytes(folder / name, b"data")
    except MFMError:
        assert name in (".", "..") or len(os.fsencode(name)) > 255
        return
    assert (folder / name).read_bytes() == b"data"
    assert len(list(folder.iterdir())) == 1
