import pytest

from trainer.provenance import differing_features, features_provenance

MEDIA = {"seconds": 10.0, "frame_size": 224, "resize": "antialiased", "sample_rate": 16000, "backend": "decord"}
MADE = {
    "cavp": {"weights": "c", "config": {"embedding": 512, "precision": "float32"}, "media": MEDIA},
    "timechat": {"weights": "t", "config": {"window": 4, "stride": 4, "precision": "float32"}, "media": MEDIA},
    "audiomae": {"weights": "a", "config": {"pool": 8}, "media": MEDIA},
    "flan_t5": {"weights": "f", "config": {}, "media": None},
}


def changed(name, part, **values):
    return features_provenance({**MADE, name: {**MADE[name], part: {**MADE[name][part], **values}}})


def test_the_same():
    trained = features_provenance(MADE)
    assert trained["media"] == MEDIA
    assert differing_features(trained, features_provenance(MADE), list(MADE)) == []


@pytest.mark.parametrize(
    ("here", "names", "said"),
    [
        (changed("timechat", "config", stride=2), ["cavp", "timechat"], "encoders.timechat.stride: 4 there, 2 here"),
        (changed("timechat", "config", stride=2), ["cavp"], ""),
        (changed("timechat", "config", precision="bfloat16"), ["cavp", "timechat"], ""),
        (changed("timechat", "config", queries="mean"), ["cavp", "timechat"], ""),  # its default
        (
            changed("timechat", "config", queries="keep"),
            ["cavp", "timechat"],
            "encoders.timechat.queries: mean there, keep here",
        ),
        (changed("cavp", "media", resize="swscale"), ["cavp"], "media.resize: antialiased there, swscale here"),
        (changed("cavp", "media", resize="swscale"), ["audiomae"], ""),
        (changed("cavp", "media", sample_rate=8000), ["cavp"], ""),
        (changed("cavp", "media", sample_rate=8000), ["cavp", "audiomae"], "media.sample_rate: 16000 there, 8000 here"),
        (changed("cavp", "media", seconds=8.0), ["cavp"], "media.seconds: 10.0 there, 8.0 here"),
        (changed("cavp", "media", backend="pyav"), list(MADE), ""),
        ({**features_provenance(MADE), "encoders": {}}, ["cavp"], "weights of cavp: c there, None here"),
    ],
)
def test_what_differs_and_what_does_not(here, names, said):
    assert [*map(str, differing_features(features_provenance(MADE), here, names))] == ([said] if said else [])


def test_a_mapper_that_says_little_of_its_features():
    """Only its weights are known: only they are compared."""
    assert differing_features({"encoders": {"cavp": "c"}}, features_provenance(MADE), ["cavp"]) == []
