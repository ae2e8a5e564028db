"""A TimeChat that has only the words of its sentence says what one with BERT's says."""

import torch

from pipeline.encoders import load_encoder
from pipeline.encoders.timechat import WORDS, timestamp_ids
from presets import load_preset

_WORDS = "frame_qformer.embeddings.word_embeddings.weight"


def test_few_words_say_the_same():
    preset = load_preset("tests/tiny.yaml")
    whole = load_encoder("timechat", config={"vocabulary": 18_926}, preset=preset)
    few = load_encoder("timechat", config={"vocabulary": len(WORDS)}, preset=preset)
    state = whole.state_dict()
    few.load_state_dict({**state, _WORDS: state[_WORDS][list(WORDS)]})
    patches = torch.randn(3, 9, 96)
    ids = timestamp_ids([0.0, 4.2, 9.75])
    assert torch.equal(few.frame_tokens(patches, ids), whole.frame_tokens(patches, ids))
    assert set(ids.flatten().tolist()) < set(WORDS)
    assert len(WORDS) == 20
