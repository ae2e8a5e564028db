"""A hostile user's campaign: kills, full disks and flipped bits in every command; afterwards all is as without them.

``python -m pytest -m slow tests/test_campaign.py -s`` runs all of it (30 kills a command); the default suite a few.
"""

import json
import os
import random
import shutil
import signal
import subprocess

import pytest

from pipeline.cache import convert, open_store
from pipeline.report import verify
from tests.killing import run_command
from tests.media_factory import make_media, tone
from tests.tiny import TINY

COMMANDS = ["extract", "train", "generate"]
EXTRACT = ("--preset", TINY, "--set", "cache.clips_per_shard=2", "--set", "cache.decode_workers=1")
TRAIN = ("--preset", TINY, "--set", "training.epochs=3", "--set", "training.global_batch=2", "--device", "cpu")
GENERATE = ("--preset", TINY, "--split", "all", "--set", "generation.steps=1", "--set", "generation.batch=1")


class Work:
    """One command with the folder that it fills."""

    def __init__(self, folder, command, result):
        self.folder, self.command, self.result = folder, command, result

    def run(self, **options):
        return run_command(*self.command, folder=self.folder, note=self.folder.with_name("note"), **options)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for number, split in enumerate(["train", "train", "train", "train", "validation", "test"]):
        sound = tone(1, frequency=300 + 100 * number)
        make_media(folder / split / f"clip{number}.mp4", seconds=1, fps=8, size=(32, 32), audio=sound)
    return folder


def extraction(videos, folder, kind="hdf5"):
    command = ("pipeline", "extract", "--manifest", videos, "--cache", folder, "--format", kind, *EXTRACT)
    return Work(folder, command, lambda: cache_content(folder, kind))


def training(cache, folder):
    return Work(folder, ("trainer", "--cache", cache, "--run", folder, *TRAIN), lambda: run_content(folder))


def generation(cache, run, folder):
    command = ("generate", "--cache", cache, "--run", run, "--out", folder, *GENERATE)
    return Work(folder, command, lambda: out_content(folder))


def cache_content(folder, kind="hdf5"):
    store = open_store(folder, kind)
    assert verify(store) == []
    return {(stage, k): store.read(stage, k).checksum for stage in store.stages() for k in store.shards(stage)}


def run_content(folder):
    """Weights and figures of a run: not the times and the library's logs."""
    weights = {
        str(path.relative_to(folder)): path.read_bytes()
        for name in ("mapper", "mapper-best")
        for path in sorted((folder / name).glob("*.safetensors"))
    }
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return weights, [{k: v for k, v in line.items() if "seconds" not in k} for line in lines]


def out_content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*.wav"))
        if "feature" not in str(path)
    }


class Clean:
    """Each command undisturbed, when first asked for: its work, how it ended, and the result."""

    def __init__(self, videos, root):
        self.videos, self.root = videos, root
        self._made = {}

    def work(self, name, root=None):
        """A command, with an empty folder below ``root`` for its results."""
        root = root or self.root
        if name == "extract":
            return extraction(self.videos, root / "cache")
        if name == "train":
            return training(self["extract"][0].folder, root / "run")
        return generation(self["extract"][0].folder, self["train"][0].folder, root / "out")

    def __getitem__(self, name):
        if name not in self._made:
            work = self.work(name)
            ended = work.run()
            assert ended.code == 0, ended.output
            assert ended.steps > 10
            self._made[name] = (work, ended, work.result())
        return self._made[name]


@pytest.fixture(scope="module")
def clean(videos, tmp_path_factory):
    return Clean(videos, tmp_path_factory.mktemp("clean"))


def assert_nothing_is_left(folder):
    """No temporary file, no claim."""
    left = [
        path for path in folder.rglob("*") if path.name.startswith(".") or path.suffix in (".tmp", ".claim", ".old")
    ]
    assert left == []


def lose_something(name, folder, dice):
    """So that the next run has work to do."""
    if name == "extract":
        found = sorted(folder.rglob("shard-*.h5"))
    elif name == "generate":
        found = sorted((folder / "wav").glob("*.wav"))
    else:
        found = [folder] if len(list((folder / "checkpoints").glob("epoch-*"))) > 1 else []
    for lost in dice.sample(found, -(-len(found) // 2)):
        shutil.rmtree(lost) if lost.is_dir() else lost.unlink()


@pytest.mark.parametrize(
    ("name", "kills"), [("extract", 3), *(pytest.param(name, 30, marks=pytest.mark.slow) for name in COMMANDS)]
)
def test_kills_at_random_times_and_at_marked_steps(name, kills, clean, tmp_path):
    dice = random.Random(f"{name} {kills}")
    _, ended, expected = clean[name]
    work = clean.work(name, tmp_path)
    killed = 0
    for number in range(kills):
        if number % 2:
            how = {"kill_after": dice.uniform(0, 0.7 * ended.seconds)}
        else:
            how = {"kill_at": dice.randint(1, ended.steps // 2), "after": dice.random() < 0.5}
        result = work.run(**how)
        assert result.code in (0, -signal.SIGKILL), (how, result.output)
        killed += result.code != 0
        if name == "extract":  # what has its final name is whole, at every moment
            assert verify(open_store(work.folder)) == [], how
        lose_something(name, work.folder, dice)
    print(f"{name}: {killed} of {kills} killed")
    assert killed
    last = work.run()
    assert last.code == 0, last.output
    assert work.result() == expected
    assert_nothing_is_left(work.folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda n: n.name)
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.slow
def test_signals_end_in_order(name, number, clean, tmp_path):
    dice = random.Random(number)
    work, seconds = clean.work(name, tmp_path), clean[name][1].seconds
    for _ in range(3):
        result = work.run(kill_after=dice.uniform(0.3, 0.8) * seconds, signal_number=number)
        # Too early for its handler, in order, or done before.
        assert result.code in (128 + number, 0, -number), result.output
        print(name, number.name, result.code)
        if result.code == 128 + number:
            assert "run the same command again" in result.output
            assert "Traceback" not in result.output
            assert_nothing_is_left(work.folder)
    assert work.run().code == 0
    assert work.result() == clean[name][2]


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.slow
def test_full_disks_of_several_sizes(name, clean, tmp_path):
    """A small file system for the results: one message, exit code 6, and on with more space."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    size = sum(path.stat().st_size for path in clean[name][0].folder.rglob("*") if path.is_file())
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(disk)], check=True)
    try:
        work = clean.work(name, disk)
        work_note = tmp_path / "note"
        for share in (0.05, 0.2, 0.4, 0.6, 0.8):
            kilobytes = max(4, int(share * size / 1024))
            subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(disk)], check=True)
            result = run_command(*work.command, folder=work.folder, note=work_note)
            if result.code == 0:  # block sizes are not known so exactly
                continue
            assert result.code == 6, (share, result.output)
            assert "the disk is full" in result.output or "space" in result.output
            assert "Traceback" not in result.output
            if name == "extract":
                assert verify(open_store(work.folder)) == []
        subprocess.run(["mount", "-o", f"remount,size={size // 256 + 100_000}k", str(disk)], check=True)
        result = run_command(*work.command, folder=work.folder, note=work_note)
        assert result.code == 0, result.output
        assert work.result() == clean[name][2]
        assert_nothing_is_left(work.folder)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.slow
def test_read_only_folders(name, clean, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("mounting a read-only file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(disk)], check=True)
    try:
        work = clean.work(name, disk)
        result = run_command(*work.command, folder=work.folder, note=tmp_path / "note")
        assert result.code == 6, result.output
        assert "read-only" in result.output
        assert "Traceback" not in result.output
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def flip(path, dice):
    data = bytearray(path.read_bytes())
    place = dice.randrange(len(data))
    data[place] ^= 1 << dice.randrange(8)
    path.write_bytes(data)
    return place


@pytest.mark.parametrize("kind", ["hdf5", "webdataset"])
@pytest.mark.slow
def test_flips_in_shards(kind, clean, tmp_path):
    """Found by ``verify``, or in a byte that carries nothing: then what is read is right."""
    dice = random.Random(kind)
    source = clean["extract"][0].folder
    store = open_store(tmp_path / "cache", kind)
    convert(open_store(source), store)
    expected = cache_content(store.root, kind)
    found = 0
    for _ in range(200):
        path = dice.choice(sorted((tmp_path / "cache").rglob(f"shard-*{store.format.suffix}")))
        whole = path.read_bytes()
        flip(path, dice)
        problems = verify(store)
        if problems:
            assert path.name in problems[0]
            found += 1
        else:
            assert cache_content(store.root, kind) == expected
        path.write_bytes(whole)
    print(f"{kind}: {found} of 200 flips are in bytes that count, all found")
    assert found > 20


@pytest.mark.parametrize("what", ["mapper", "checkpoint"])
@pytest.mark.slow
def test_flips_in_what_was_trained(what, clean, tmp_path):
    """A flipped bit is an error with an exit code, or changes nothing; it is never silently used."""
    dice = random.Random(what)
    cache, trained = clean["extract"][0].folder, clean["train"][0].folder
    expected = clean["generate"][2] if what == "mapper" else None
    used = 0
    for number in range(12):
        run = tmp_path / f"run{number}"
        shutil.copytree(trained, run)
        if what == "mapper":
            files = [path for path in sorted((run / "mapper").rglob("*")) if path.suffix in (".safetensors", ".json")]
            work = generation(cache, run, tmp_path / f"out{number}")
        else:
            newest = sorted((run / "checkpoints").glob("epoch-*"))[-1]
            files = [path for path in sorted(newest.rglob("*")) if path.is_file()]
            work = training(cache, run)
            work.command = (*work.command, "--set", "training.epochs=4")
        path = dice.choice(files)
        place = flip(path, dice)
        result = work.run()
        assert "Traceback" not in result.output, (path, place, result.output)
        if what == "mapper" and result.code == 0:
            assert work.result() == expected, (path, place)
            used += 1
        elif result.code == 0:
            pytest.fail(f"byte {place} of {path} is flipped, and training went on")
        else:
            assert result.code in (3, 4, 5, 6), (path, place, result.output)
    print(f"{what}: {used} of 12 flips changed nothing, the others were refused")


@pytest.mark.slow
def test_the_reference_is_what_it_should_be(clean):
    """The comparisons above would hold for empty results, too."""
    shards = clean["extract"][2]
    assert {stage for stage, _ in shards} == {"cavp", "timechat", "audiomae", "flan_t5"}
    assert len(shards) == 10
    weights, metrics = clean["train"][2]
    assert any(name.startswith("mapper/") for name in weights)
    assert len(metrics) == 3
    assert sum(name.startswith("wav/") for name in clean["generate"][2]) == 6
