"""Quality against cost: on a study of two clips, its features drawn, its mapper the shipped one."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from manifests.builders import clips_from_folder
from manifests.manifest import make_manifest, write_manifest
from micro.curve_report import write_curve
from micro.judge import judge_of
from micro.points import POINTS, Point, cheapest, points_of, worse
from micro.study import Condition, Study, label_given, scene
from micro.study_sound import load_sound, load_tokens, make_sound
from micro.world.render import make_scene, render_waveform
from pipeline.cache import ShardContent, open_store
from pipeline.cache.selection import clips_digest
from pipeline.media.writing import read_wav, write_video
from pipeline.probing import probe_clips
from presets import load_preset
from tests.commands import run_here
from tests.media_factory import grey_frame
from trainer.registry import MFMMapper

IDS = ["world000000_000000", "world000006_000000"]  # one with events, one that is sustained


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    for clip_id in IDS:
        path = folder / "clips" / "test" / scene(clip_id).label / f"{clip_id}.mp4"
        path.parent.mkdir(parents=True)
        write_video(path, [grey_frame(90)] * 40, 4, render_waveform(scene(clip_id)), 16_000)
    manifest = make_manifest(probe_clips(clips_from_folder(folder / "clips")), 16)
    write_manifest(manifest, folder / "cache" / "manifest.parquet")
    mapper = folder / "runs" / "mfm-mapper-0" / "mapper"
    shutil.copytree(load_preset("micro").weights.path / "mapper", mapper)
    spec = MFMMapper.from_pretrained(mapper).spec
    shapes = {name: (spec.lengths[name], spec.dimensions[name]) for name in spec.mapper.encoders}
    for stage, shape in {**shapes, "audiomae": spec.target}.items():
        features = np.random.default_rng(0).standard_normal((len(IDS), *shape)).astype(np.float16)
        made_by = {
            "stage": stage, "weights": "", "media": {}, "config": {}, "dtype": "float16", "preset": "micro",
            "clips": clips_digest(manifest.clips),
        }  # fmt: skip
        ids, labels = zip(*((clip.clip_id, clip.label) for clip in manifest.clips), strict=True)
        content = ShardContent(ids, labels, ("test",) * len(ids), made_by, {"features": features})
        open_store(folder / "cache").write(stage, 0, content)
    return folder


def curve(study, out, *more, points="DDIMScheduler:2,DPMSolverMultistepScheduler:1", code=0):
    return run_here(
        "micro", "curve", "--folder", study, "--out", out, "--seeds", 1, "--per-class", 1, "--workers", 1,
        "--points", points, *more, code=code,
    )  # fmt: skip


def times(out):
    return {path.relative_to(out): path.stat().st_mtime_ns for path in out.rglob("*.wav")}


def test_what_is_made_is_measured_and_not_made_again(study, tmp_path):
    assert "DPM-Solver++ 1 " in curve(study, tmp_path)
    results = json.loads((tmp_path / "curve.json").read_text())
    assert [(p["name"], p["scheduler"], p["steps"]) for p in results["points"]] == [
        ("DDIM 2", "DDIMScheduler", 2),
        ("DPM-Solver++ 1", "DPMSolverMultistepScheduler", 1),
    ]
    assert (results["clips"], results["clips with events"], results["seeds"]) == (2, 1, 1)
    assert all(point["seconds"] > 0 for point in results["points"])
    assert results["points"][0]["figures"]["FD"][0] != results["points"][1]["figures"]["FD"][0]
    assert results["cheapest"] is None
    page = (tmp_path / "curve.md").read_text()
    assert "| DPM-Solver++ 1 |" in page
    assert "One mapper has no spread" in page
    before = times(tmp_path)
    assert len(before) == 4

    lost = tmp_path / "curve" / "ddim-2" / "0" / f"{IDS[0]}.wav"
    sound, _ = read_wav(lost)
    lost.unlink()
    made = tmp_path / "curve" / "dpm-solver++-1" / "0" / "made-0.json"
    made.write_text(made.read_text().replace('"mapper": "', '"mapper": "of another training '))
    curve(study, tmp_path)
    again = times(tmp_path)
    remade = {path for path in before if before[path] != again[path]}
    assert remade == {path for path in before if "ddim-2" not in path.parts} | {lost.relative_to(tmp_path)}
    # Alone in its batch: equal but for rounding, which Griffin-Lim amplifies; another clip's is 1.4 away.
    assert np.linalg.norm(read_wav(lost)[0] - sound) < 0.3 * np.linalg.norm(sound)
    assert not (study / "curve").exists()


def render_all(labels):
    """True sounds of a scene of each label."""
    return np.stack([render_waveform(make_scene(label, 5)) for label in labels])


@pytest.mark.slow
def test_what_conditions_sound_like(study):
    """True sound, and the mapper's with the right label, with none and with a wrong one."""
    made = Study(study, 0, 1, 1, "micro", ("generation.steps=1",))
    rows = [
        Condition("truth", kind="truth"),
        Condition("ours", seed=0),
        Condition("no label", seed=0, label="none"),
        Condition("wrong label", seed=0, label="wrong"),
        Condition("shuffled", seed=0, video="another"),
        Condition("oracle", kind="oracle"),
    ]
    ids = tuple(made.test_clips)
    assert sorted(ids) == IDS
    for condition in rows:
        make_sound(made, condition, ids, "cpu")
    judge = judge_of(made, ids)
    found = {condition.row: judge.measure(load_sound(made, condition, ids)) for condition in rows[:1]}
    assert found["truth"].figures["timing_error"] < 0.05
    assert found["truth"].figures["class_accuracy"] == 1
    assert found["truth"].probabilities.min() > 0.5
    told = [label_given(rows[3], clip_id) for clip_id in ids]
    assert judge.measure(render_all(told), told).figures["heard_as_told"] == 1
    # Of one clip a class the next one is itself; the label does not reach the mapper, and does reach the sound.
    ours, silent, wrong, same = (load_sound(made, condition, ids) for condition in rows[1:5])
    assert np.array_equal(ours, same)
    assert not np.allclose(ours, silent, atol=1e-3)
    assert not np.allclose(wrong, silent, atol=1e-3)
    tokens = [load_tokens(made, condition, ids) for condition in rows[1:]]
    assert all(np.array_equal(tokens[0], other) for other in tokens[1:4])
    assert np.array_equal(tokens[4], made.joined.arrays["audiomae"][[list(made.joined.clip_ids).index(i) for i in ids]])
    with pytest.raises(InputError, match=r"mapper-epoch-00005.* the part 'mappers' of the study comes before"):
        make_sound(made, replace(rows[1], epoch=5), ids, "cpu")
    before = times(study / "sound")
    for condition in rows[:2]:
        make_sound(made, condition, ids, "cpu")
    assert times(study / "sound") == before
    make_sound(replace(made, assignments=("generation.steps=2",)), rows[1], ids, "cpu")
    again = times(study / "sound")
    assert {path for path in before if before[path] != again[path]} == {Path("ours", "0", f"{i}.wav") for i in ids}


def test_what_cannot_be_done_is_said_first(study, tmp_path):
    assert "no trained mapper in" in curve(study, tmp_path, "--seeds", 2, code=4)
    assert "no scheduler 'DDIM'" in curve(study, tmp_path, points="DDIM:3", code=4)
    assert "generation.steps is 1001" in curve(study, tmp_path, points="DDIMScheduler:1001", code=3)
    assert "names no point" in curve(study, tmp_path, points="none", code=4)
    assert not list(tmp_path.iterdir())


def test_points_are_read():
    assert points_of("default") == list(POINTS)
    assert points_of("none") == []
    assert points_of("DDIMScheduler:5, EulerDiscreteScheduler:7")[1] == Point("EulerDiscreteScheduler", 7)
    assert [point.name for point in POINTS][::4] == ["DDIM 100", "DPM-Solver++ 25"]
    for wrong in ("", "DDIMScheduler", "DDIMScheduler:", "DDIMScheduler:0", "DDIMScheduler:-1", "a:1,,b:2"):
        with pytest.raises(InputError, match="not of the form scheduler:steps"):
            points_of(wrong)


def a_point(name, seconds, accuracy=(0.9, 0.02), f1=(0.8, 0.05), error=(0.1, 0.01), fd=(20.0, 1.0)):
    figures = {"class_accuracy": accuracy, "onset_f1": f1, "timing_error": error, "loudness": (0, 0.1), "FD": fd}
    method, steps = name.split()
    return {"name": name, "method": method, "steps": int(steps), "seconds": seconds, "figures": figures}


def test_the_cheapest_that_is_within_the_spread():
    first = a_point("DDIM 100", 4.0)
    assert worse(first, first) == []
    assert worse(a_point("DDIM 50", 2.0, accuracy=(0.88, 0), fd=(21.0, 9.0)), first) == []
    assert worse(a_point("DDIM 25", 1.0, accuracy=(0.87, 0), fd=(21.1, 0)), first) == ["class_accuracy", "FD"]
    assert worse(a_point("DDIM 10", 0.4, f1=(0.99, 0), error=(0.0, 0), fd=(0.0, 0)), first) == []
    points = [first, a_point("DDIM 50", 2.0), a_point("DPM 10", 0.4, error=(0.2, 0)), a_point("DPM 25", 1.0)]
    assert cheapest(points) == "DPM 25"
    assert cheapest([first]) == "DDIM 100"


def test_the_page_names_where_a_point_is_worse(tmp_path):
    points = [a_point("DDIM 100", 4.0), a_point("DDIM 25", 1.0), a_point("DPM 10", 0.4, error=(0.2, 0))]
    results = {
        "preset": "micro", "clips": 2, "clips with events": 1, "seeds": 3, "points": points, "cheapest": "DDIM 25",
        "fast": "DPM-Solver++ 10",
    }  # fmt: skip
    text = write_curve(results, tmp_path).read_text()
    assert (
        "| DDIM 100 | 0.900 ± 0.020 | 0.800 ± 0.050 | 0.100 ± 0.010 | 0.000 ± 0.100 | 20.000 ± 1.000 | 4.00 |" in text
    )
    assert "| 0.40 | 10.0 | timing error |" in text
    assert "**DDIM 25**" in text
    assert (tmp_path / "curve.png").stat().st_size > 10_000
