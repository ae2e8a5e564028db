"""Truth is best, noise is worst and a spoiled set lies between, by every metric of the micro preset."""

import numpy as np
import pytest

from evaluation.evaluate import METRICS, Side, evaluate
from micro.world.render import KINDS, make_scene, render_waveform
from pipeline.media.writing import write_wav
from presets import load_preset

CLIPS = 36


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("order")
    labels, random = list(KINDS), np.random.default_rng(0)
    truth = [render_waveform(make_scene(labels[n % len(labels)], 70_000 + n, "test")) for n in range(CLIPS)]
    # Every other clip has the sound of another class.
    spoiled = [wave if n % 2 else truth[(n + 5) % CLIPS] for n, wave in enumerate(truth)]
    noise = [0.1 * random.standard_normal(len(wave)) for wave in truth]
    for name, waves in (("truth", truth), ("spoiled", spoiled), ("noise", noise)):
        for number, wave in enumerate(waves):
            write_wav(folder / name / f"world{number:06d}_000000.wav", wave, 16_000)
    preset = load_preset("micro")
    reference = Side(folder / "truth", folder / "truth-features")
    return {
        name: evaluate(preset, preset.evaluation.networks, Side(folder / name, folder / f"{name}-as-out"), reference)
        for name in ("truth", "spoiled", "noise")
    }


@pytest.mark.parametrize("metric", [metric for metric in METRICS.values() if metric.network in ("micro", "onsets")])
def test_the_order_is_right(results, metric):
    truth, spoiled, noise = (results[name].values[metric.name] for name in ("truth", "spoiled", "noise"))
    if metric.name == "IS_micro":  # does not look at the reference: a mixture of true sounds is as good as they are
        assert noise < min(truth, spoiled)
    elif metric.higher_is_better:
        assert truth > spoiled > noise
    else:
        assert truth < spoiled < noise


def test_the_truth_is_perfect(results):
    values = results["truth"].values
    assert values["FD_micro"] == pytest.approx(0, abs=1e-3)
    assert values["KL_micro"] == pytest.approx(0, abs=1e-9)
    assert values["onset_F1"] == 1
