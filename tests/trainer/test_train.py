import json

import pytest
import torch
from safetensors.torch import load_file

from pipeline.cache import Quarantined, ShardContent, join
from pipeline.errors import CacheError, InputError
from presets import load_preset
from tests.tiny import TINY
from tests.trainer.caches import comparable, write_cache
from trainer.data import StreamData, TensorData, epoch_order
from trainer.train import Trainer, TrainingError

SETTINGS = ["training.epochs=3", "mapper.layers=1", "training.log_every=1"]


def preset_with(*assignments):
    return load_preset(TINY, [*SETTINGS, *assignments])


def fit(store, run, *assignments):
    trainer = Trainer(preset_with(*assignments), store, run, "cpu")
    return trainer, trainer.fit()


def weights(run):
    return load_file(run / "mapper" / "model.safetensors")


def assert_same_weights(one, other, **tolerance):
    for name, tensor in comparable(weights(one)).items():
        torch.testing.assert_close(tensor, comparable(weights(other))[name], **tolerance)


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
    for name in ("train.yaml", "curves.png", "mapper-best/model.safetensors", "mapper/README.md"):
        assert (tmp_path / "run" / name).stat().st_size > 100
    assert list((tmp_path / "run/logs").rglob("events.*"))
    worst = json.loads((tmp_path / "run/worst_clips.json").read_text())
    assert worst[0]["free_running"] == max(row["free_running"] for row in worst)
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


def test_learning_rate_schedules(tmp_path):
    store = write_cache(tmp_path / "cache")  # 20 training clips in 3 steps an epoch
    settings = ("training.epochs=4", "training.warmup_steps=3", "training.schedule=cosine")
    trainer = Trainer(preset_with(*settings), store, tmp_path / "run", "cpu")
    factors = [trainer._learning_rate(step) for step in range(13)]
    assert factors[0] == pytest.approx(1 / 3)
    assert factors[6] == pytest.approx(0.5)
    assert factors[12] == pytest.approx(0.0, abs=1e-9)
    trainer.fit()
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)
    with pytest.raises(CacheError, match="other settings"):  # its end is part of a cosine
        fit(store, tmp_path / "run", *settings[1:], "training.epochs=5")


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


STAGES = ["cavp", "timechat", "audiomae"]


@pytest.mark.parametrize("kind", ["memory", "stream"])
def test_batches_cover_every_clip_once(tmp_path, kind):
    store = write_cache(tmp_path / "cache", clips=30, shards=4)

    def data():
        if kind == "memory":
            return TensorData(join(store, STAGES), "cpu")
        return StreamData(store, STAGES, "cpu", buffer=7)

    def ids(order, **options):
        return [list(batch.clip_ids) for batch in data().batches("train", 4, order, **options)]

    first = ids(epoch_order(1, 0))
    assert [len(batch) for batch in first] == [4, 4, 4, 4, 4, 4, 1]
    assert data().count("train") == 25
    assert sorted(clip_id for batch in first for clip_id in batch) == [f"clip{n:03d}" for n in range(30) if n % 6 != 5]
    assert first == ids(epoch_order(1, 0))
    assert first != ids(epoch_order(1, 1))
    # Two processes share the same global batches; a process without a row gets one of weight 0.
    reference = TensorData(join(store, STAGES), "cpu")
    for rank in (0, 1):
        for batch in data().batches("train", 4, epoch_order(1, 0), rank, 2):
            mine = batch.clip_ids[rank::2]
            assert batch.weight == (1.0 if mine else 0.0)
            row = reference.joined.clip_ids.index((mine or batch.clip_ids)[0])
            assert torch.equal(batch.target[0], reference.arrays["audiomae"][row].float())


def test_streaming_trains_like_memory(tmp_path):
    store = write_cache(tmp_path / "cache")
    _, memory = fit(store, tmp_path / "a", "training.epochs=8", "training.data=memory")
    trainer, stream = fit(store, tmp_path / "b", "training.epochs=8", "training.data=stream")
    assert "streamed" in trainer.data.how
    assert stream.metrics["train_loss"] == pytest.approx(memory.metrics["train_loss"], rel=0.2)


def test_a_cache_that_does_not_fit_is_streamed(tmp_path, monkeypatch):
    store = write_cache(tmp_path / "cache")
    monkeypatch.setattr("trainer.data.free_bytes", lambda device: 1000)
    trainer = Trainer(preset_with(), store, tmp_path / "run", "cpu")
    assert isinstance(trainer.data, StreamData)


def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path):
    store = write_cache(tmp_path / "cache")
    fit(store, tmp_path / "whole", "mapper.dropout=0.0")
    fit(store, tmp_path / "parts", "mapper.dropout=0.0", "training.accumulate=3")
    assert_same_weights(tmp_path / "whole", tmp_path / "parts", atol=1e-5, rtol=1e-4)


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
    for data in ("memory", "stream"):
        with pytest.raises(CacheError, match="another weights"):
            Trainer(preset_with(f"training.data={data}"), store, tmp_path / "r", "cpu")
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
    trainer.data.arrays["cavp"][0] = float("nan")
    with pytest.raises(TrainingError, match=r"nan in epoch 1.*clip000"):
        trainer.fit()


def test_damaged_checkpoint_is_named(tmp_path):
    store = write_cache(tmp_path / "cache")
    trainer, _ = fit(store, tmp_path / "run")
    (trainer.checkpoints()[-1] / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(CacheError, match="epoch-00003"):
        fit(store, tmp_path / "run", "training.epochs=5")
