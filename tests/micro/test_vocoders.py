"""HiFi-GAN-micro trains, goes on, is exported, is loaded and sounds; and it is compared with Griffin-Lim."""

import json

import pytest
import torch
from diffusers import AutoencoderKL

from common.errors import WeightsError
from generate.audioldm2_loader import load_audioldm2
from micro import hifigan
from micro.data import keep_in
from micro.fit import Fit, Machine
from micro.models import MicroModels, Steps
from micro.vocoder import GriffinLim
from micro.vocoders import GRIFFIN_LIM, RESTORED, TRAINED, TRUE, TRUTH, compare, cpu_seconds, table, write_comparison
from presets import load_preset

# Small enough for a test: as many upsampling stages, few channels.
TINY = (
    "audio_models.audioldm2.vocoder={_class_name: SpeechT5HifiGan, model_in_dim: 64, sampling_rate: 16000, "
    "upsample_initial_channel: 32, "
    "upsample_rates: [5, 4, 4, 2], upsample_kernel_sizes: [11, 8, 8, 4], resblock_kernel_sizes: [3], "
    "resblock_dilation_sizes: [[1]], normalize_before: true}"
)
SEEDED = "weights.source=seeded"
TRAINING = {"_CLIPS": 16, "_VALIDATION": 2, "_VALIDATION_FRAMES": 32, "_CROP": 16, "_CONTEXT": 8}


@pytest.fixture(scope="module", autouse=True)
def few_sounds():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in TRAINING.items():
            patch.setattr(hifigan, name, value)
        yield
    keep_in(None)  # MicroModels says where scenes are kept, for the whole process


@pytest.fixture(scope="module")
def vae():
    folder = load_preset("micro").weights.path / "audioldm2" / "vae"
    return AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32)


def train(folder, vae, steps=3, **options):
    return hifigan.train_hifigan(load_preset("micro", [SEEDED, TINY]), folder, vae, steps, Machine(), 4, **options)


def test_a_stopped_training_goes_on_to_the_same_weights_through_the_discriminators_entry(tmp_path, vae, monkeypatch):
    run = Fit.run
    monkeypatch.setattr(Fit, "run", lambda self, module, step, held_out: run(self, module, step, held_out, every=1))
    whole = train(tmp_path / "whole", vae)
    monkeypatch.setattr(Fit, "until", 2)
    train(tmp_path / "halves", vae)
    monkeypatch.setattr(Fit, "until", None)
    halves = train(tmp_path / "halves", vae)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, halves.state_dict()[name]), name
    lines = [json.loads(line) for line in (tmp_path / "whole" / "vocoder.jsonl").read_text().splitlines()]
    assert ["judge" in line for line in lines] == [False, True, True]
    assert {"held_out_mel", "held_out_spectral"} <= set(lines[-1])
    saved = type(whole).from_pretrained(tmp_path / "whole" / "vocoder")
    mel = torch.randn(1, 16, 64) - 6
    assert torch.allclose(saved(mel), whole(mel), atol=1e-6)
    train(tmp_path / "alone", None, 1, adversarial=False)
    assert "judge" not in (tmp_path / "alone" / "vocoder.jsonl").read_text()


def test_each_loss_reaches_the_weights_of_one_side_only():
    torch.manual_seed(0)
    sizes = load_preset("micro", [SEEDED, TINY]).audio_models.audioldm2.vocoder
    training = hifigan.HifiGanTraining(sizes)
    true = 0.1 * torch.randn(2, 2560)
    made = training.generator(torch.randn(2, 16, 64))
    values = training._judge(made, true)
    for loss, with_gradient, without in (
        (values["judge"], training.discriminator, training.generator),
        (values["fooled"] + values["features"], training.generator, training.discriminator),
    ):
        training.zero_grad(set_to_none=True)
        loss.backward(retain_graph=True)
        assert all(weight.grad is not None and weight.grad.any() for weight in with_gradient.parameters())
        assert all(weight.grad is None for weight in without.parameters())


def test_bfloat16_and_float32_are_the_same_losses_but_for_rounding(vae):
    training = hifigan.HifiGanTraining(load_preset("micro", [SEEDED, TINY]).audio_models.audioldm2.vocoder)
    losses = []
    for half in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            crops = hifigan._Crops(vae, hifigan.LogMel(), "cpu").draw(torch.arange(4))
            losses.append(training(*crops, hifigan.LogMel(), True))
    assert {value.dtype for value in losses[1].values()} == {torch.float32}
    for name, value in losses[0].items():
        assert float(losses[1][name].detach()) == pytest.approx(float(value.detach()), rel=0.1), name


def test_a_batch_has_true_and_restored_mels_of_the_sounds_it_has(vae, monkeypatch):
    monkeypatch.setattr(hifigan, "_CROP", 48)
    monkeypatch.setattr(hifigan, "_CONTEXT", 40)  # as in training: with less, the VAE does not restore silence
    torch.manual_seed(0)
    crops = hifigan._Crops(vae, hifigan.LogMel(), "cpu")
    mel, true, target = crops.draw(torch.arange(16))
    assert (mel.shape, true.shape, target.shape) == ((16, 48, 64), (16, 48 * 160), (16, 48, 64))
    inner = slice(4, -4)  # further in than a window reaches over the edge
    assert torch.equal(mel[:8, inner], target[:8, inner])
    error = (mel[8:] - target[8:]).abs().mean()
    assert 0.01 < error < 1, "restored: near the true one, and not it"


def test_the_sizes_that_train_are_within_the_bounds():
    generator = hifigan.HifiGanTraining(hifigan.SIZES).generator
    assert 2 * sum(weight.numel() for weight in generator.state_dict().values()) <= 1.5e6
    assert generator(torch.zeros(1, 7, 64)).shape == (1, 7 * 160)


class Parts(MicroModels):
    """The stage of the vocoder alone: its mels are true ones."""

    vae = None


@pytest.mark.parametrize(("setting", "kind"), [(TINY, "SpeechT5HifiGan"), (None, "GriffinLim")])
def test_what_the_preset_names_is_exported_loaded_and_sounds(tmp_path, setting, kind):
    """Into a copy of what ships that holds the other kind."""
    shipped = load_preset("micro").weights.path / "audioldm2"
    target = tmp_path / "weights" / "audioldm2"
    for part in shipped.iterdir():
        if part.name != "vocoder":
            target.mkdir(parents=True, exist_ok=True)
            (target / part.name).symlink_to(part)
    griffin_lim = "audio_models.audioldm2.vocoder={_class_name: GriffinLim, iterations: 3}"
    preset = load_preset("micro", [SEEDED, setting or griffin_lim])
    other = GriffinLim() if setting else hifigan.HifiGanTraining(hifigan.SIZES).generator
    other.save_pretrained(target / "vocoder")
    Parts(preset, tmp_path / "training", Steps(vocoder=1)).save_vocoder(target / "vocoder")
    files = {path.name for path in (target / "vocoder").iterdir()}
    assert files == ({"config.json", "model.safetensors"} if setting else {"config.json"})
    loaded = load_audioldm2(load_preset("micro", ["weights.source=official", f"weights.folder={tmp_path / 'weights'}"]))
    assert type(loaded.vocoder).__name__ == kind
    assert loaded.sample_rate == 16_000
    sound = loaded.decode(torch.randn(1, 8, 16, 8), 20_000)  # 1.25 s
    assert sound.shape == (1, 20_000)
    assert sound.isfinite().all()
    assert sound.std() > 0


@pytest.mark.slow
def test_both_are_compared_and_the_table_says_so(tmp_path):
    folder = tmp_path / "vocoder"
    torch.manual_seed(0)
    sizes = load_preset("micro", [SEEDED, TINY]).audio_models.audioldm2.vocoder
    hifigan.HifiGanTraining(sizes).generator.save_pretrained(folder)
    few = "audio_models.audioldm2.vocoder={_class_name: GriffinLim, iterations: 2}"
    results = compare(load_preset("micro", [few]), folder, clips=7, rounds=1)
    figures = {(row["vocoder"], row["mels"]): row for row in results["rows"]}
    assert set(figures) == {(TRUTH, "no"), *((v, m) for v in (GRIFFIN_LIM, TRAINED) for m in (TRUE, RESTORED))}
    truth, simple, untrained = figures[TRUTH, "no"], figures[GRIFFIN_LIM, TRUE], figures[TRAINED, TRUE]
    assert truth["spectral_distance"] == truth["mel_error"] == 0
    assert 0 < simple["spectral_distance"] < untrained["spectral_distance"]
    assert 0 < simple["mel_error"] < figures[GRIFFIN_LIM, RESTORED]["mel_error"]
    assert truth["class_accuracy"] > untrained["class_accuracy"]
    assert truth["onset_f1"] > untrained["onset_f1"]
    misheard = sum(len(others) for others in untrained["misheard"].values())
    assert misheard == round(7 * (1 - untrained["class_accuracy"]))
    assert all(seconds > 0 for seconds in results["cpu_seconds"].values())
    page = write_comparison(results, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "vocoders.json").read_text())["clips"] == 7
    assert f"| {TRAINED} | {RESTORED} |" in page.read_text()
    assert table(results).count("\n| ") == 6


def test_what_is_no_hifigan_is_refused(tmp_path):
    GriffinLim().save_pretrained(tmp_path / "simple")
    with pytest.raises(WeightsError, match="simple holds GriffinLim, not HiFi-GAN"):
        compare(load_preset("micro"), tmp_path / "simple")
    with pytest.raises(WeightsError, match="nowhere cannot be loaded"):
        compare(load_preset("micro"), tmp_path / "nowhere")


def test_a_round_is_every_vocoder_once_after_one_to_warm_up():
    order = []
    seconds = cpu_seconds({name: lambda _, name=name: order.append(name) for name in "ab"}, torch.zeros(1), 3)
    assert order == ["a", "b"] * 4
    assert set(seconds) == {"a", "b"}
