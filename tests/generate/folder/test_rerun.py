"""What a rerun makes, leaves alone and never writes over."""

import os

from manifests.folders import MADE_FILMS, find_videos
from tests.generate.folder.made import SMALL, files
from tests.media_factory import make_media


def test_a_rerun_makes_what_is_of_something_else_by_now(generate, videos, sampled, clip, tmp_path):
    folder, out = videos("rain/a.mp4", "rain/b.mp4", "c.mp4"), tmp_path / "out"

    def again(*more, code=0):
        text = generate(folder, "-o", out, *SMALL, *more, code=code)
        return text.split("videos", 1)[1].split("\n")[0].strip()

    assert again() == "3 made, 0 already there, 0 failed"
    before = {name: (out / name).stat().st_mtime_ns for name in files(out)}
    assert again("--set", "generation.batch=1") == "0 made, 3 already there, 0 failed"
    assert {name: (out / name).stat().st_mtime_ns for name in files(out)} == before
    os.utime(folder / "c.mp4")  # touched, and the same
    assert again() == "0 made, 3 already there, 0 failed"
    make_media(folder / "c.mp4", seconds=2)  # another video
    assert again() == "1 made, 2 already there, 0 failed"
    assert again("--label", "rain") == "1 made, 2 already there, 0 failed"  # c.mp4 had none
    assert again("--label", "rain", "--seed", 7) == "3 made, 0 already there, 0 failed"
    assert again("--label", "rain", "--seed", 7, "--suffix", "wav") == "3 made, 0 already there, 0 failed"
    assert again("--label", "rain", "--seed", 7) == "0 made, 3 already there, 0 failed"  # beside the wavs
    (out / "c.mp4").unlink()
    assert again("--label", "rain", "--seed", 7) == "1 made, 2 already there, 0 failed"
    with (out / MADE_FILMS).open("a") as record:  # what a killed writer left
        record.write('{"video": "rain/a.mp4", "outp')
    (out / "c.mp4").unlink()
    assert again("--label", "rain", "--seed", 7) == "1 made, 2 already there, 0 failed"
    assert again("--label", "rain", "--seed", 7) == "0 made, 3 already there, 0 failed"
    (folder / "c.mp4").write_bytes(b"no longer a video")
    assert again("--label", "rain", "--seed", 7, code=8) == "0 made, 2 already there, 1 failed"
    assert not (out / "c.mp4").exists(), "the sound of another video"


def test_files_of_others_are_not_written_over(generate, videos, sampled, tmp_path):
    folder, out = videos("a.mp4"), tmp_path / "out"
    out.mkdir()
    (out / "a.mp4").write_bytes(b"mine")
    assert "did not make" in generate(folder, "-o", out, *SMALL, code=6)
    assert "never written over" in generate(folder, "-o", folder, *SMALL, code=6)
    assert (out / "a.mp4").read_bytes() == b"mine"
    assert sampled == []


def test_outputs_are_no_inputs(generate, videos, sampled, tmp_path):
    """In a folder inside of the videos, or beside them with another suffix."""
    folder = videos("a.mp4", "rain/b.mp4")
    for out, suffix in ((folder / "made", ".mp4"), (folder, ".mkv")):
        for _ in range(2):
            generate(folder, "-o", out, *SMALL, "--suffix", suffix)
        assert {path.relative_to(folder).as_posix() for path in find_videos(folder).paths} == {"a.mp4", "rain/b.mp4"}
    assert {"a.mkv", "rain/b.mkv", "made/a.mp4", "made/rain/b.mp4"} <= files(folder)
    assert "holds no videos" in generate(folder / "made", "-o", folder / "made", *SMALL, code=4)


def test_tasks_share_a_folder(generate, videos, sampled, tmp_path):
    folder = videos("a.mp4", "b.mp4", "c.mp4")
    for task, made in ((0, 2), (1, 1)):
        text = generate(folder, "-o", tmp_path / "out", *SMALL, "--task-id", task, "--num-tasks", 2)
        assert f"{made} made" in text
    assert files(tmp_path / "out") == {"a.mp4", "b.mp4", "c.mp4"}
