"""Mixed precision and compilation, where the CPU can; several precisions need a fresh state of Accelerate each."""

import json

import pytest
import torch
from accelerate.state import AcceleratorState

from presets.config import PresetError
from tests.trainer.caches import write_cache
from tests.trainer.test_train import assert_same_weights, fit, weights


@pytest.fixture(autouse=True)
def _fresh_state():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def losses(run):
    return [json.loads(line)["train_loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_bfloat16_trains_and_resumes(tmp_path):
    store = write_cache(tmp_path / "cache")
    settings = ("training.epochs=3", "mapper.dropout=0.0")
    fit(store, tmp_path / "full", *settings)
    AcceleratorState._reset_state(reset_partial_state=True)
    half = (*settings, "training.mixed_precision=bf16")
    trainer, outcome = fit(store, tmp_path / "half", *half)
    assert trainer.accelerator.mixed_precision == "bf16"
    visual = {name: torch.randn(2, *trainer.data.shapes[name]) for name in trainer.encoders}
    with trainer.accelerator.autocast():  # it is not float32 under another name
        assert trainer.accelerator.unwrap_model(trainer.model).fusion(visual).dtype == torch.bfloat16
    assert all(tensor.dtype == torch.float32 for tensor in weights(tmp_path / "half").values())
    one, other = losses(tmp_path / "full"), losses(tmp_path / "half")
    assert one != other
    assert other == pytest.approx(one, rel=0.02)
    assert outcome.metrics["validation_free_running"] is not None
    fit(store, tmp_path / "parts", *half, "training.epochs=1")
    fit(store, tmp_path / "parts", *half)
    assert_same_weights(tmp_path / "half", tmp_path / "parts", atol=0, rtol=0)


def test_float16_on_a_cpu_is_said(tmp_path):
    store = write_cache(tmp_path / "cache")
    with pytest.raises(PresetError, match="fp16 needs a GPU, and this run is on the CPU: take bf16 or no"):
        fit(store, tmp_path / "run", "training.mixed_precision=fp16")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "diffusion"])
def test_a_compiled_mapper_trains_as_it_does_otherwise(tmp_path, kind):
    store = write_cache(tmp_path / "cache")
    settings = ("training.epochs=2", "mapper.dropout=0.0", f"mapper.kind={kind}", "mapper.sampling_steps=2")
    fit(store, tmp_path / "eager", *settings)
    torch._dynamo.utils.counters.clear()
    fit(store, tmp_path / "compiled", *settings, "training.compile=true")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "eager"), rel=1e-4)
    names = weights(tmp_path / "eager").keys()
    assert weights(tmp_path / "compiled").keys() == names
    _, outcome = fit(store, tmp_path / "compiled", *settings, "training.epochs=3")  # goes on without, too
    assert outcome.epochs_before == 2
