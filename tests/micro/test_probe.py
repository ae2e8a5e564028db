"""Linear probes find what is in a feature and nothing where there is nothing; the command probes what ships."""

import json
from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from micro.bench import FEATURES, Bench, features
from micro.ceiling import measure
from micro.data import LABELS, training_scenes
from micro.models import STAGES
from micro.networks import load_classifier
from micro.probe import default_output, make_bench, run_probe, weights_of
from micro.probe_report import card_section
from micro.probes import Probed, Subjects, average_precision, confusions, probe
from micro.world.render import render_waveform
from presets import load_preset


@pytest.fixture(scope="module")
def subjects() -> Subjects:
    scenes = [*training_scenes(48, 500), *training_scenes(12, 700), *training_scenes(24, 800, "test")]
    return Subjects(scenes, ["train"] * 48 + ["validation"] * 12 + ["test"] * 24)


def told(subjects: Subjects, rows: int, seconds: float = 10.0) -> np.ndarray:
    """(N, rows, D) that tell everything, through a random rotation and under a little noise."""
    out = []
    for scene in subjects.scenes:
        steps = np.zeros((rows, 80 // rows))
        for time in scene.onsets:
            steps.flat[int(time * 80 / seconds)] = 1
        times = (np.arange(40) + 0.5) * seconds / 40
        level = (scene.level(times) if scene.sustained else np.zeros(40)).reshape(rows, -1)
        label = np.tile(np.eye(len(LABELS))[LABELS.index(scene.label)], (rows, 1))
        out.append(np.concatenate([steps, level, label, np.full((rows, 1), scene.size)], axis=1))
    values = np.stack(out)
    random = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(random.standard_normal((values.shape[2], values.shape[2])))
    return values @ rotation + 0.02 * random.standard_normal(values.shape)


@pytest.mark.parametrize(("rows", "seconds"), [(40, 10.0), (8, 10.24)])
def test_what_a_feature_tells_is_found(subjects, rows, seconds):
    found = probe(subjects, Probed(told(subjects, rows, seconds), seconds))
    assert found["class_accuracy"] == 1.0
    assert min(found[name] for name in ("size_r", "level_r", "instant_ap", "instant_ap_250")) > 0.9
    assert set(found["level_r_by_class"]) == {s.label for s in subjects.scenes if s.sustained}
    assert found["confusions"] == {}


def test_in_noise_nothing_is_found(subjects):
    noise = np.random.default_rng(1).standard_normal((len(subjects.scenes), 40, 4))
    found = probe(subjects, Probed(noise))
    assert found["class_accuracy"] < 0.3
    assert abs(found["level_r"]) < 0.25
    assert abs(found["size_r"]) < 0.4
    assert found["instant_ap"] < 2 * found["instant_share"]


def test_a_late_feature_is_read_from_its_neighbour_and_no_further(subjects):
    values = told(subjects, 40)
    assert probe(subjects, Probed(np.roll(values, 1, axis=1)))["instant_ap"] > 0.9
    assert probe(subjects, Probed(np.roll(values, 1, axis=1), context=0))["instant_ap"] < 0.4
    assert probe(subjects, Probed(np.roll(values, 5, axis=1)))["instant_ap"] < 0.4


def test_average_precision_and_confusions():
    true = np.array([[1, 0, 1], [0, 0, 1]])
    score = np.array([[0.9, 0.8, 0.7], [0.2, 0.1, 0.3]])
    assert average_precision(true, score) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert confusions(["a", "a", "a", "b"], ["b", "c", "b", "b"]) == {"a": {"b": 2, "c": 1}}


def test_true_sound_has_no_ceiling_and_a_late_one_has():
    scenes = training_scenes(12, 900, "test")
    sound = np.stack([render_waveform(scene) for scene in scenes])
    classifier = load_classifier(load_preset("micro"))
    truth = measure(scenes, sound, classifier)
    assert truth["class_accuracy"] > 0.9
    assert truth["onset_f1"] > 0.97
    assert truth["loudness_r"] > 0.95
    assert truth["timing_error"] < 0.02
    late = measure(scenes, np.roll(sound, 4000, axis=1), classifier)
    assert late["timing_error"] > 0.15 > 3 * truth["timing_error"]
    assert set(truth["by_class"]) == set(LABELS)
    assert "onset_f1" not in truth["by_class"]["rain falling"]


def test_what_ships_is_probed_on_scenes_in_memory(tmp_path):
    bench = make_bench(None, (), [], "cpu", 12, 12)
    results = run_probe(bench, "audiomae", 0, tmp_path, lambda line: None)
    assert json.loads((tmp_path / "probe.json").read_text()) == results
    assert results["scenes"] == {"train": 12, "validation": 12, "test": 12}
    assert results["probes"]["audiomae"]["shape"] == [8, 96]
    assert results["probes"]["audiomae"]["instant_ap"] > 2 * results["probes"]["audiomae"]["instant_share"]
    assert results["probes"]["audiomae"]["level_r"] > 0.3
    page = (tmp_path / "probe.md").read_text()
    assert card_section(results) in page
    assert "| audiomae | 8 x 96 |" in page


def test_what_cannot_be_probed_is_said(tmp_path):
    bench = Bench(load_preset("micro"), Subjects([], []))
    with pytest.raises(InputError, match="unknown feature 'smell'"):
        features(bench, "cavp,smell")
    assert set(features(bench, "all")) == set(FEATURES) > set(features(bench))  # on a CPU without the vocoded ones
    with pytest.raises(InputError, match="at least one scene of each of 12 classes"):
        make_bench(None, (), [], "cpu", 11, 12)
    (tmp_path / "vae.pt").touch()
    others = ", ".join(name for name in STAGES if name != "vae")
    with pytest.raises(InputError, match=f"no checkpoint of {others}: "), weights_of(tmp_path, ()):
        pass


def test_an_export_is_probed_as_it_is(tmp_path):
    (tmp_path / "audiomae.safetensors").touch()
    with weights_of(tmp_path, ("generation.steps=3",)) as settings:
        preset = load_preset("micro", settings)
    assert preset.weights.path == tmp_path
    assert preset.generation.steps == 3
    assert default_output(None, tmp_path) == Path("runs/probe")
    (tmp_path / "audiomae.pt").touch()
    assert default_output(None, tmp_path) == tmp_path
    assert default_output(Path("a/study"), None) == Path("a/study")
