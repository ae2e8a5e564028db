"""What a sampler lets in, features of the kind that its mapper was trained on, and how it goes through batches."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.errors import CacheError
from generate.sampling import Batch, Sampler, Sound, load_sampler
from presets import load_preset
from tests.tiny import TINY
from tests.trainer.test_mapper import make_spec
from trainer.provenance import features_provenance
from trainer.registry import build_mapper

MEDIA = {"seconds": 10.0, "frame_size": 224, "resize": "antialiased", "sample_rate": 16000}
MADE = {
    "cavp": {"weights": "one", "config": {"embedding": 5, "precision": "float32"}, "media": MEDIA},
    "timechat": {"weights": "two", "config": {"window": 4, "stride": 4}, "media": MEDIA},
}


@pytest.mark.parametrize(
    ("stage", "part", "values", "said"),
    [
        ("cavp", "weights", "other", "weights of cavp: one there, other here"),
        ("timechat", "config", {"window": 8, "stride": 4}, r"encoders\.timechat\.window: 4 there, 8 here"),
        ("timechat", "config", {"window": 4, "stride": 2}, r"encoders\.timechat\.stride: 4 there, 2 here"),
        ("cavp", "media", {**MEDIA, "resize": "swscale"}, r"media\.resize: antialiased there, swscale here"),
        ("cavp", "config", {"embedding": 5, "precision": "bfloat16"}, ""),
        ("cavp", "media", {**MEDIA, "sample_rate": 8000}, ""),
    ],
)
def test_features_of_another_kind_are_refused(stage, part, values, said):
    mapper = build_mapper(replace(make_spec(), provenance=features_provenance(MADE)))
    sampler = Sampler(mapper, None, load_preset(TINY), "")
    sampler.check_encoders(MADE)
    here = {**MADE, stage: {**MADE[stage], part: values}}
    if not said:
        sampler.check_encoders(here)
        return
    with pytest.raises(CacheError, match=said):
        sampler.check_encoders(here)


def test_a_stream_gives_what_generate_gives(run_folder):
    sampler = load_sampler(load_preset(TINY, ["generation.steps=1"]), run_folder / "mapper")
    visual = {"cavp": torch.randn(3, 40, 64), "timechat": torch.randn(3, 10, 96)}
    labels, ids = ["dog", "rain", ""], ["a", "b", "c"]

    def part(rows):
        return Batch({name: array[rows] for name, array in visual.items()}, labels[rows], ids[rows])

    batches = [part(slice(0, 2)), Batch({}, ["nothing to see"], ["d"]), part(slice(2, 3))]
    first, failed, last = sampler.stream(batches)
    assert isinstance(failed, Exception), "a batch that fails does not end the stream"
    for batch, made in ((batches[0], first), (batches[2], last)):
        assert made.dtype == np.float32
        assert np.array_equal(made, sampler.generate(batch.visual, batch.labels, batch.clip_ids))


@pytest.mark.parametrize(
    ("device", "order"),
    [
        ("cpu", "launch 0, take 0, launch 1, take 1, launch 2, take 2"),
        ("meta", "launch 0, launch 1, take 0, launch 2, take 1, take 2"),
    ],
)
def test_on_an_accelerator_the_next_batch_is_launched_before_one_is_waited_for(device, order):
    done = []

    class Recorded(Sampler):
        def start(self, batch, on_step=None):
            done.append(f"launch {batch}")
            return SimpleNamespace(result=lambda: done.append(f"take {batch}") or batch)

    sampler = Recorded(None, SimpleNamespace(device=torch.device(device)), None, "")
    assert list(sampler.stream(range(3))) == [0, 1, 2]
    assert ", ".join(done) == order


def test_a_device_may_fail_where_its_sound_is_waited_for():
    class Late(Sampler):
        def start(self, batch, on_step=None):
            return SimpleNamespace(result=lambda: 1 / batch)

    failed, made = Late(None, SimpleNamespace(device=torch.device("meta")), None, "").stream([0, 1])
    assert isinstance(failed, ZeroDivisionError)
    assert made == 1


def test_sound_that_is_not_finite_is_all_nan():
    made = Sound(torch.tensor([[0.5, -3.0], [0.1, float("inf")], [float("nan"), 0.0]])).result()
    assert made[0].tolist() == [0.5, -1.0]
    assert np.isnan(made[1:]).all()
