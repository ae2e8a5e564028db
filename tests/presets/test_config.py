import pytest

from presets import PresetError, available_presets, load_preset


def test_shipped_presets_load():
    assert available_presets() == ["micro", "paper"]
    paper = load_preset("paper")
    assert (paper.media.frames, paper.media.samples) == (40, 160_000)
    assert (paper.training.epochs, paper.training.global_batch, paper.training.learning_rate) == (
        40,
        48,
        1e-3,
    )
    assert (paper.generation.steps, paper.generation.guidance_scale) == (100, 3.5)


def test_assignments_win_over_the_file():
    preset = load_preset("micro", ["training.epochs=3", "encoders.timechat.window=8"])
    assert preset.training.epochs == 3
    assert preset.encoders.timechat.window == 8
    assert preset.encoders.timechat.vit_width == load_preset("micro").encoders.timechat.vit_width


@pytest.mark.parametrize(
    ("assignment", "field"),
    [("training.epoch=3", "epoch"), ("training.epochs=many", "epochs"), ("weights.source=guess", "source")],
)
def test_wrong_fields_are_named(assignment, field):
    with pytest.raises(PresetError, match=field):
        load_preset("micro", [assignment])


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(PresetError, match="micro, paper"):
        load_preset("nano")
