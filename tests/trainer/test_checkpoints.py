"""Checkpoints: exact, whole or absent, and nothing in a run folder that somebody sends can run code."""

import json
import os
import pickle
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from common.errors import CacheError, WriteError
from tests.trainer.caches import write_cache
from tests.trainer.test_train import assert_same_weights, fit, preset_with
from trainer import checkpoints
from trainer.checkpoints import (
    MODEL,
    OPTIMIZER,
    STATE,
    SUMS,
    Progress,
    check_sums,
    load_checkpoint,
    save_checkpoint,
    whole_folder,
    write_sums,
)
from trainer.train import Trainer


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A cache and a run of two epochs."""
    folder = tmp_path_factory.mktemp("finished")
    store = write_cache(folder / "cache")
    fit(store, folder / "run", "training.epochs=2")
    return store, folder / "run"


@pytest.fixture
def copy(finished, tmp_path):
    store, run = finished
    return store, Path(shutil.copytree(run, tmp_path / "run"))


def last(run):
    return sorted((run / "checkpoints").iterdir())[-1]


def stepped(width=3):
    """A model and its optimizer after a few steps."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.Linear(width, 2))
    model[0].bias.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    for _ in range(3):
        model(torch.randn(5, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


PROGRESS = Progress(3, 9, 1, [{"epoch": 1, "train_loss": 0.1 + 0.2, "validation_loss": None}], {"scale": 65536.0})


def test_what_is_read_is_what_was_written(tmp_path):
    model, optimizer = stepped()
    save_checkpoint(tmp_path / "c", model, optimizer, PROGRESS)
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == sorted([MODEL, OPTIMIZER, STATE, SUMS])
    other = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    other[0].bias.requires_grad_(False)
    fresh = torch.optim.AdamW([p for p in other.parameters() if p.requires_grad], fused=True)
    assert load_checkpoint(tmp_path / "c", other, fresh) == PROGRESS
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
    one, two = optimizer.state_dict()["state"], fresh.state_dict()["state"]
    assert one.keys() == two.keys()
    for index, values in one.items():
        assert {"step", "exp_avg", "exp_avg_sq"} == values.keys()
        for key, value in values.items():
            assert torch.equal(value, two[index][key])


def test_the_sums_are_those_of_sha256sum(tmp_path):
    model, optimizer = stepped()
    save_checkpoint(tmp_path / "c", model, optimizer, PROGRESS)
    assert os.system(f"cd {tmp_path / 'c'} && sha256sum --quiet --check {SUMS}") == 0


def resealed(folder):
    """As somebody would who changes files on purpose."""
    write_sums(folder, (MODEL, OPTIMIZER, STATE))


def unfit(folder, what):
    """A checkpoint that is whole, but not of this model."""
    model, optimizer = stepped(width=5) if what == "sizes" else stepped()
    save_checkpoint(folder, model, optimizer, PROGRESS)
    state, flat = json.loads((folder / STATE).read_text()), load_file(folder / OPTIMIZER)
    if what == "steps":
        state["steps"] = -1
    elif what == "types":
        state["epoch"] = "3; import os"
    elif what == "more":
        state["load"] = {"module": "os"}
    elif what == "missing":
        del flat["exp_avg/1.bias"]
    elif what == "stranger":
        flat["exp_avg/__class__"] = torch.zeros(())
    (folder / STATE).write_text("{" if what == "cut" else json.dumps(state))
    save_file(flat, folder / OPTIMIZER)
    resealed(folder)


@pytest.mark.parametrize("what", ["sizes", "steps", "types", "more", "missing", "stranger", "cut"])
def test_what_does_not_fit_is_a_sentence(tmp_path, what):
    unfit(tmp_path / "c", what)
    with pytest.raises(CacheError, match="cannot be used") as caught:
        load_checkpoint(tmp_path / "c", *stepped())
    assert "weights_only" not in str(caught.value)


def test_every_flipped_bit_is_found(tmp_path):
    model, optimizer = stepped()
    save_checkpoint(tmp_path / "c", model, optimizer, PROGRESS)
    chosen = random.Random(1)
    for name in (MODEL, OPTIMIZER, STATE, SUMS):
        whole = (tmp_path / "c" / name).read_bytes()
        for _ in range(12):
            place, bit = chosen.randrange(len(whole)), 1 << chosen.randrange(8)
            flipped = bytearray(whole)
            flipped[place] ^= bit
            (tmp_path / "c" / name).write_bytes(flipped)
            with pytest.raises(CacheError, match=r"damaged|does not exist|cannot be used"):
                load_checkpoint(tmp_path / "c", *stepped())
        (tmp_path / "c" / name).write_bytes(whole)
    assert load_checkpoint(tmp_path / "c", *stepped()) == PROGRESS
    (tmp_path / "c" / SUMS).unlink()
    with pytest.raises(CacheError, match="SHA256SUMS does not exist"):
        load_checkpoint(tmp_path / "c", *stepped())


def test_a_folder_is_whole_or_absent(tmp_path, monkeypatch):
    final = tmp_path / "mapper"
    for text in ("old", "new"):
        with whole_folder(final) as temporary:
            (temporary / "file").write_text(text)
    assert (final / "file").read_text() == "new"

    def fail():
        with whole_folder(final) as temporary:
            (temporary / "file").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (final / "file").read_text() == "new"

    def full(*_):
        raise OSError(28, "No space left on device")

    model, optimizer = stepped()
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "save_file", full)
        with pytest.raises(WriteError, match="the disk is full"):
            save_checkpoint(tmp_path / "c", model, optimizer, PROGRESS)
    assert [path.name for path in tmp_path.iterdir()] == ["mapper"]


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_no_pickle_of_a_run_folder_is_opened(copy, tmp_path, monkeypatch):
    """As Accelerate left them, each one a payload, beside a checkpoint of ours and instead of one."""
    monkeypatch.chdir(tmp_path)
    store, run = copy
    names = ("custom_checkpoint_0.pkl", "optimizer.bin", "scheduler.bin", "random_states_0.pkl", "scaler.pt")
    for name in names:
        (last(run) / name).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CacheError, match="earlier version") as caught:
        fit(store, run, "training.epochs=3")
    assert f"mapper.initialise={run / 'mapper'}" in str(caught.value)
    for name in (MODEL, OPTIMIZER, STATE, SUMS, *names):
        (last(run) / name).write_bytes(pickle.dumps(Evil()))
        if name in names:
            (last(run) / name).unlink()
    with pytest.raises(CacheError, match="cannot be used"):
        fit(store, run, "training.epochs=3")
    for name in ("config.json", "model.safetensors", SUMS):
        (run / "mapper" / name).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CacheError):
        fit(store, run, "training.epochs=3")
    assert not (tmp_path / "executed").exists()


def test_the_advice_of_an_old_checkpoint_holds(copy, tmp_path):
    """The mapper of the run can be gone on from in a new folder."""
    store, run = copy
    _, outcome = fit(store, tmp_path / "new", "training.epochs=1", f"mapper.initialise={run / 'mapper'}")
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert outcome.metrics["train_loss"] < first["train_loss"]


def test_a_damaged_checkpoint_is_named_and_the_one_before_goes_on(copy, finished):
    store, run = copy
    (last(run) / MODEL).write_bytes(b"cut")
    with pytest.raises(CacheError, match=r"epoch-00002.*delete it to go on from the one before"):
        fit(store, run, "training.epochs=3")
    shutil.rmtree(last(run))
    _, outcome = fit(store, run, "training.epochs=2")
    assert (outcome.epochs_before, outcome.epochs_now) == (1, 1)
    assert_same_weights(run, finished[1], atol=0, rtol=0)


@pytest.mark.parametrize("killed", ["no mapper", "older mapper", "damaged mapper", "no metrics"])
def test_a_kill_between_checkpoint_and_mapper_is_made_up_for(copy, finished, killed):
    """What follows from a checkpoint is there after the next call, which has nothing to train."""
    store, run = copy
    if killed == "no metrics":
        (run / "metrics.jsonl").unlink()
    for name in ("mapper", "mapper-best"):
        if killed == "no mapper":
            shutil.rmtree(run / name)
        elif killed == "damaged mapper":
            (run / name / MODEL).write_bytes((run / name / MODEL).read_bytes()[:-1])
        elif killed == "older mapper":
            trainer = Trainer(preset_with(), store, run, "cpu")
            mapper = trainer.accelerator.unwrap_model(trainer.model)
            mapper.spec = replace(trainer.spec, provenance={**trainer.spec.provenance, "epochs": 1})
            trainer.folder.save_mapper(name, mapper)
    _, outcome = fit(store, run, "training.epochs=2")
    assert outcome.epochs_now == 0
    whole = finished[1]
    assert (run / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    for name in ("mapper", "mapper-best"):
        assert check_sums(run / name, ("config.json", MODEL)) == ""
        assert (run / name / MODEL).read_bytes() == (whole / name / MODEL).read_bytes()
        assert (run / name / "config.json").read_bytes() == (whole / name / "config.json").read_bytes()


def test_a_kill_at_any_write_resumes_to_the_same(finished, tmp_path, monkeypatch):
    """The process dies at each rename of the last epoch in turn."""
    store, whole = finished
    renames = []
    real = Path.rename

    def counting(self, target):
        renames.append(target)
        if len(renames) == stop:
            raise KeyboardInterrupt
        return real(self, target)

    fit(store, tmp_path / "one", "training.epochs=1")
    monkeypatch.setattr(Path, "rename", counting)
    for number in (1, 2, 3, 4, 5):
        run = Path(shutil.copytree(tmp_path / "one", tmp_path / f"run{number}"))
        stop, _ = number, renames.clear()
        with pytest.raises(KeyboardInterrupt):
            fit(store, run, "training.epochs=2")
        stop, _ = -1, renames.clear()
        fit(store, run, "training.epochs=2")
        for name in ("mapper", "mapper-best"):
            assert (run / name / MODEL).read_bytes() == (whole / name / MODEL).read_bytes(), number
        assert (run / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
