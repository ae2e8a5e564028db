import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file

from common.errors import CacheError, InputError
from common.writing import temporary_beside
from pipeline.cache import Quarantined, ShardContent, join
from presets import load_preset
from tests.tiny import TINY
from tests.trainer.caches import comparable, write_cache
from trainer.mapper import read_spec
from trainer.registry import MFMMapper
from trainer.run_folder import kept_mapper
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
    trainer, outcome = fit(
        store, tmp_path / "run", "training.epochs=25", "training.learning_rate=3e-3", "mapper.dropout=0.0"
    )
    losses = [line["train_loss"] for line in map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())]
    assert len(losses) == 25
    assert losses[-1] < 0.5 * losses[0]
    assert {"validation_loss", "validation_free_running", "validation_cosine"} <= set(outcome.metrics)
    config = json.loads((tmp_path / "run/mapper/config.json").read_text())
    assert config["provenance"]["encoders"]["cavp"] == "cavp-weights"
    assert config["provenance"]["epochs"] == 25
    for name in ("train.yaml", "curves.png", "mapper-best/model.safetensors", "mapper/README.md"):
        assert (tmp_path / "run" / name).stat().st_size > 100
    assert list((tmp_path / "run/logs").rglob("events.*"))
    worst = json.loads((tmp_path / "run/worst_clips.json").read_text())
    assert worst[0]["free_running"] == max(row["free_running"] for row in worst)
    assert len(trainer.folder.checkpoints()) == 2


def test_mappers_of_some_epochs_stay_and_validation_may_be_rare(tmp_path):
    store = write_cache(tmp_path / "cache")
    rare = ("training.validate_every=2", "training.keep_epochs=[1,3]")
    fit(store, tmp_path / "whole", "training.epochs=3")
    fit(store, tmp_path / "run", "training.epochs=2", *rare)
    fit(store, tmp_path / "run", "training.epochs=3", *rare)  # the first goes on
    assert_same_weights(tmp_path / "run", tmp_path / "whole")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert ["validation_free_running" in line for line in lines] == [False, True, True]
    kept = {path.name: read_spec(path).provenance["epochs"] for path in (tmp_path / "run").glob("mapper-epoch-*")}
    assert kept == {"mapper-epoch-00001": 1, "mapper-epoch-00003": 3}
    best = read_spec(tmp_path / "run/mapper-best").provenance["epochs"]
    assert best == min((2, 3), key=lambda epoch: lines[epoch - 1]["validation_free_running"])
    last = MFMMapper.from_pretrained(tmp_path / "run" / kept_mapper(3)).state_dict()
    assert all(torch.equal(last[name], tensor) for name, tensor in weights(tmp_path / "run").items())


def test_resumed_equals_unbroken_bit_for_bit(tmp_path):
    store = write_cache(tmp_path / "cache")
    fit(store, tmp_path / "whole", "training.epochs=4")
    fit(store, tmp_path / "parts", "training.epochs=2")
    # what a kill in the middle of a save leaves behind
    left = temporary_beside(tmp_path / "parts/checkpoints/epoch-00003")
    dead = left.with_name(left.name.replace(f"-{os.getpid()}-", "-999999999-"))
    dead.mkdir()
    _, outcome = fit(store, tmp_path / "parts", "training.epochs=4")
    assert (outcome.epochs_before, outcome.epochs_now) == (2, 2)
    assert not dead.exists()
    assert_same_weights(tmp_path / "whole", tmp_path / "parts", atol=0, rtol=0)


def test_a_cosine_ends_at_the_last_epoch_and_goes_on_where_it_was(tmp_path):
    store = write_cache(tmp_path / "cache")  # 20 training clips in 3 steps an epoch
    settings = ("training.epochs=4", "training.warmup_steps=3", "training.schedule=cosine")
    trainer, _ = fit(store, tmp_path / "whole", *settings)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/epoch-00004")
    fit(store, tmp_path / "run", *settings)
    assert_same_weights(tmp_path / "whole", tmp_path / "run", atol=0, rtol=0)
    with pytest.raises(CacheError, match="other settings"):  # its end is part of a cosine
        fit(store, tmp_path / "run", *settings[1:], "training.epochs=5")


def test_finished_run_is_left_alone_and_another_one_refused(tmp_path):
    store = write_cache(tmp_path / "cache")
    fit(store, tmp_path / "run")
    before = (tmp_path / "run/mapper/model.safetensors").stat().st_mtime_ns
    _, outcome = fit(store, tmp_path / "run")
    assert (outcome.epochs_before, outcome.epochs_now) == (3, 0)
    assert (tmp_path / "run/mapper/model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(CacheError, match=r"training\.learning_rate: 0\.001 there, 0\.5 here"):
        fit(store, tmp_path / "run", "training.learning_rate=0.5")
    # As many clips, but others: two of them have changed places.
    splits = {"clip000": "validation", "clip005": "train"}
    rewrite(store, splits=lambda c: [splits.get(i, s) for i, s in zip(c.clip_ids, c.splits, strict=True)])
    with pytest.raises(CacheError, match=r"other settings or clips \(clips:"):
        fit(store, tmp_path / "run", "training.epochs=4")


def rewrite(store, **changes):
    """Every shard with other splits or another fingerprint."""
    for stage in ("cavp", "timechat", "audiomae"):
        for shard in store.shards(stage):
            content = store.read(stage, shard)
            splits = tuple(changes["splits"](content)) if "splits" in changes else content.splits
            made = {**content.fingerprint, **changes.get("made", {})}
            store.write(stage, shard, ShardContent(content.clip_ids, content.labels, splits, made, content.arrays))


def test_other_encoder_settings_are_another_run(tmp_path):
    store = write_cache(tmp_path / "cache")
    rewrite(store, made={"config": {"stride": 4}, "media": {"resize": "antialiased"}})
    fit(store, tmp_path / "run", "training.epochs=1")
    rewrite(store, made={"config": {"stride": 2}, "media": {"resize": "swscale"}})
    with pytest.raises(CacheError) as caught:
        fit(store, tmp_path / "run", "training.epochs=2")
    for text in ("encoder_configs.timechat.stride: 4 there, 2 here", "media.resize: antialiased there, swscale here"):
        assert text in str(caught.value)


def test_features_of_another_preset_are_said(tmp_path):
    store = write_cache(tmp_path / "cache")
    rewrite(store, made={"preset": "tiny"})
    _, outcome = fit(store, tmp_path / "run", "training.epochs=1")
    assert outcome.notes == []
    rewrite(store, made={"preset": "mine"})
    _, outcome = fit(store, tmp_path / "other", "training.epochs=1")
    (note,) = outcome.notes
    assert "made with preset 'mine', and this is 'tiny'" in note


def test_a_damaged_train_yaml_is_named(tmp_path):
    store = write_cache(tmp_path / "cache")
    trainer = Trainer(preset_with(), store, tmp_path / "run", "cpu")
    for damage in ("", "run: [", "[1, 2]", "run: 5"):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run/train.yaml").write_text(damage)
        with pytest.raises(CacheError, match=r"train\.yaml is damaged"):
            trainer.fit()


def test_a_validation_that_is_not_finite_is_said_and_never_best(tmp_path):
    store = write_cache(tmp_path / "cache")
    trainer = Trainer(preset_with("training.epochs=1"), store, tmp_path / "run", "cpu")
    row = trainer.data.joined.clip_ids.index("clip011")
    good = trainer.data.arrays["cavp"][row].clone()
    trainer.data.arrays["cavp"][row] = float("nan")
    outcome = trainer.fit()
    assert outcome.notes == [
        "epoch 1: validation is not finite for 1 of 4 clips (clip011), so it does not count for mapper-best"
    ]
    assert outcome.metrics["validation_free_running"] is None
    assert not (tmp_path / "run/mapper-best").exists()
    assert json.loads((tmp_path / "run/worst_clips.json").read_text())[0] == {
        "clip_id": "clip011", "free_running": None,
    }  # fmt: skip
    trainer, outcome = fit(store, tmp_path / "run", "training.epochs=2")  # the clip as the cache has it
    assert outcome.notes == []
    assert torch.equal(trainer.data.arrays["cavp"][row], good)
    config = json.loads((tmp_path / "run/mapper-best/config.json").read_text())
    assert config["provenance"]["epochs"] == 2


def test_streaming_trains_like_memory(tmp_path):
    """Not only alike: the same batches in the same order, so the same weights, and a run may change over."""
    store = write_cache(tmp_path / "cache", shards=3)
    fit(store, tmp_path / "memory", "training.epochs=2", "training.data=memory")
    trainer, _ = fit(store, tmp_path / "both", "training.epochs=1", "training.data=stream")
    assert "streamed" in trainer.data.how
    fit(store, tmp_path / "both", "training.epochs=2", "training.data=memory")
    fit(store, tmp_path / "stream", "training.epochs=2", "training.data=stream")
    for other in ("both", "stream"):
        assert_same_weights(tmp_path / "memory", tmp_path / other, atol=0, rtol=0)


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
