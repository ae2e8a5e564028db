"""Which clips get video, picture and truth; what a rerun adds to sound that is there; who writes, and when it fails."""

import resource

import pytest

import generate.split
from common.errors import WriteError
from generate.sampling import Sampler, load_sampler
from generate.split import generate_split
from pipeline.cache import cache_manifest, open_store
from presets import load_preset
from tests.generate.test_split import any_sound, assert_nothing_is_left, made, noise  # noqa: F401
from tests.media_factory import make_media
from tests.tiny import TINY

NAMES = [f"clip{number}" for number in range(4)]
FOLDERS = ("wav", "wav_8s", "mp4", "png", "truth")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return {name: make_media(folder / f"{name}.mp4", seconds=1, audio=name != "clip2") for name in NAMES}


@pytest.fixture
def cache(make_cache, videos, tmp_path):
    return make_cache(tmp_path / "cache", {name: (path, "dog") for name, path in videos.items()})


def tree(out):
    return {folder: {path.stem: path.read_bytes() for path in (out / folder).glob("*")} for folder in FOLDERS}


@pytest.mark.usefixtures("any_sound")
def test_shown_none_and_all(generate, cache, tmp_path, monkeypatch):
    """The first clips of the job are shown, whichever task makes them; what is added later is what all would be."""
    monkeypatch.setattr("generate.split.SHOWN", 2)
    for task in (1, 0):
        generate("--cache", cache, "-o", tmp_path / "shown", "--task-id", task, "--num-tasks", 2)
    shown = tree(tmp_path / "shown")
    assert set(shown["wav"]) == set(shown["wav_8s"]) == set(NAMES)
    assert set(shown["mp4"]) == set(shown["png"]) == {"clip0", "clip1"}
    generate("--cache", cache, "-o", tmp_path / "none", "--mp4", "none")
    assert not any(tree(tmp_path / "none")[folder] for folder in ("mp4", "png", "truth"))
    generate("--cache", cache, "-o", tmp_path / "all", "--mp4", "all")
    whole = tree(tmp_path / "all")
    assert set(whole["mp4"]) == set(whole["png"]) == set(NAMES)
    assert set(whole["truth"]) == set(NAMES) - {"clip2"}
    assert all(row["video"] for row in made(tmp_path / "all").values())

    def refuse(*arguments):
        raise AssertionError("sampled again")

    monkeypatch.setattr(Sampler, "start", refuse)
    for out in ("shown", "none"):
        text = generate("--cache", cache, "-o", tmp_path / out, "--mp4", "all")
        assert "0 made, 4 already there, 0 failed" in text
        assert tree(tmp_path / out) == whole
        assert made(tmp_path / out) == made(tmp_path / "all")
    assert "shown, all, none" in generate("--cache", cache, "-o", tmp_path / "x", "--mp4", "some", code=4)


@pytest.mark.usefixtures("any_sound")
def test_what_is_lost_of_a_clip_is_added_and_what_cannot_be_is_said(generate, cache, videos, tmp_path):
    generate("--cache", cache, "-o", tmp_path / "out")
    whole = tree(tmp_path / "out")
    for name in ("mp4/clip0.mp4", "png/clip1.png", "wav_8s/clip3.wav"):
        (tmp_path / "out" / name).unlink()
    generate("--cache", cache, "-o", tmp_path / "out")
    assert tree(tmp_path / "out") == whole
    (tmp_path / "out/mp4/clip0.mp4").unlink()
    kept = videos["clip0"].read_bytes()
    videos["clip0"].unlink()
    try:
        text = generate("--cache", cache, "-o", tmp_path / "out")
    finally:
        videos["clip0"].write_bytes(kept)
    assert "0 made, 4 already there, 0 failed" in text
    assert "without video, picture and truth: missing_file" in made(tmp_path / "out")["clip0"]["note"]
    generate("--cache", cache, "-o", tmp_path / "out")
    assert made(tmp_path / "out")["clip0"]["note"] == ""


@pytest.mark.usefixtures("any_sound")
def test_a_clip_that_is_not_shown_needs_its_video_all_the_same(generate, make_cache, videos, tmp_path):
    """Evaluation will ask for it; it is named as a shown one is."""
    cache = make_cache(tmp_path / "cache", {"a": (videos["clip0"], ""), "b": (tmp_path / "gone.mp4", "")})
    generate("--cache", cache, "-o", tmp_path / "out", "--mp4", "none", code=8)
    assert "missing_file" in made(tmp_path / "out")["b"]["reason"]


@pytest.mark.usefixtures("any_sound")
def test_a_limit_of_the_system_ends_the_job(run_folder, cache, videos, tmp_path):
    """A real refusal in a worker: the kernel lets no file grow beyond 200 kB, and a wav of 10 s has 320."""
    sampler = load_sampler(load_preset(TINY, ["generation.batch=2"]), run_folder / "mapper")
    store = open_store(cache)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(WriteError, match="cannot write"):
            generate_split(sampler, store, cache_manifest(store).clips, tmp_path / "out", videos="none")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_nothing_is_left(tmp_path / "out")
    assert not tree(tmp_path / "out")["wav"]


@pytest.mark.usefixtures("any_sound")
def test_only_shards_of_clips_to_be_made_are_read_and_no_sound_depends_on_them(
    run_folder, make_cache, videos, tmp_path, monkeypatch
):
    """A clip of a manifest's end, with a damaged shard elsewhere in the cache; and clips in any order."""
    cache = make_cache(tmp_path / "cache", {name: (path, "dog") for name, path in videos.items()}, clips_per_shard=2)
    store = open_store(cache)
    clips = list(cache_manifest(store).clips)
    sampler = load_sampler(load_preset(TINY, ["generation.batch=1"]), run_folder / "mapper")
    outcome = generate_split(sampler, store, clips[::-1], tmp_path / "all", videos="none")
    assert outcome.done == NAMES[::-1]
    asked = []
    look_up = generate.split.found_ahead

    def found_ahead(background, store, stages, shards, clips, out):
        asked.extend(sorted({shards[clip.clip_id] for clip in clips}))
        return look_up(background, store, stages, shards, clips, out)

    monkeypatch.setattr("generate.split.found_ahead", found_ahead)
    generate_split(sampler, store, clips[3:], tmp_path / "last", videos="none")
    assert asked == [1]


@pytest.mark.usefixtures("any_sound")
def test_an_interrupt_ends_the_workers_and_leaves_nothing(run_folder, cache, tmp_path, monkeypatch):
    sampler = load_sampler(load_preset(TINY, ["generation.batch=1"]), run_folder / "mapper")
    store, calls = open_store(cache), []
    pools = []
    init = generate.split.Background.__init__
    monkeypatch.setattr(
        "generate.split.Background.__init__", lambda self, *a: (init(self, *a), pools.append(self._pool))[0]
    )

    def interrupted(self, batch, on_step=None):
        calls.append(batch)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return noise(self, batch)

    monkeypatch.setattr(Sampler, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate_split(sampler, store, cache_manifest(store).clips, tmp_path / "out")
    assert_nothing_is_left(tmp_path / "out")
    assert pools[0].workers == []
    monkeypatch.setattr(Sampler, "start", noise)
    outcome = generate_split(sampler, store, cache_manifest(store).clips, tmp_path / "out")
    assert sorted(outcome.done + outcome.skipped) == NAMES
