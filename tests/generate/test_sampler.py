"""What a sampler lets in: features of the kind that its mapper was trained on."""

from dataclasses import replace

import pytest

from generate.sampling import Sampler
from pipeline.errors import CacheError
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
