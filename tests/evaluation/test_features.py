"""Features belong to the files that they came from, and survive a kill at any moment."""

import os
import shutil

import numpy as np
import pytest
import torch

from common.errors import CacheError
from evaluation import caches, reading
from evaluation import extract as extraction
from evaluation.caches import FeatureFiles, maker, read_cache, write_cache
from evaluation.extract import extract
from evaluation.files import find_files, reference_features
from evaluation.networks.base import FeatureNetwork
from evaluation.reading import Reading
from evaluation.sounds import SoundInput
from tests.evaluation.official import write_float_wav


class Level(FeatureNetwork):
    """The first sample of a sound, in two feature files; counts what it is given."""

    name = "level"
    files = ()
    caches = ("level.pth", "double.pth")
    batch = (2, 2)

    def __init__(self):
        super().__init__()
        self.heard = 0

    def load(self, paths):
        """Nothing."""

    def encode(self, waveforms):
        self.heard += len(waveforms)
        return {"level.pth": {"": waveforms[:, :1]}, "double.pth": {"twice": 2 * waveforms[:, :1]}}


def write_levels(folder, levels):
    for clip_id, level in levels.items():
        write_float_wav(folder / f"{clip_id}.wav", np.full(128_000, level), 16_000)


def made(folder, features, network=None, **options):
    """Clip -> level of the features that are there after an extraction, and how many clips it computed."""
    network = network or Level()
    failed = extract(network, find_files(folder), features, **options)
    levels = {c: round(float(value), 3) for c, value in read_cache(features / "level.pth").items()}
    doubles = {c: round(float(entry["twice"]) / 2, 3) for c, entry in read_cache(features / "double.pth").items()}
    assert levels == doubles
    return levels, network.heard, failed


@pytest.fixture
def folder(tmp_path):
    write_levels(tmp_path / "sound", {"a": 0.1, "b": 0.2, "c": 0.3})
    return tmp_path / "sound"


def test_what_is_there_is_kept_and_a_rewritten_wav_is_computed_again(folder, tmp_path):
    assert made(folder, tmp_path / "f") == ({"a": 0.1, "b": 0.2, "c": 0.3}, 3, {})
    before = (tmp_path / "f" / "level.pth").stat().st_mtime_ns
    assert made(folder, tmp_path / "f")[1] == 0
    assert (tmp_path / "f" / "level.pth").stat().st_mtime_ns == before
    write_levels(folder, {"b": 0.7})
    assert made(folder, tmp_path / "f") == ({"a": 0.1, "b": 0.7, "c": 0.3}, 1, {})


def test_a_rewritten_wav_of_the_same_size_and_time_stamp_is_noticed(folder, tmp_path):
    made(folder, tmp_path / "f")
    stat = (folder / "b.wav").stat()
    write_levels(folder, {"b": 0.7})
    os.utime(folder / "b.wav", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert made(folder, tmp_path / "f") == ({"a": 0.1, "b": 0.7, "c": 0.3}, 1, {})


def test_a_folder_that_was_moved_keeps_its_features(folder, tmp_path):
    made(folder, tmp_path / "f")
    folder.rename(tmp_path / "elsewhere")
    assert made(tmp_path / "elsewhere", tmp_path / "f") == ({"a": 0.1, "b": 0.2, "c": 0.3}, 0, {})


def test_two_references_of_one_name_have_two_folders_and_each_its_own_features(folder, tmp_path):
    (tmp_path / "out").mkdir()
    for number, level in enumerate((0.4, 0.5)):
        write_levels(tmp_path / f"set{number}" / "truth", {"a": level})
    places = [reference_features(tmp_path / "out", tmp_path / f"set{n}" / "truth") for n in range(2)]
    assert len(set(places)) == 2
    write_levels(tmp_path / "out" / "truth", {"a": 0.6})
    assert reference_features(tmp_path / "out", tmp_path / "out" / "truth") == tmp_path / "out" / "features-truth"
    for number, level in enumerate((0.4, 0.5, 0.4)):  # even where they are given one folder
        assert made(tmp_path / f"set{number % 2}" / "truth", tmp_path / "shared") == ({"a": level}, 1, {})


def test_a_wav_that_went_bad_has_no_features_and_one_that_is_gone_neither(folder, tmp_path):
    made(folder, tmp_path / "f")
    write_float_wav(folder / "a.wav", np.full(80_000, 0.1), 16_000)  # 5 s
    (folder / "c.wav").unlink()
    levels, heard, failed = made(folder, tmp_path / "f")
    assert (levels, heard) == ({"b": 0.2}, 0)
    assert "too_short" in failed["a"]


def test_hidden_and_temporary_files_are_no_clips(folder, tmp_path):
    for name in (".d.wav", ".x.12345.tmp.wav", "._a.wav", ".mfm-0123456789ab-77-1-89abcdef.tmp.wav"):
        shutil.copy(folder / "a.wav", folder / name)
    (folder / "folder.wav").mkdir()
    assert set(find_files(folder)) == {"a", "b", "c"}


@pytest.mark.parametrize("kind", ["network", "weights", "input"])
def test_features_made_otherwise_are_begun_again(folder, tmp_path, kind):
    network = Level()
    made(folder, tmp_path / "f", network)
    if kind == "weights":
        network.fingerprint = "others"
    elif kind == "network":
        network.name = "other"
    else:
        network.sound = SoundInput(without_mean=True)
    extract(network, find_files(folder), tmp_path / "f")
    assert network.heard == 6


def test_features_of_before_files_were_known_are_begun_again(folder, tmp_path):
    """As earlier versions of this project wrote them."""
    write_cache(tmp_path / "f" / "level.pth", {"a": torch.ones(1)}, {"network": "level", "weights": "seeded"})
    assert made(folder, tmp_path / "f") == ({"a": 0.1, "b": 0.2, "c": 0.3}, 3, {})


def test_a_damaged_file_of_ours_is_made_again_and_one_made_elsewhere_is_an_error(folder, tmp_path):
    made(folder, tmp_path / "f")
    path = tmp_path / "f" / "level.pth"
    path.write_bytes(path.read_bytes()[:300])
    assert made(folder, tmp_path / "f") == ({"a": 0.1, "b": 0.2, "c": 0.3}, 3, {})
    path.with_suffix(".json").write_text("{ cut")
    assert made(folder, tmp_path / "f") == ({"a": 0.1, "b": 0.2, "c": 0.3}, 3, {})
    with pytest.raises(CacheError):
        read_cache(folder / "a.wav")


class Killed(BaseException):
    """What no handler of the code under test takes for an ordinary error."""


def dies_at(monkeypatch, number):
    """From the ``number``-th write on, nothing reaches the disk: as if the process were gone."""
    replacing, count = caches.replacing, [0]
    write_text = caches.write_text

    def dying(write):
        def wrapped(*arguments):
            count[0] += 1
            if count[0] > number:
                raise Killed
            return write(*arguments)

        return wrapped

    monkeypatch.setattr(caches, "replacing", dying(replacing))
    monkeypatch.setattr(caches, "write_text", dying(write_text))
    return count


def test_a_kill_before_any_write_costs_little_and_mixes_nothing(tmp_path, monkeypatch):
    """Every moment between two writes of a run that adds, replaces and keeps clips, in turn."""
    monkeypatch.setattr(extraction, "SAVE_EVERY", 2)
    write_levels(tmp_path / "sound", {f"c{n}": n / 20 for n in range(3)})
    made(tmp_path / "sound", tmp_path / "first")
    write_levels(tmp_path / "sound", {"c2": 0.9} | {f"c{n}": n / 20 for n in range(3, 6)})
    wanted = {f"c{n}": 0.9 if n == 2 else n / 20 for n in range(6)}
    moment, died = 0, True
    while died:
        features = tmp_path / f"kill{moment}"
        shutil.copytree(tmp_path / "first", features)
        network = Level()
        with monkeypatch.context() as patch:
            count = dies_at(patch, moment)
            try:
                extract(network, find_files(tmp_path / "sound"), features)
                died = False
            except Killed:
                pass
        levels, heard, _ = made(tmp_path / "sound", features)
        assert levels == wanted, moment
        assert network.heard + heard <= 4 + 2, moment  # four were to be computed, two are not in a part yet
        assert not list(features.glob("*.parts/*"))
        moment += 1
    assert moment > 15
    assert count[0] == moment - 1


def test_an_interrupt_keeps_what_was_computed(folder, tmp_path, monkeypatch):
    network = Level()
    encode = network.encode

    def interrupted(waveforms):
        if network.heard:
            raise KeyboardInterrupt
        return encode(waveforms)

    monkeypatch.setattr(network, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(network, find_files(folder), tmp_path / "f")
    assert made(folder, tmp_path / "f") == ({"a": 0.1, "b": 0.2, "c": 0.3}, 1, {})


def test_a_feature_is_written_twice_however_many_there_are(tmp_path, monkeypatch):
    """Once in a part, once in the joined file: not the whole file for each part."""
    monkeypatch.setattr(extraction, "SAVE_EVERY", 2)
    write_levels(tmp_path / "sound", {f"c{n:02d}": n / 40 for n in range(20)})
    written = []
    save = torch.save
    monkeypatch.setattr(caches.torch, "save", lambda entries, path: (written.append(len(entries)), save(entries, path)))
    made(tmp_path / "sound", tmp_path / "f")
    assert sorted(written) == [2] * 20 + [20] * 2  # ten parts and one whole of each of two files
    big = {str(n): torch.randn(1000) for n in range(50)}
    files = FeatureFiles(tmp_path / "g", ["x.pth"], {"network": "x"})
    for clip_id, values in big.items():
        files.add(clip_id, caches.FileMark(clip_id, 1, 1, 1, clip_id), {"x.pth": values})
        files.save()
    files.join(files.marks)
    assert (tmp_path / "g" / "x.pth").stat().st_size < 1.3 * 4 * 50_000  # not what the parts are mapped from
    assert all(torch.equal(read_cache(tmp_path / "g" / "x.pth")[c], values) for c, values in big.items())


def test_av_benchmark_can_read_what_is_written(folder, tmp_path):
    made(folder, tmp_path / "f")
    assert {
        c: tuple(v.shape) for c, v in torch.load(tmp_path / "f" / "level.pth", weights_only=True).items()
    } == dict.fromkeys("abc", (1,))
    assert maker(tmp_path / "f" / "level.pth")["network"] == "level"
    assert sorted(path.name for path in (tmp_path / "f").iterdir()) == [
        "double.json", "double.pth", "level.json", "level.pth",
    ]  # fmt: skip


def test_workers_read_what_this_process_reads_and_name_what_is_broken(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_WORTH_WORKERS", 3)
    write_levels(tmp_path / "sound", {"a": 0.1, "b": 0.2, "d": 0.4})
    (tmp_path / "sound" / "c.wav").write_bytes(b"RIFF....")
    here, there = (made(tmp_path / "sound", tmp_path / f"f{n}", reading=Reading(workers=n)) for n in (0, 1))
    assert here[:2] == there[:2] == ({"a": 0.1, "b": 0.2, "d": 0.4}, 3), there[2]
    assert list(here[2]) == list(there[2]) == ["c"]


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_features_do_not_depend_on_the_batch(folder, tmp_path, batch):
    network = Level()
    steps = []
    assert extract(network, find_files(folder), tmp_path / "f", batch=batch, on_clip=steps.append) == {}
    assert steps == [0, *({1: [1, 1, 1], 2: [2, 1], 64: [3]}[batch])]
    assert len(read_cache(tmp_path / "f" / "level.pth")) == 3
