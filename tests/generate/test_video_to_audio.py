"""``VideoToAudio`` from Python: what a call can choose, and what it says of values that cannot be."""

import inspect
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.errors import ClipError, InputError, PresetError, WeightsError
from generate.video_to_audio import Choices, VideoToAudio
from presets import load_preset
from tests.media_factory import make_media
from tests.tiny import TINY

RATE = 16_000


@pytest.fixture(scope="module")
def model(run_folder):
    preset = load_preset(TINY, ["generation.steps=1", "generation.batch=2", "media.frame_size=56"])
    return VideoToAudio.from_pretrained(run_folder, preset)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """25 s whose brightness tells the second."""
    values = [second * 10 for second in range(25) for _ in range(4)]
    return make_media(tmp_path_factory.mktemp("film") / "film.mp4", seconds=25, fps=4, audio=None, values=values)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_media(tmp_path_factory.mktemp("clip") / "clip.mp4", seconds=1)


@pytest.fixture(scope="module")
def plain(model, clip):
    return model.best(clip)


class TestChoices:
    def test_without_any_it_is_the_presets(self, model, clip, plain):
        waveform, rate = model(clip, "", seed=0, candidates=1, steps=1, guidance_scale=3.5, scheduler="DDIMScheduler")
        assert rate == RATE
        np.testing.assert_array_equal(waveform, plain.waveform)
        assert (waveform.dtype, waveform.shape) == (np.float32, (RATE,))
        assert (plain.tokens.dtype, plain.tokens.shape) == (np.float32, (1, 8, 96))
        assert (plain.seed, plain.score) == (0, 0.0)

    @pytest.mark.parametrize(
        "choice",
        [
            {"seed": 3},
            {"steps": 2},
            {"guidance_scale": 1.0},
            {"negative_prompt": "silence"},
            {"scheduler": "EulerDiscreteScheduler"},
        ],
        ids=lambda choice: next(iter(choice)),
    )
    def test_each_changes_the_sound_of_its_call_alone(self, model, clip, plain, choice):
        assert np.abs(model(clip, **choice)[0] - plain.waveform).max() > 1e-3
        np.testing.assert_array_equal(model(clip)[0], plain.waveform)

    def test_the_label_too(self, model, clip, plain):
        assert np.abs(model(clip, "dog barking")[0] - plain.waveform).max() > 1e-3

    def test_candidates_count_on_from_the_seed_and_the_best_is_kept(self, model, clip):
        progress = []
        best = model.best(clip, seed=5, candidates=2, on_window=lambda *how: progress.append(how))
        assert best.seed in (5, 6)
        assert best.score != 0.0
        assert progress == [(1.0, 2, "candidate 1 of 2, window 1 of 1"), (2.0, 2, "candidate 2 of 2, window 1 of 1")]
        np.testing.assert_array_equal(best.waveform, model(clip, seed=best.seed)[0])

    def test_a_choice_that_there_is_not(self, model, clip):
        with pytest.raises(TypeError, match="guidance: there are seed"):
            model(clip, guidance=3.0)

    def test_what_is_documented_is_taken(self):
        assert set(Choices.__annotations__) == {
            "seed", "candidates", "negative_prompt", "steps", "guidance_scale", "scheduler", "start", "duration",
            "on_window",
        }  # fmt: skip
        assert all(name in inspect.getdoc(Choices) for name in ("candidates", "start", "duration", "on_window"))


class TestAPart:
    def looked_at(self, monkeypatch):
        from generate import video_to_audio

        seen, decode = [], video_to_audio.decode_killable

        def watched(path, media, **options):
            decoded = decode(path, media, **options)
            seen.append((options["start"], decoded.frames[0].mean()))
            return decoded

        monkeypatch.setattr(video_to_audio, "decode_killable", watched)
        return seen

    def test_it_is_as_long_as_asked_and_begins_there(self, model, film, monkeypatch):
        seen = self.looked_at(monkeypatch)
        waveform, rate = model(film, start=7, duration=2.5)
        assert len(waveform) == 2.5 * rate
        (start, brightness), = seen  # fmt: skip
        assert start == 7
        assert brightness == pytest.approx(70, abs=3)

    def test_to_the_end_in_windows(self, model, film, monkeypatch):
        seen = self.looked_at(monkeypatch)
        best = model.best(film, start=12.5)
        assert len(best.waveform) == pytest.approx(12.5 * RATE, abs=RATE / 8)
        assert [start for start, _ in seen] == [12.5, 20.5]
        assert best.tokens.shape == (2, 8, 96)

    def test_longer_than_the_film(self, model, film):
        assert len(model(film, start=24, duration=100)[0]) == pytest.approx(RATE, abs=RATE / 8)

    def test_after_its_end(self, model, film):
        with pytest.raises(InputError, match=r"start is 25.5 s, and .*film.mp4 has only 25"):
            model(film, start=25.5)


class TestValuesThatCannotBe:
    @pytest.mark.parametrize(
        ("choice", "says"),
        [
            ({"steps": 0}, "steps is 0, and must be a whole number of at least 1"),
            ({"steps": 10_000}, "steps is 10000, and must be a whole number from 1 to 999"),
            ({"steps": 1.5}, "steps is 1.5"),
            ({"guidance_scale": -1}, "guidance_scale is -1"),
            ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
            ({"seed": -1}, "seed is -1"),
            ({"seed": True}, "seed is true"),
            ({"negative_prompt": 5}, "negative_prompt is 5, and must be text"),
            ({"scheduler": "Dream"}, "scheduler: diffusers has no scheduler 'Dream'"),
            ({"candidates": 0}, "at least one"),
            ({"candidates": True}, "at least one"),
            ({"start": -1}, "start is -1, and must be a number of seconds"),
            ({"start": float("inf")}, "start is inf"),
            ({"duration": 0}, "duration is 0, and must be a number of seconds, more than 0"),
            ({"duration": "5"}, "duration is '5'"),
            ({"label": None}, "label is None, and must be text"),
            ({"label": "caf\udce9"}, r"label is 'caf\udce9', which is not UTF-8"),
            ({"negative_prompt": "caf\udce9"}, r"negative_prompt is 'caf\udce9', and must be text"),
        ],
        ids=str,
    )
    def test_each_is_named_before_the_film_is_looked_at(self, model, choice, says):
        with pytest.raises((InputError, PresetError)) as error:
            model("no.mp4", **choice)
        assert says in str(error.value)
        assert not isinstance(error.value, ClipError)

    def test_a_film_that_is_not_there(self, model):
        with pytest.raises(ClipError, match=r"no.mp4 does not exist"):
            model("no.mp4")


class TestMapper:
    def test_none_is_the_one_that_ships(self):
        model = VideoToAudio.from_pretrained()
        assert model.sampler.mapper.spec.provenance["preset"] == "micro"

    @pytest.mark.parametrize("preset", [TINY, "paper"])
    def test_where_none_ships_it_says_how_to_get_one(self, preset):
        with pytest.raises(WeightsError, match="no trained mapper ships with the preset") as error:
            VideoToAudio.from_pretrained(preset=preset)
        assert all(word in str(error.value) for word in ("make train", "folder", "hub", "--run"))

    def test_a_run_or_the_mapper_in_it(self, model, run_folder):
        there = VideoToAudio.from_pretrained(run_folder / "mapper", model.sampler.preset)
        assert there.sampler.mapper_fingerprint == model.sampler.mapper_fingerprint

    def test_a_folder_that_is_not_there_is_no_hub_id_where_its_parent_is(self, tmp_path, monkeypatch):
        (tmp_path / "runs").mkdir()
        monkeypatch.chdir(tmp_path)
        with pytest.raises(WeightsError, match=r"no trained mapper in runs/mine"):
            VideoToAudio.from_pretrained("runs/mine")


@pytest.mark.parametrize(("rate", "heard"), [(None, 16_000), (48_000, 48_000)])
def test_the_sound_is_judged_at_the_rate_that_the_target_s_encoder_hears(rate, heard):
    """CLAP hears 48 kHz, whatever the model makes and the preset decodes."""
    made = SimpleNamespace(audio_model=SimpleNamespace(sample_rate=8_000), preset=load_preset(TINY))
    model, shapes = VideoToAudio(SimpleNamespace(preset=made.preset, check_encoders=lambda made: None), {}), []
    model.sampler = made
    model._judge = SimpleNamespace(
        config=SimpleNamespace(sample_rate=rate), encode=lambda sound: shapes.append(sound.shape) or torch.ones(2, 1, 4)
    )
    cosines = model.cosines(np.zeros((2, 8_000), np.float32), torch.ones(2, 1, 4))
    assert shapes == [(2, heard)]
    torch.testing.assert_close(cosines, torch.ones(2, 1))
