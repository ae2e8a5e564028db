"""The metrics against av-benchmark's own figures, and what must hold whatever the input."""

import json

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.errors import InputError
from evaluation import metrics
from tests.recipe import GOLDEN, draw

EXPECTED = json.loads((GOLDEN / "metrics_seed7.json").read_text())["expected"]


def value(name, shape):
    return draw(f"input/{name}", shape)


def test_frechet_distance_is_the_authors():
    generated = value("pred_embed", (240, 64))
    reference = 0.8 * value("gt_embed", (240, 64)) + 0.3
    assert metrics.frechet_distance(generated, reference) == pytest.approx(EXPECTED["fd"], rel=1e-6)


def test_kl_divergence_is_the_authors():
    generated, reference = 2 * value("pred_logits", (240, 527)), 2 * value("gt_logits", (240, 527))
    values = metrics.kl_per_clip(generated, reference)
    assert values.mean() == pytest.approx(EXPECTED["kl_softmax_gt_vs_pred"], rel=1e-6)


def test_inception_score_is_the_authors():
    mean, std = metrics.inception_score(2 * value("pred_logits", (240, 527)))
    assert mean == pytest.approx(EXPECTED["is_mean"], rel=1e-6)
    assert std == pytest.approx(EXPECTED["is_std"], rel=1e-6)


def test_imagebind_score_is_the_authors():
    video = value("ib_video", (240, 1024))
    audio = value("ib_audio", (240, 1024)) + 0.5 * video
    assert metrics.cosine_per_clip(video, audio).mean() == pytest.approx(EXPECTED["ib_score"], rel=1e-6)


@pytest.mark.parametrize(("rows", "width"), [(300, 24), (20, 48)])
def test_frechet_distance_is_that_of_scipys_matrix_root(rows, width):
    random = np.random.default_rng(0)
    one = random.standard_normal((rows, width)) @ random.standard_normal((width, width))
    two = random.standard_normal((rows + 7, width)) + 0.5
    (mean1, cov1), (mean2, cov2) = metrics.gaussian(one), metrics.gaussian(two)
    root = scipy.linalg.sqrtm(cov1 @ cov2).real
    wanted = np.square(mean1 - mean2).sum() + np.trace(cov1 + cov2 - 2 * root)
    assert metrics.frechet_distance(one, two) == pytest.approx(wanted, rel=1e-4)


features = arrays(np.float64, st.tuples(st.integers(2, 12), st.just(5)), elements=st.floats(-10, 10))


@settings(max_examples=40)
@given(features, features)
def test_frechet_distance_is_a_distance(one, two):
    scale = 1 + np.square(one).mean() + np.square(two).mean()
    assert abs(metrics.frechet_distance(one, one)) < 1e-6 * scale * 5
    there, back = metrics.frechet_distance(one, two), metrics.frechet_distance(two, one)
    assert there == pytest.approx(back, abs=1e-6 * scale)
    assert there > -1e-6 * scale


@settings(max_examples=40)
@given(features, st.floats(0.1, 5))
def test_frechet_distance_grows_with_a_shift_by_its_square(one, shift):
    moved = metrics.frechet_distance(one + shift, one)
    assert moved == pytest.approx(one.shape[1] * shift**2, rel=1e-3, abs=1e-5)


@settings(max_examples=40)
@given(features, st.integers(0, 2**31))
def test_the_order_of_clips_does_not_matter(one, seed):
    order = np.random.default_rng(seed).permutation(len(one))
    other = one[::-1] * 0.7
    assert metrics.frechet_distance(one[order], other) == pytest.approx(metrics.frechet_distance(one, other), abs=1e-6)
    pairs = metrics.kl_per_clip(one[order], other[order])
    assert pairs == pytest.approx(metrics.kl_per_clip(one, other)[order], abs=1e-9)


@settings(max_examples=40)
@given(features)
def test_kl_of_identical_logits_is_zero_and_of_others_is_not_negative(logits):
    assert metrics.kl_per_clip(logits, logits) == pytest.approx(0, abs=1e-12)
    assert (metrics.kl_per_clip(logits, logits[::-1]) >= -1e-12).all()


def test_inception_score_is_one_where_all_clips_are_alike_and_grows_with_variety():
    alike = np.tile([5.0, 0.0, 0.0], (30, 1))
    varied = 20 * np.eye(3)[np.arange(300) % 3]
    assert metrics.inception_score(alike)[0] == pytest.approx(1)
    assert metrics.inception_score(varied)[0] > 2


def test_desync_is_the_mean_of_both_ends():
    logits = np.zeros((2, 2, 21))
    logits[0, 0, 10] = logits[0, 1, 20] = 1  # 0 s and 2 s
    logits[1, 0, 5] = logits[1, 1, 10] = 1  # -1 s and 0 s
    assert metrics.desync_per_clip(logits) == pytest.approx([1.0, 0.5])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: metrics.frechet_distance(np.zeros((1, 4)), np.zeros((5, 4))), "at least 2"),
        (lambda: metrics.frechet_distance(np.zeros((5, 4)), np.zeros((5, 3))), "different networks"),
        (lambda: metrics.frechet_distance(np.full((5, 4), np.nan), np.zeros((5, 4))), "NaN or Inf in 5 of 5"),
        (lambda: metrics.frechet_distance(np.zeros(5), np.zeros((5, 4))), "two dimensions"),
        (lambda: metrics.kl_per_clip(np.zeros((5, 4)), np.zeros((6, 4))), "must be pairs"),
        (lambda: metrics.inception_score(np.zeros((9, 4))), "at least 10"),
        (lambda: metrics.desync_per_clip(np.zeros((5, 7))), "(clips, 2, 21)"),
    ],
)
def test_what_cannot_be_measured_is_named(call, says):
    with pytest.raises(InputError, match=says.replace("(", r"\(").replace(")", r"\)")):
        call()
