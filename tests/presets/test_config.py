import dataclasses
import tomllib
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.errors import MFMError
from common.registry import load_part
from presets import PresetError, available_options, available_presets, load_preset
from presets.audio_models import AUDIO_MODELS, AudioModelConfig
from presets.checks import checked, fields_of
from presets.config import HERE, MapperConfig, Preset
from presets.mappers import FUSIONS, MAPPERS
from presets.text import assigned_value, merge, parse_yaml
from trainer.fusion import Fusion
from trainer.mapper import Mapper


def test_shipped_presets_load():
    assert available_presets() == ["micro", "paper", "v2a-mapper", "v2a-mapper-micro"]
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


# What is given, what the sentence must name (setting and value), and what it must say is allowed.
WRONG = [
    ("training.epoch=3", "training.epoch", "did you mean training.epochs"),
    ("trainng.epochs=3", "trainng is no setting", "did you mean training"),
    ("sampling.x=3", "sampling is no setting", "there are name, note, media"),
    ("training.epochs=many", "training.epochs is many", "a whole number from 1 to"),
    ("training.epochs=true", "training.epochs is true", "a whole number from 1 to"),
    ("training.epochs=0", "training.epochs is 0", "from 1 to"),
    ("training.epochs=[1, 2]", "training.epochs is [1, 2]", "a whole number"),
    ("training.epochs=", "training.epochs is null", "a whole number"),
    ("training.global_batch=0", "training.global_batch is 0", "from 1 to"),
    ("training.log_every=0", "training.log_every is 0", "from 1 to"),
    ("training.log_every=0.5", "training.log_every is 0.5", "a whole number from 1 to"),
    ("training.accumulate=0", "training.accumulate is 0", "from 1 to"),
    ("training.learning_rate=0", "training.learning_rate is 0", "above 0"),
    ("training.learning_rate=.nan", "training.learning_rate is nan", "above 0"),
    ("training.learning_rate=1e999", "training.learning_rate is inf", "at most 100"),
    ("training.betas=[0.9]", "training.betas is [0.9]", "a list of 2"),
    ("training.betas=[0.9, 1]", "training.betas[1] is 1", "below 1"),
    ("training.gradient_clip=-1", "training.gradient_clip is -1", "or null"),
    ("training.seed=-1", "training.seed is -1", "from 0 to 4294967295"),
    ("training.mixed_precision=int8", "training.mixed_precision is int8", "one of no, bf16, fp16"),
    ("training.compile=3", "training.compile is 3", "true or false"),
    ("training=3", "training is 3", "a section with settings: data"),
    ("encoders.cavp=", "encoders.cavp is null", "a section with settings: width"),
    ("encoders.cavp.blocks=[1, 2]", "encoders.cavp.blocks is [1, 2]", "a list of 4"),
    ("encoders.timechat.stride=0", "encoders.timechat.stride is 0", "from 1 to"),
    ("encoders.timechat.vit_heads=5", "encoders.timechat.vit_width is 96", "a multiple of encoders.timechat.vit_heads"),
    ("encoders.audiomae.heads=7", "encoders.audiomae.width is 96", "a multiple of encoders.audiomae.heads (7)"),
    ("encoders.audiomae.contextual_layers=9", "contextual_layers is 9", "at most encoders.audiomae.layers (4)"),
    ("encoders.audiomae.mel_bins=100", "encoders.audiomae.pool is 8", "at most"),
    ("mapper.kind=gtp2", "mapper.kind is gtp2", "one of gpt2, diffusion"),
    ("mapper.fusion=sum", "mapper.fusion is sum", "one of concat, add, cat"),
    ("mapper.encoders=[]", "mapper.encoders is []", "one or more of cavp, timechat"),
    ("mapper.encoders=cavp", "mapper.encoders is cavp", "a list, each text"),
    ("mapper.encoders=[resnet]", "mapper.encoders is ['resnet']", "cavp, timechat"),
    ("mapper.encoders=[cavp, cavp]", "mapper.encoders is ['cavp', 'cavp']", "each once"),
    ("mapper.layers=1e6", "mapper.layers is 1000000.0", "from 1 to 512"),
    ("mapper.width=9999999", "mapper.width is 9999999", "from 1 to 65536"),
    ("mapper.heads=7", "mapper.width is 96", "a multiple of mapper.heads (7)"),
    ("mapper.dropout=1", "mapper.dropout is 1", "below 1"),
    ("mapper.sampling_steps=1001", "mapper.sampling_steps is 1001", "at most mapper.diffusion_steps (1000)"),
    ("generation.steps=0", "generation.steps is 0", "of at least 1"),
    ("generation.steps=-5", "generation.steps is -5", "of at least 1"),
    ("generation.steps=1000", "generation.steps is 1000", "from 1 to 999"),
    ("generation.steps=1001", "generation.steps is 1001", "from 1 to 999"),
    ("generation.batch=0", "generation.batch is 0", "from 1 to"),
    ("generation.decode_batch=-1", "generation.decode_batch is -1", "from 1 to"),
    ("generation.guidance_scale=.inf", "generation.guidance_scale is inf", "from 0 to 1000"),
    ("generation.eta=2", "generation.eta is 2", "from 0 to 1"),
    ("generation.seed=-1", "generation.seed is -1", "from 0 to 4294967295"),
    ("generation.overlap_seconds=10", "generation.overlap_seconds is 10", "below media.seconds (10)"),
    ("generation.overlap_seconds=0", "generation.overlap_seconds is 0", "above 0"),
    ("media.seconds=0.1", "media.seconds is 0.1", "2 to 100000 frames"),
    ("media.frame_size=1000000", "media.frame_size is 1000000", "from 16 to 4096"),
    ("cache.max_failure_rate=50", "cache.max_failure_rate is 50", "from 0 to 1"),
    ("cache.clips_per_shard=0", "cache.clips_per_shard is 0", "from 1 to"),
    ("cache.decode_timeout_seconds=-1", "cache.decode_timeout_seconds is -1", "above 0"),
    ("weights.source=guess", "weights.source is guess", "one of official, shipped, seeded"),
    ("evaluation.networks=[]", "evaluation.networks is []", "a list of 1 or more"),
    ("audioldm2.unet=3", "audioldm2.unet is 3", "a mapping of plain values"),
    ("audioldm2.scheduler.num_train_timesteps=x", "num_train_timesteps is x", "whole numbers"),
    ("audioldm2.unet.x=&a [*a]", "audioldm2.unet is", "plain values"),
    ("generation.steps=[1", "generation.steps: '[1' is not YAML", "column 3"),
    ("generation.steps={{}}", "generation.steps", "unhashable key"),
    ("training.epochs=" + "9" * 5000, "training.epochs", "4300 digits"),
    ("training.epochs=" + "[" * 500, "training.epochs", "nested too deeply"),
    ("training.epochs=!!python/object/apply:os.system [true]", "training.epochs", "not YAML"),
    ("generation.steps", "generation.steps", "section.field=value"),
    ("=3", "=3", "section.field=value"),
    ("training..epochs=3", "training..epochs", "section.field=value"),
]


@pytest.mark.parametrize(("assignment", "named", "allowed"), WRONG, ids=[row[0][:40] for row in WRONG])
def test_a_wrong_setting_is_one_sentence(assignment, named, allowed):
    with pytest.raises(PresetError) as caught:
        load_preset("micro", [assignment])
    message = str(caught.value)
    assert named in message
    assert allowed in message
    assert "\n" not in message
    assert len(message) < 400
    assert isinstance(caught.value, MFMError)
    assert caught.value.exit_code == 3


RIGHT = [
    ("training.learning_rate=1e-3", 1e-3),
    ("training.epochs=1_000", 1000),
    ("training.epochs=010", 10),
    ("training.mixed_precision=no", "no"),  # which YAML 1.1 takes for false
    ("training.compile=yes", True),
    ("training.gradient_clip=null", None),
    ("weights.folder=2024", "2024"),
    ("weights.folder=a: [b", "a: [b"),
    ("weights.folder=s=1", "s=1"),
    ("generation.negative_prompt=", ""),
    ("generation.negative_prompt='quoted' is kept", "'quoted' is kept"),
    ("generation.steps=999", 999),
    ("generation.steps=1", 1),
    ("mapper.encoders=[timechat]", ["timechat"]),
    ("audio_models.audioldm2.scheduler.beta_start=1e-3", 1e-3),
    ("audio_models.audioldm2.scheduler.beta_schedule=1:30", "1:30"),
]


@pytest.mark.parametrize(("assignment", "value"), RIGHT, ids=[row[0] for row in RIGHT])
def test_values_mean_what_they_say(assignment, value):
    found = load_preset("micro", [assignment])
    for name in assignment.partition("=")[0].split("."):
        found = found[name] if isinstance(found, dict) else getattr(found, name)
    assert found == value
    assert type(found) is type(value)


def _settings(kind=Preset, above=""):
    for name, field in fields_of(kind).items():
        if fields_of(field.annotation):
            yield from _settings(field.annotation, f"{above}{name}.")
        else:
            yield above + name


@settings(max_examples=150)
@given(st.sampled_from(list(_settings())), st.text(max_size=30) | st.integers().map(str) | st.floats().map(str))
@example("media.seconds", "2024-99-99")
@example("training.epochs", "0b_")
@example("training.epochs", "\ud800")
@example("generation.steps", "=")
def test_any_value_is_taken_or_refused_with_a_sentence(name, text):
    said = None
    try:
        checked(Preset, merge({"name": "x"}, assigned_value(Preset, f"{name}={text}")), "here")
    except PresetError as error:
        said = str(error)
    assert said is None or name.partition(".")[0] in said


@settings(max_examples=100)
@given(st.text(max_size=60))
def test_any_assignment_and_any_yaml_ends_in_order(text):
    for attempt in (lambda: assigned_value(Preset, text), lambda: parse_yaml(text, "the text")):
        with suppress(PresetError):  # nothing else may come
            attempt()


FILES = [
    (b"training: {epochs: 0}", "training.epochs is 0"),
    (b"training: {epochs: 3", "is not YAML"),
    (b"- a\n- b", "not a mapping of sections"),
    (b"just text", "not a mapping of sections"),
    ("name: é".encode("latin-1"), "not a text file in UTF-8"),
    (b"\x00\x01", "not YAML"),
    (b"1: 2", "is no setting"),
    (b"training: 3\nmapper: {width: -1}", "training is 3"),
]


@pytest.mark.parametrize(("content", "said"), FILES)
def test_broken_files(tmp_path, content, said):
    path = tmp_path / "p.yaml"
    path.write_bytes(content)
    with pytest.raises(PresetError, match="(?s)" + said):
        load_preset(str(path))


def test_files_that_are_fine(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xef\xbb\xbftraining: {mixed_precision: no, learning_rate: 1e-4}\n")
    preset = load_preset(str(path))
    assert (preset.name, preset.training.mixed_precision, preset.training.learning_rate) == ("mine", "no", 1e-4)
    path.write_bytes(b"")
    assert load_preset(str(path)) == Preset("mine")


@pytest.mark.parametrize("name", ["nano", "no/such.yaml", "x" * 5000, "a\0.yaml"])
def test_unknown_preset_lists_the_known_ones(name):
    with pytest.raises(PresetError, match="micro, paper") as caught:
        load_preset(name)
    assert len(str(caught.value)) < 200


def test_several_faults_are_all_named():
    with pytest.raises(PresetError) as caught:
        load_preset("micro", ["training.epochs=0", "training.log_every=0"])
    assert len(str(caught.value).splitlines()) == 3


def test_the_same_bounds_read_a_mappers_file():
    good = dataclasses.asdict(load_preset("micro").mapper)
    assert checked(MapperConfig, good, "config.json") == load_preset("micro").mapper
    for wrong in ({"layers": 10**6}, {"width": -1}, {"width": "wide"}, {"heads": 0}, {"kind": "x"}, {"more": 1}):
        with pytest.raises(PresetError, match=f"config.json: .*{next(iter(wrong))}"):
            checked(MapperConfig, good | wrong, "config.json")


def test_what_is_registered_is_there():
    """A line of a registry is text, which nothing reads before a user asks for that part."""
    for registry, base in ((MAPPERS, Mapper), (FUSIONS, Fusion), (AUDIO_MODELS, AudioModelConfig)):
        assert all(issubclass(registry[name], base) for name in registry)
    for name in AUDIO_MODELS:
        assert load_part(AUDIO_MODELS[name].loader)


def test_the_section_of_audioldm2_may_stand_where_older_presets_have_it(tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text("audioldm2: {clap: {hidden_size: 8, projection_dim: 4}}")
    preset = load_preset(str(path), ["audioldm2.clap.projection_dim=5", "audio_models.audioldm2.vae.layers=1"])
    assert preset.audio.clap == {"hidden_size": 8, "projection_dim": 5}
    assert preset.audio.vae == {"layers": 1}
    assert preset.stages == ["cavp", "timechat", "audiomae", "flan_t5"]


def test_an_option_is_merged_over_a_preset(tmp_path):
    micro, fast = load_preset("micro"), load_preset("micro,fast")
    generation = dataclasses.asdict(fast.generation)
    changed = {name for name, value in dataclasses.asdict(micro.generation).items() if generation[name] != value}
    assert changed == {"scheduler", "steps"}
    # Only sampling: features and mappers of the preset are its own with the option too.
    assert dataclasses.replace(fast, generation=micro.generation) == micro
    assert load_preset("micro,fast", ["generation.steps=7"]).generation.steps == 7
    assert load_preset("micro, fast") == fast
    path = tmp_path / "mine, really.yaml"
    path.write_text("generation: {guidance_scale: 2}")
    mine = load_preset(f"{path},fast")
    assert (mine.name, mine.generation.guidance_scale) == ("mine, really", 2)
    assert mine.generation.steps == fast.generation.steps


def test_mfm_mapper_m_is_trained_for_100_epochs_and_is_the_same_otherwise():
    longer, paper = load_preset("paper,mfm-mapper-m").to_dict(), load_preset("paper").to_dict()
    assert (longer["training"].pop("epochs"), paper["training"].pop("epochs")) == (100, 40)
    assert longer == paper


@pytest.mark.parametrize("name", ["micro,slow", "micro,", "micro,fast,", "micro,../micro", "micro,fast\0"])
def test_unknown_options_list_the_known_ones(name):
    with pytest.raises(PresetError, match=r"unknown option .* of preset micro: there is fast"):
        load_preset(name)
    with pytest.raises(PresetError, match="unknown preset nano"):
        load_preset("nano,fast")


@pytest.mark.parametrize("name", available_presets())
@pytest.mark.parametrize("option", available_options())
def test_every_option_goes_with_every_preset_and_is_installed(name, option):
    assert load_preset(f"{name},{option}").name == name
    installed = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert any((HERE / "options" / f"{option}.yaml") in HERE.glob(pattern) for pattern in installed["presets"])


def test_the_published_v2a_mapper():
    preset = load_preset("v2a-mapper")
    assert (preset.stages, preset.tokens, preset.audio.labels) == (["clip", "clap"], (1, 512), None)
    assert preset.audio.negative == "prompt"
    assert preset.audio.unet["projection_class_embeddings_input_dim"] == preset.encoders.clap.dimension


def test_arguments_of_another_class_take_the_place_of_the_old_ones():
    base = {"vocoder": {"_class_name": "GriffinLim", "iterations": 24, "momentum": 0.99}}
    assert merge(base, {"vocoder": {"iterations": 8}})["vocoder"] == {**base["vocoder"], "iterations": 8}
    other = {"_class_name": "SpeechT5HifiGan", "model_in_dim": 64}
    assert merge(base, {"vocoder": other})["vocoder"] == other
    named = merge({"vocoder": {"model_in_dim": 64}}, {"vocoder": {"_class_name": "GriffinLim"}})
    assert named == {"vocoder": {"_class_name": "GriffinLim"}}
