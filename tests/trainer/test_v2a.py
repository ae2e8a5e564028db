"""V2A-Mapper: it learns, its noise is a clip's own, and its settings do what they say."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file

from common.errors import PresetError, WeightsError
from generate.sampling import Sampler
from presets import load_preset
from presets.config import MapperConfig
from tests.tiny import TINY
from tests.trainer.caches import write_cache
from trainer.initialise import initialise
from trainer.mapper import MapperSpec
from trainer.registry import MFMMapper, build_mapper, trained_parameters
from trainer.train import Trainer

PUBLISHED = 48.83e6  # Table 1 of the paper


def make_spec(target=(1, 16), statistics=None, **settings):
    config = {"kind": "v2a", "encoders": ["cavp"], "layers": 1, "width": 32, "heads": 4, "dropout": 0.0}
    return MapperSpec(
        MapperConfig(**{**config, "sampling_steps": 5, **settings}),
        dimensions={"cavp": 8, "timechat": 6},
        lengths={"cavp": 40, "timechat": 10},
        target=target,
        statistics={"mean": 0.0, "std": target[1] ** -0.5} if statistics is None else statistics,
    )


def make_mapper(seed=0, **settings):
    torch.manual_seed(seed)
    return build_mapper(make_spec(**settings)).eval()


@pytest.fixture
def visual():
    torch.manual_seed(1)
    return {"cavp": torch.randn(4, 40, 8), "timechat": torch.randn(4, 10, 6)}


def toy(count, generator, mixing):
    """Unit vectors that follow from the mean over time of frames that tremble about it."""
    mean = torch.randn(count, 1, 8, generator=generator)
    frames = mean + 0.1 * torch.randn(count, 40, 8, generator=generator)
    return {"cavp": frames}, torch.nn.functional.normalize(torch.tanh(mean @ mixing), dim=-1)


@pytest.mark.parametrize(("variant", "steps"), [("diffusion", 160), ("regression", 60)])
def test_the_loss_falls_and_predictions_are_right(variant, steps):
    mapper = make_mapper(options={"variant": variant}, sampling_steps=10).train()
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(8, 16, generator=generator)
    optimizer = torch.optim.AdamW(mapper.parameters(), 5e-3)
    losses = []
    for _ in range(steps):
        loss = mapper.loss(*toy(64, generator, mixing))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.3 * sum(losses[:10])
    frames, target = toy(128, generator, mixing)
    predicted = mapper.eval().predict(frames)
    shuffled = mapper.predict({"cavp": frames["cavp"].roll(1, 0)})
    assert torch.cosine_similarity(predicted, target, dim=-1).mean() > 0.9
    assert torch.cosine_similarity(shuffled, target, dim=-1).mean() < 0.3
    torch.testing.assert_close(predicted.norm(dim=-1), torch.ones(128, 1))


@pytest.mark.parametrize("variant", ["diffusion", "regression"])
@pytest.mark.parametrize("target", [(1, 16), (3, 32)])
def test_shapes_and_every_parameter_is_trained_in_every_step(visual, variant, target):
    """What a step leaves without a gradient would stop a training of several processes."""
    names, options = ["cavp", "timechat"], {"variant": variant, "condition_dropout": 0.0}
    mapper = make_mapper(target=target, encoders=names, options=options, statistics={"mean": 1.0, "std": 2.0}).train()
    losses = mapper.losses(visual, torch.randn(4, *target))
    assert losses.shape == (4,)
    losses.mean().backward()
    assert [name for name, parameter in mapper.named_parameters() if parameter.grad is None] == []
    predicted = mapper.eval().predict(visual)
    assert predicted.shape == (4, *target)
    assert (predicted.norm(dim=-1) - 1).abs().max() > 0.1  # such targets are not of unit length


def test_sampling_is_that_of_diffusers(visual):
    mapper = make_mapper()
    scheduler = DDIMScheduler.from_config(mapper.scheduler.config)
    scheduler.set_timesteps(5)
    assert scheduler.timesteps[0] == 999
    latents = torch.randn((1, 16), generator=torch.Generator().manual_seed(7)).expand(4, -1, -1)
    with torch.no_grad():
        for time in scheduler.timesteps:
            clean = mapper.denoise(mapper.embedding(visual), latents, time.expand(4))
            latents = scheduler.step(clean, time, latents).prev_sample
    wanted = torch.nn.functional.normalize(latents, dim=-1)
    torch.testing.assert_close(mapper.sample(visual, [7] * 4), wanted, atol=1e-5, rtol=1e-5)


def test_guidance(visual):
    """With one step of the sampler: at 1 the picture's own prediction, at 0 that without one, beyond it a line."""
    settings = {"sampling_steps": 1, "statistics": {"mean": 0.0, "std": 1.0}}
    made = {scale: make_mapper(options={"guidance_scale": scale}, **settings).predict(visual) for scale in (0, 1, 3)}
    torch.testing.assert_close(made[1], make_mapper(**settings).predict(visual), atol=0, rtol=0)
    torch.testing.assert_close(made[0], made[0][:1].expand(4, -1, -1), atol=1e-6, rtol=1e-6)
    assert (made[1] - made[0]).abs().max() > 0.01
    torch.testing.assert_close(made[3], made[0] + 3 * (made[1] - made[0]), atol=1e-5, rtol=1e-5)
    other = make_mapper(options={"guidance_scale": 0}, **settings)
    other.predict_with({"guidance_scale": 3.0})
    torch.testing.assert_close(other.predict(visual), made[3], atol=0, rtol=0)
    with pytest.raises(PresetError, match=r"mapper_options has variant, .* it can have guidance_scale"):
        other.predict_with({"variant": "regression"})
    for options in ({"variant": "regression"}, {"condition_dropout": 0.0}):
        with pytest.raises(PresetError, match=r"mapper\.options\.guidance_scale is 2, and must be 1"):
            make_mapper(options={"guidance_scale": 2, **options})


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_condition_dropout_hides_the_picture(visual, share):
    mapper = make_mapper(options={"condition_dropout": share}).train()
    many = {"cavp": visual["cavp"][:1].repeat(400, 1, 1).requires_grad_()}
    torch.manual_seed(3)
    mapper.losses(many, torch.zeros(400, 1, 16)).sum().backward()
    seen = many["cavp"].grad.abs().sum(dim=(1, 2)) > 0
    assert float(seen.float().mean()) == pytest.approx(1 - share, abs=0.08 if share == 0.5 else 0)
    mapper.eval()  # validation sees every picture
    many["cavp"].grad = None
    mapper.losses(many, torch.zeros(400, 1, 16)).sum().backward()
    assert bool((many["cavp"].grad.abs().sum(dim=(1, 2)) > 0).all())


def test_a_clip_depends_on_its_picture_and_seed_alone(visual):
    mapper, seeds = make_mapper(options={"guidance_scale": 2.0}), [5, 6, 7, 5]
    together = mapper.sample(visual, seeds)
    backwards = mapper.sample({name: array.flip(0) for name, array in visual.items()}, seeds[::-1]).flip(0)
    torch.testing.assert_close(together, backwards, atol=1e-5, rtol=1e-5)
    for row in range(4):
        alone = mapper.sample({name: array[row : row + 1] for name, array in visual.items()}, seeds[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)
    same = {name: array[:1].expand(4, -1, -1) for name, array in visual.items()}
    made = mapper.sample(same, seeds)
    torch.testing.assert_close(made[0], made[3], atol=1e-6, rtol=1e-6)
    assert (made[0] - made[1]).abs().max() > 0.01


def test_generation_draws_a_clip_s_noise_from_its_name(visual):
    preset, model = load_preset(TINY), SimpleNamespace(device=torch.device("cpu"))
    sampler = Sampler(make_mapper(), model, preset, "")
    same = {name: array[:1].expand(3, -1, -1) for name, array in visual.items()}
    one, other, again = sampler.predict(same, ["one", "other", "one"])
    torch.testing.assert_close(one, again, atol=1e-6, rtol=1e-6)
    assert (one - other).abs().max() > 0.01


def test_the_size_of_the_picture_s_features_is_nothing_to_it(visual):
    mapper = make_mapper()
    loud = {name: 30 * array for name, array in visual.items()}
    torch.testing.assert_close(mapper.predict(loud), mapper.predict(visual), atol=1e-4, rtol=1e-4)


def test_saved_and_loaded(visual, tmp_path):
    mapper = make_mapper(options={"guidance_scale": 2.0}, head_width=10)
    mapper.save_pretrained(tmp_path)
    loaded = MFMMapper.from_pretrained(tmp_path)
    assert loaded.spec == mapper.spec
    torch.testing.assert_close(loaded.predict(visual), mapper.predict(visual), atol=1e-6, rtol=1e-5)
    assert "| mapper | v2a, 1 layers, width 32 |" in (tmp_path / "README.md").read_text()


def test_going_on_from_one_with_other_options(tmp_path):
    make_mapper(options={"condition_dropout": 0.2}).save_pretrained(tmp_path)
    on = make_mapper(1, options={"condition_dropout": 0.2, "guidance_scale": 3.0, "variant": "diffusion"})
    initialise(on, str(tmp_path))  # guidance is for prediction alone, and a default may be written out
    saved = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(on.state_dict()[name], tensor) for name, tensor in saved.items())
    for options, message in (
        ({}, r"condition_dropout: 0\.2 there, 0\.1 here"),
        ({"variant": "regression"}, "variant: diffusion there, regression here"),
    ):
        with pytest.raises(WeightsError, match=rf"other options .*mapper\.options\.{message}"):
            initialise(make_mapper(options=options), str(tmp_path))


def test_training_goes_on_as_if_unbroken_and_generation_finds_it(tmp_path):
    store = write_cache(tmp_path / "cache")
    settings = ["mapper.kind=v2a", "mapper.encoders=[cavp]", "mapper.layers=1", "mapper.sampling_steps=3"]

    def fit(run, epochs):
        preset = load_preset(TINY, [*settings, f"training.epochs={epochs}"])
        return Trainer(preset, store, tmp_path / run, "cpu").fit()

    whole = fit("whole", 2)
    assert fit("parts", 1).epochs_now == 1
    assert fit("parts", 2).epochs_before == 1
    states = [load_file(tmp_path / run / "mapper" / "model.safetensors") for run in ("whole", "parts")]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert {"validation_loss", "validation_free_running", "validation_cosine"} <= set(whole.metrics)
    assert MFMMapper.from_pretrained(tmp_path / "whole").spec.mapper.kind == "v2a"


def test_the_published_size():
    """12 layers of width 512, 12 heads of 64: 48.76 M of the 48.83 M of Table 1; no weight takes memory."""
    diffusion = trained_parameters(load_preset("v2a-mapper"))
    regression = trained_parameters(load_preset("v2a-mapper", ["mapper.options={variant: regression}"]))
    assert diffusion == 48_760_320
    assert diffusion == pytest.approx(PUBLISHED, rel=2e-3)
    # A row for each time step, and the embedding of no picture.
    assert diffusion - regression == 1000 * 512 + 512


def test_parameters_are_counted_from_a_preset(tmp_path):
    preset = load_preset(TINY)
    trainer = Trainer(preset, write_cache(tmp_path / "cache"), tmp_path / "run", "cpu")
    assert trained_parameters(preset) == trainer.parameters
    assert trained_parameters(load_preset("paper")) == pytest.approx(86.8e6, rel=0.01)


def test_widths_of_heads_that_cannot_be():
    with pytest.raises(PresetError, match=r"mapper\.head_width is 5, and must be even"):
        build_mapper(make_spec(head_width=5))
    for settings in ({"head_width": 5}, {"heads": 5, "head_width": 8}):
        with pytest.raises(PresetError, match=r"mapper\.head_width is .*must be null"):
            build_mapper(make_spec(kind="gpt2", target=(8, 32), **settings))
