import numpy as np
import pytest

from micro.world.render import (
    HELD_OUT_SIZES,
    KINDS,
    make_scene,
    render_frames,
    render_waveform,
    render_world,
    split_of,
)
from micro.world.scene import SAMPLE_RATE
from pipeline.media import decode_clip
from presets.config import MediaConfig


@pytest.mark.parametrize("label", list(KINDS))
def test_scenes_follow_from_their_seed(label):
    scene = make_scene(label, 5)
    assert scene == make_scene(label, 5)
    assert scene != make_scene(label, 6)
    np.testing.assert_array_equal(render_waveform(scene), render_waveform(scene))
    frames = list(render_frames(scene))
    assert len(frames) == 120
    assert any((frames[0] != frame).any() for frame in frames), "nothing moves"


@pytest.mark.parametrize("label", [label for label, kind in KINDS.items() if kind.events != "level"])
def test_sound_begins_when_the_event_is_seen(label):
    scene = make_scene(label, 11)
    waveform = np.abs(render_waveform(scene))
    first = scene.onsets[0]
    assert waveform[: int((first - 0.02) * SAMPLE_RATE)].max(initial=0) < 0.02
    heard = waveform[int(first * SAMPLE_RATE) : int((first + 0.1) * SAMPLE_RATE)]
    assert heard.max() > 0.05


def test_rendered_files_decode_and_are_not_rendered_twice(tmp_path):
    made = list(render_world(tmp_path, 2))
    assert [new for _, new in made] == [True, True]
    assert [new for _, new in render_world(tmp_path, 2)] == [False, False]
    clip = decode_clip(made[0][0], MediaConfig())
    assert clip.audio_fault is None
    scene = make_scene("ball bouncing", 0)
    loudest = np.argmax(np.abs(clip.waveform)) / SAMPLE_RATE
    assert min(abs(loudest - event.time) for event in scene.events) < 0.05


def test_test_clips_have_sizes_that_training_never_shows():
    def held_out(size):
        return any(low <= size <= high for low, high in HELD_OUT_SIZES)

    for seed in range(40):
        assert held_out(make_scene("owl hooting", seed, "test").size)
        assert not held_out(make_scene("owl hooting", seed, "train").size)
    assert {split_of(number) for number in range(72)} == {"train", "validation", "test"}


def test_kinds_fill_four_families():
    families = [kind.family for kind in KINDS.values()]
    assert len(KINDS) >= 10
    assert min(families.count(family) for family in set(families)) >= 2
    assert len(set(families)) == 4
