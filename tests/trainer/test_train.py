import json

import pytest
import torch
from safetensors.torch import load_file

from pipeline.cache import Quarantined, ShardContent, join
from pipeline.errors import CacheError, InputError
from presets import load_preset
from tests.trainer.caches import write_cache
from trainer.train import Trainer, TrainingError, global_batches

SETTINGS = ["training.epochs=3", "mapper.layers=1", "training.log_every=1"]


def preset_with(*assignments):
    return load_preset("micro", [*SETTINGS, *assignments])


def fit(store, run, *assignments):
    trainer = Trainer(preset_with(*assignments), store, run, "cpu")
    return trainer, trainer.fit()


def weights(run):
    return load_file(run / "mapper" / "model.safetensors")


def assert_same_weights(one, other, **tolerance):
    for name, tensor in weights(one).items():
        torch.testing.assert_close(tensor, weights(other)[name], **tolerance)


def test_training_lowers_the_error_and_saves_a_folder(tmp_path):
    store = write_cache(tmp_path / "cache")
    trainer, outcome = fit(store, tmp_path / "run", "training.epochs=60", "mapper.dropout=0.0")
    losses = [line["train_loss"] for line in map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())]
    assert len(losses) == 60
    assert losses[-1] < 0.5 * losses[0]
    assert {"validation_loss", "validation_free_running", "validation_cosine"} <= set(outcome.metrics)
    config = json.loads((tmp_path / "run/mapper/config.json").read_text())
    assert config["provenance"]["encoders"]["cavp"] == "cavp-weights"
    assert config["provenance"]["epochs"] == 60
    assert (tmp_path / "run/train.yaml").is_file()
    assert len(trainer.checkpoints()) == 2


def test_resumed_equals_unbroken_bit_for_bit(tmp_path):
    store = write_cache(tmp_path / "cache")
    fit(store, tmp_path / "whole", "training.epochs=4")
    fit(store, tmp_path / "parts", "training.epochs=2")
    # what a kill in the middle of a save leaves behind
    (tmp_path / "parts/checkpoints/epoch-00003.tmp").mkdir()
    _, outcome = fit(store, tmp_path / "parts", "training.epochs=4")
    assert (outcome.epochs_before, outcome.epochs_now) == (2, 2)
    assert_same_weights(tmp_path / "whole", tmp_path / "parts", atol=0, rtol=0)


def test_finished_run_is_left_alone(tmp_path):
    store = write_cache(tmp_path / "cache")
    fit(store, tmp_path / "run")
    before = (tmp_path / "run/mapper/model.safetensors").stat().st_mtime_ns
    _, outcome = fit(store, tmp_path / "run")
    assert (outcome.epochs_before, outcome.epochs_now) == (3, 0)
    assert (tmp_path / "run/mapper/model.safetensors").stat().st_mtime_ns == before


def test_other_settings_in_the_same_folder_are_refused(tmp_path):
    store = write_cache(tmp_path / "cache")
    fit(store, tmp_path / "run")
    with pytest.raises(CacheError, match="other settings"):
        fit(store, tmp_path / "run", "training.learning_rate=0.5")


def test_batches_cover_every_clip_once():
    rows = torch.arange(10, 33)
    batches = global_batches(rows, 5, seed=1, epoch=0)
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3]
    assert torch.equal(torch.cat(batches).sort().values, rows)
    assert not torch.equal(torch.cat(batches), torch.cat(global_batches(rows, 5, seed=1, epoch=1)))
    assert torch.equal(torch.cat(batches), torch.cat(global_batches(rows, 5, seed=1, epoch=0)))


def test_clips_missing_in_a_stage_are_left_out_with_their_reason(tmp_path):
    store = write_cache(tmp_path / "cache")
    whole = store.read("audiomae", 1)
    rows = slice(1, None)
    quiet = Quarantined(whole.clip_ids[0], "audiomae", "silent", "quiet", "x.mp4")
    store.write(
        "audiomae",
        1,
        ShardContent(
            whole.clip_ids[rows], whole.labels[rows], whole.splits[rows], whole.fingerprint,
            {"features": whole.features[rows]}, (quiet,),
        ),
    )  # fmt: skip
    joined = join(store, ["cavp", "timechat", "audiomae"])
    assert len(joined) == 23
    assert joined.left_out == {whole.clip_ids[0]: "silent (audiomae)"}
    row = joined.clip_ids.index("clip020")
    direct = store.read("cavp", 1)
    assert (joined.arrays["cavp"][row] == direct.features[direct.clip_ids.index("clip020")]).all()


def test_missing_stage_wrong_width_and_mixed_cache(tmp_path):
    with pytest.raises(CacheError, match="no complete shard of stage 'timechat'"):
        Trainer(preset_with(), write_cache(tmp_path / "a", stages=("cavp", "audiomae")), tmp_path / "r", "cpu")
    with pytest.raises(CacheError, match="another preset"):
        Trainer(preset_with(), write_cache(tmp_path / "b", widths={"cavp": 512}), tmp_path / "r", "cpu")
    store = write_cache(tmp_path / "c")
    second = store.read("cavp", 1)
    other = {**second.fingerprint, "weights": "other"}
    store.write("cavp", 1, ShardContent(second.clip_ids, second.labels, second.splits, other, second.arrays))
    with pytest.raises(CacheError, match="another weights"):
        Trainer(preset_with(), store, tmp_path / "r", "cpu")
    assert not (tmp_path / "r").exists()


def test_no_training_clips(tmp_path):
    store = write_cache(tmp_path / "cache", clips=4, shards=1)
    content = store.read("cavp", 0)
    for stage in ("cavp", "timechat", "audiomae"):
        content = store.read(stage, 0)
        store.write(
            stage,
            0,
            ShardContent(content.clip_ids, content.labels, ("test",) * 4, content.fingerprint, content.arrays),
        )
    with pytest.raises(InputError, match="no clip of split 'train'"):
        Trainer(preset_with(), store, tmp_path / "run", "cpu")


def test_a_loss_that_is_not_finite_names_the_clips(tmp_path):
    store = write_cache(tmp_path / "cache")
    trainer = Trainer(preset_with("training.global_batch=4"), store, tmp_path / "run", "cpu")
    trainer.data.arrays["cavp"][trainer.train_rows[0]] = float("nan")
    with pytest.raises(TrainingError, match=r"nan in epoch 1.*clip000"):
        trainer.fit()


def test_damaged_checkpoint_is_named(tmp_path):
    store = write_cache(tmp_path / "cache")
    trainer, _ = fit(store, tmp_path / "run")
    (trainer.checkpoints()[-1] / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(CacheError, match="epoch-00003"):
        fit(store, tmp_path / "run", "training.epochs=5")
