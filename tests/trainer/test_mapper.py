from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2Model

from common.errors import WeightsError
from presets import load_preset
from presets.config import MapperConfig
from tests.tiny import TINY
from trainer.gpt2 import initialise_gpt2
from trainer.initialise import initial_weights, initialise
from trainer.mapper import MapperSpec, error_per_clip
from trainer.registry import MFMMapper, build_mapper


def make_spec(**config):
    settings = {"layers": 2, "width": 24, "heads": 3, "max_positions": 80, "dropout": 0.0, **config}
    return MapperSpec(
        mapper=MapperConfig(**settings),
        dimensions={"cavp": 5, "timechat": 7},
        lengths={"cavp": 40, "timechat": 10},
        target=(8, 24),
    )


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return {"cavp": torch.randn(3, 40, 5), "timechat": torch.randn(3, 10, 7)}, torch.randn(3, 8, 24)


@pytest.fixture
def mapper():
    torch.manual_seed(1)
    return build_mapper(make_spec()).eval()


def test_loss_by_hand():
    target = torch.zeros(2, 8, 4)
    predicted = torch.zeros(2, 8, 4)
    predicted[0, 0] = torch.tensor([1.0, 2.0, 0.0, 0.0])  # ||.||^2 = 5, over 8 steps
    predicted[1, :, 0] = 3.0  # 9 at each of 8 steps
    assert error_per_clip(predicted, target).tolist() == [5 / 8, 9.0]
    assert error_per_clip(predicted, target, "l1").tolist() == [3 / 8, 3.0]


@pytest.mark.parametrize("fusion", ["concat", "add", "cat"])
@pytest.mark.parametrize("encoders", [["cavp", "timechat"], ["cavp"], ["timechat"]])
def test_shapes_and_gradients(fusion, encoders, batch):
    visual, target = batch
    mapper = build_mapper(make_spec(fusion=fusion, encoders=encoders))
    assert mapper.losses(visual, target).shape == (3,)
    mapper.loss(visual, target).backward()
    idle = [n for n, p in mapper.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []
    assert mapper.eval().predict(visual).shape == (3, 8, 24)


def test_teacher_forced_equals_free_running_on_its_own_outputs(mapper, batch):
    visual, _ = batch
    predicted = mapper.predict(visual)
    torch.testing.assert_close(mapper.teacher_forced(visual, predicted), predicted, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("error::FutureWarning")
def test_cached_prediction_equals_uncached(mapper, batch):
    visual, _ = batch
    torch.testing.assert_close(mapper.predict(visual), mapper.predict(visual, cached=False), atol=1e-5, rtol=1e-5)


def test_prediction_is_causal(mapper, batch):
    visual, target = batch
    changed = target.clone()
    changed[:, 4:] += torch.randn(3, 4, 24)
    before, after = mapper.teacher_forced(visual, target), mapper.teacher_forced(visual, changed)
    torch.testing.assert_close(before[:, :5], after[:, :5])  # c_5's inputs are c_1 .. c_4
    assert (before[:, 5:] - after[:, 5:]).norm(dim=-1).min() > 1e-3


def test_save_and_load(mapper, batch, tmp_path):
    visual, _ = batch
    mapper.save_pretrained(tmp_path)
    loaded = MFMMapper.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.predict(visual), mapper.predict(visual), atol=0, rtol=0)
    assert loaded.spec == mapper.spec
    (tmp_path / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(WeightsError, match=r"model\.safetensors is damaged"):
        MFMMapper.from_pretrained(tmp_path)
    (tmp_path / "SHA256SUMS").unlink()  # as mappers of earlier versions are: still no traceback
    with pytest.raises(WeightsError, match="cannot be read"):
        MFMMapper.from_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="no trained mapper"):
        MFMMapper.from_pretrained(tmp_path / "other")


def test_width_must_be_the_targets():
    with pytest.raises(WeightsError, match="width is 48"):
        build_mapper(make_spec(width=48))


@pytest.mark.parametrize("layout", ["diffusers", "original", "plain"])
def test_initial_weights_from_every_layout(layout, mapper, tmp_path):
    config = GPT2Config(vocab_size=11, n_positions=80, n_embd=24, n_layer=2, n_head=3, bos_token_id=0, eos_token_id=0)
    source = GPT2Model(config)
    state = {name: tensor.contiguous() for name, tensor in source.state_dict().items()}
    if layout == "diffusers":
        source.save_pretrained(tmp_path / "language_model")
        path = tmp_path / "language_model"
    elif layout == "original":
        path = tmp_path / "audioldm2-full.pth"
        nested = {f"cond_stage_models.0.model.{name}": tensor for name, tensor in state.items()}
        torch.save({"state_dict": {**nested, "model.diffusion_model.x": torch.zeros(1)}}, path)
    else:
        path = tmp_path / "gpt2.safetensors"
        save_file({f"transformer.{name}": tensor for name, tensor in state.items()}, path)
    initialise_gpt2(mapper.gpt2, str(path))
    for name, tensor in mapper.gpt2.state_dict().items():
        if name != "wte.weight":
            assert torch.equal(tensor, state[name]), name


def test_initial_weights_that_do_not_fit(mapper, tmp_path):
    with pytest.raises(WeightsError, match="does not exist"):
        initialise_gpt2(mapper.gpt2, str(tmp_path / "gpt2.safetensors"))
    save_file({"ln_f.weight": torch.zeros(24), "wpe.weight": torch.zeros(5, 24)}, tmp_path / "gpt2.safetensors")
    with pytest.raises(WeightsError) as caught:
        initialise_gpt2(mapper.gpt2, str(tmp_path / "gpt2.safetensors"))
    assert "h.0.ln_1.weight" in str(caught.value)
    assert "wpe.weight: (5, 24) instead of (80, 24)" in str(caught.value)


@pytest.mark.parametrize("fusion", ["concat", "add", "cat"])
@pytest.mark.parametrize("encoders", [["cavp", "timechat"], ["cavp"], ["timechat"]])
def test_diffusion_shapes_and_gradients(fusion, encoders, batch):
    visual, target = batch
    mapper = build_mapper(make_spec(kind="diffusion", fusion=fusion, encoders=encoders, sampling_steps=3))
    assert mapper.losses(visual, target).shape == (3,)
    mapper.loss(visual, target).backward()
    assert [n for n, p in mapper.named_parameters() if p.requires_grad and p.grad is None] == []
    assert mapper.eval().predict(visual).shape == (3, 8, 24)


def test_diffusion_sampling_is_ddpm(batch):
    """One clip against diffusers' own loop with the same random numbers; and no clip depends on its batch."""
    torch.manual_seed(2)
    visual, _ = batch
    mapper = build_mapper(make_spec(kind="diffusion", sampling_steps=5)).eval()
    one = {name: stream[:1] for name, stream in visual.items()}
    generator = torch.Generator().manual_seed(0)
    scheduler = DDPMScheduler.from_config(mapper.scheduler.config)
    scheduler.set_timesteps(5)
    latents = torch.randn((1, 8, 24), generator=generator)
    with torch.no_grad():
        for time in scheduler.timesteps:
            predicted = mapper.denoise(one, latents, time.expand(1))
            latents = scheduler.step(predicted, time, latents, generator=generator).prev_sample
    torch.testing.assert_close(mapper.predict(one), latents, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mapper.predict(visual)[:1], mapper.predict(one), atol=1e-4, rtol=1e-4)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="gpt2"):
        make_spec(kind="transformer")
    with pytest.raises(ValueError, match="concat"):
        make_spec(fusion="multiply")


def test_a_whole_mapper_to_go_on_from(mapper, tmp_path):
    known = {
        "encoders": {"cavp": "one", "audiomae": "two"},
        "encoder_configs": {"cavp": {"width": 8, "precision": "float32"}, "audiomae": {"pool": 8}},
        "media": {"resize": "antialiased", "backend": "decord"},
    }
    trained = build_mapper(replace(mapper.spec, provenance=known))
    trained.save_pretrained(tmp_path / "mapper")
    here = mapper.spec
    mapper.spec = replace(
        here,
        provenance={
            "encoders": known["encoders"],
            "encoder_configs": {"cavp": {"width": 8, "precision": "bfloat16", "blocks": [3, 4, 6, 3]}},
            "media": {**known["media"], "backend": "pyav"},
        },
    )
    initialise(mapper, str(tmp_path / "mapper"))
    for name, tensor in mapper.state_dict().items():
        assert torch.equal(tensor, trained.state_dict()[name]), name
    for change, message in (
        ({"encoders": {"cavp": "one", "audiomae": "another"}}, "weights of audiomae: two there, another here"),
        ({"encoder_configs": {"audiomae": {"pool": 4}}}, r"encoders\.audiomae\.pool: 8 there, 4 here"),
        ({"media": {"resize": "swscale"}}, r"media\.resize: antialiased there, swscale here"),
    ):
        mapper.spec = replace(here, provenance={**known, **change})
        with pytest.raises(WeightsError, match=message):
            initialise(mapper, str(tmp_path / "mapper"))
    mapper.spec = replace(here, mapper=replace(here.mapper, fusion="add"))
    with pytest.raises(WeightsError, match="has fusion concat, this run add"):
        initialise(mapper, str(tmp_path / "mapper"))
    (tmp_path / "mapper" / "SHA256SUMS").unlink()
    (tmp_path / "mapper" / "config.json").write_text('{"mapper": {')
    with pytest.raises(WeightsError, match="does not describe a mapper"):
        initialise(mapper, str(tmp_path / "mapper"))


def test_only_shipped_weights_ship_a_mapper():
    shipped = load_preset("micro", ["mapper.initialise=shipped"])
    assert (Path(initial_weights(shipped)) / "model.safetensors").is_file()
    with pytest.raises(WeightsError, match="no mapper ships with the preset tiny"):
        initial_weights(load_preset(TINY, ["mapper.initialise=shipped"]))
