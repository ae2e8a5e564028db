"""Two folders of sound, or of feature files, and what comes of them."""

import json
import shutil

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from common.errors import InputError
from evaluation.__main__ import app
from evaluation.caches import read_cache, write_cache
from evaluation.evaluate import Side, Work, confidence_interval, evaluate
from evaluation.extract import extract
from evaluation.files import find_files
from micro.onset_network import Onsets
from micro.world.render import make_scene, render_waveform
from pipeline.media.writing import write_wav
from presets import load_preset

PRESET = load_preset("paper")  # its weights are not here: everything must come from feature files


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def panns(folder, ids, seed, spoil=()):
    random = torch.Generator().manual_seed(seed)
    entries = {}
    for clip_id in ids:
        entries[clip_id] = {
            "2048": torch.randn(2048, generator=random),
            "logits": torch.randn(527, generator=random),
        }
    for clip_id in spoil:
        entries[clip_id]["2048"][3] = float("nan")
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(entries, folder / "pann_features.pth")


def ids(count, first=0):
    return [f"clip{number:03d}_000001" for number in range(first, first + count)]


def sides(tmp_path):
    empty = tmp_path / "none"
    empty.mkdir(exist_ok=True)
    return Side(empty, tmp_path / "generated"), Side(empty, tmp_path / "reference")


def test_feature_files_made_elsewhere_are_scored_without_any_weights(tmp_path):
    panns(tmp_path / "generated", ids(30), 1)
    panns(tmp_path / "reference", ids(30), 2)
    result = evaluate(PRESET, ["panns"], *sides(tmp_path))
    assert set(result.values) == {"FD_PANNs", "KL_PANNs", "IS"}
    assert result.features["panns (generated)"] == "made elsewhere"
    low, high = result.intervals["KL_PANNs"]
    assert low < result.values["KL_PANNs"] < high
    assert result.whole


def test_missing_unmatched_and_not_finite_clips_are_reported(tmp_path):
    panns(tmp_path / "generated", ids(20, first=5), 1, spoil=[ids(20)[9]])
    panns(tmp_path / "reference", ids(20), 2)
    result = evaluate(PRESET, ["panns"], *sides(tmp_path))
    assert result.missing == [*ids(5), ids(20)[9]]
    assert result.unmatched == ids(5, first=20)
    assert result.excluded == {f"{ids(20)[9]} (generated)": "NaN or Inf in pann_features.pth"}
    assert not result.whole


def test_sides_that_share_no_clip_are_an_error_with_examples(tmp_path):
    panns(tmp_path / "generated", ids(12, first=50), 1)
    panns(tmp_path / "reference", ids(12), 2)
    with pytest.raises(InputError, match="no clip is on both sides: 12 generated such as clip050_000001"):
        evaluate(PRESET, ["panns"], *sides(tmp_path))


def test_too_few_clips_for_a_metric_skip_that_metric_alone(tmp_path):
    panns(tmp_path / "generated", ids(4), 1)
    panns(tmp_path / "reference", ids(4), 2)
    result = evaluate(PRESET, ["panns"], *sides(tmp_path))
    assert set(result.values) == {"FD_PANNs", "KL_PANNs"}
    assert "at least 10" in result.skipped["IS"]


def test_features_of_different_networks_are_refused(tmp_path):
    panns(tmp_path / "generated", ids(12), 1)
    panns(tmp_path / "reference", ids(12), 2)
    entries = read_cache(tmp_path / "reference" / "pann_features.pth")
    write_cache(
        tmp_path / "reference" / "pann_features.pth",
        {clip_id: {**entry, "2048": entry["2048"][:512]} for clip_id, entry in entries.items()},
    )
    result = evaluate(PRESET, ["panns"], *sides(tmp_path))
    assert "different networks" in result.skipped["FD_PANNs"]


def test_without_weights_and_features_the_file_is_named_once(tmp_path):
    write_wav(tmp_path / "sound" / "a_000001.wav", np.zeros(16_000), 16_000)
    side = Side(tmp_path / "sound", tmp_path / "features")
    with pytest.raises(InputError, match=r"Cnn14_16k_mAP=0.438.pth from https://zenodo.*CC BY 4.0"):
        evaluate(PRESET, ["panns"], side, side)


def make_sounds(folder, clips, shift=0.0):
    for number in clips:
        waveform = np.roll(render_waveform(make_scene("hammer striking", number)), round(shift * 16_000))
        write_wav(folder / f"world{number:06d}_000000.wav", waveform, 16_000)


def test_features_are_kept_and_only_what_lacks_is_computed(tmp_path, monkeypatch):
    make_sounds(tmp_path / "sound", range(3))
    network, files = Onsets(), find_files(tmp_path / "sound")
    assert extract(network, files, tmp_path / "features") == {}
    before = read_cache(tmp_path / "features" / "onsets.pth")
    make_sounds(tmp_path / "sound", [3])
    seen = []
    encode = network.encode
    monkeypatch.setattr(network, "encode", lambda waveforms: seen.append(len(waveforms)) or encode(waveforms))
    extract(network, find_files(tmp_path / "sound"), tmp_path / "features")
    assert seen == [1]
    after = read_cache(tmp_path / "features" / "onsets.pth")
    assert all(torch.equal(before[clip_id], after[clip_id]) for clip_id in before)
    assert len(after) == 4


def test_features_of_other_weights_are_made_again(tmp_path):
    make_sounds(tmp_path / "sound", range(2))
    network = Onsets()
    extract(network, find_files(tmp_path / "sound"), tmp_path / "features")
    network.fingerprint = "other"
    seen = []
    extract(network, find_files(tmp_path / "sound"), tmp_path / "features", on_clip=seen.append)
    assert seen == [0, 2]


def test_a_sound_that_cannot_be_read_is_excluded_by_name(tmp_path):
    make_sounds(tmp_path / "sound", range(2))
    (tmp_path / "sound" / "broken_000000.wav").write_bytes(b"RIFF....")
    failed = extract(Onsets(), find_files(tmp_path / "sound"), tmp_path / "features")
    assert list(failed) == ["broken_000000"]


def test_the_command_prints_and_writes_and_says_when_it_is_a_part(tmp_path):
    make_sounds(tmp_path / "truth", range(4))
    make_sounds(tmp_path / "out" / "wav_8s", range(3), shift=0.3)
    result = run("--out", tmp_path / "out", "--reference", tmp_path / "truth", "--networks", "onsets")
    assert result.exit_code == 0, result.output
    assert "Evaluation of a PART: 3 of the 4 reference clips" in result.output
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert found["values"]["onset_F1"] < 0.5
    assert found["missing"] == ["world000003_000000"]
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert "world000003_000000" in page
    assert "onset_F1" in (tmp_path / "out" / "evaluation.md").read_text()


def test_the_papers_rows_stand_beside_ours_and_are_marked(tmp_path):
    panns(tmp_path / "generated", ids(12), 1)
    panns(tmp_path / "reference", ids(12), 2)
    result = run(
        "--out",
        tmp_path / "generated",
        "--cache",
        tmp_path / "generated",
        "--reference",
        tmp_path / "reference",
        "--preset",
        "paper",
    )
    assert result.exit_code == 0, result.output
    text = (tmp_path / "generated" / "evaluation.md").read_text()
    assert "| MFM-Mapper (quoted from the paper) | 8,000 h | 124M | 9.9 | 2.26 | 12.22 |" in text
    assert "not computed: FD_PaSST" in text


def test_sound_is_never_taken_from_the_videos(tmp_path):
    make_sounds(tmp_path / "truth", range(3))
    for folder in ("out/wav_8s", "out/mp4"):  # what make generate writes: the videos carry the generated sound
        make_sounds(tmp_path / folder, range(3), shift=0.3)
    for path in (tmp_path / "out" / "mp4").glob("*.wav"):
        path.rename(path.with_suffix(".mp4"))
    result = run("--out", tmp_path / "out", "--reference", tmp_path / "truth", "--networks", "onsets")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["values"]["onset_F1"] < 0.5


def test_short_sounds_and_leftovers_are_named_or_ignored_and_never_scored(tmp_path):
    make_sounds(tmp_path / "out" / "truth", range(4))
    make_sounds(tmp_path / "out" / "wav_8s", range(3))
    for number, samples in ((0, 80_000), (1, 1)):  # 5 s, and one sample
        path = tmp_path / "out" / "wav_8s" / f"world{number:06d}_000000.wav"
        write_wav(path, np.full(samples, 0.1), 16_000)
    shutil.copy(path, path.with_name(".world000003_000000.4711.tmp.wav"))
    result = run("--out", tmp_path / "out", "--networks", "onsets", "--device", "cpu")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert found["matched"] == ["world000002_000000"]
    assert found["missing"] == [f"world00000{n}_000000" for n in (0, 1, 3)]
    assert {clip: reason.split(":")[0] for clip, reason in found["excluded"].items()} == {
        "world000000_000000 (generated)": "too_short",
        "world000001_000000 (generated)": "too_short",
    }
    reason = found["excluded"]["world000001_000000 (generated)"]
    assert "world000001_000000.wav has 0.000 s of sound, 8 s are needed" in reason
    assert "8 s are needed" in (tmp_path / "out" / "evaluation.md").read_text()


def test_a_second_reference_of_the_same_name_is_scored_with_its_own_features(tmp_path):
    make_sounds(tmp_path / "out" / "wav_8s", range(3))
    make_sounds(tmp_path / "one" / "truth", range(3))
    make_sounds(tmp_path / "two" / "truth", range(3), shift=0.3)
    scores = []
    for reference in ("one", "two", "one"):
        result = run("--out", tmp_path / "out", "--reference", tmp_path / reference / "truth", "--networks", "onsets")
        assert result.exit_code == 0, result.output
        scores.append(json.loads((tmp_path / "out" / "evaluation.json").read_text())["values"]["onset_F1"])
    assert scores[0] == scores[2] == 1
    assert scores[1] < 0.5


def test_a_clip_that_is_gone_is_no_longer_scored(tmp_path):
    make_sounds(tmp_path / "out" / "wav_8s", range(3))
    make_sounds(tmp_path / "out" / "truth", range(3))
    run("--out", tmp_path / "out", "--networks", "onsets")
    (tmp_path / "out" / "wav_8s" / "world000001_000000.wav").unlink()
    assert run("--out", tmp_path / "out", "--networks", "onsets").exit_code == 0
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (found["matched"], found["missing"]) == (
        ["world000000_000000", "world000002_000000"],
        ["world000001_000000"],
    )


def test_progress_counts_the_clips_of_each_step(tmp_path):
    make_sounds(tmp_path / "wav", range(2))
    steps = []
    side = Side(tmp_path / "wav", tmp_path / "f")
    evaluate(PRESET, ["onsets"], side, side, Work(on_step=lambda *step: steps.append(step)))
    assert steps == [
        ("onsets, generated", 0, 2), ("onsets, generated", 2, 2), ("onsets, reference", 2, 2),
    ]  # fmt: skip


def test_the_command_is_named_or_not(tmp_path):
    named = run("evaluate", "--out", tmp_path / "nowhere")
    assert (named.exit_code, "is not a folder" in named.output) == (4, True)
    both = run("--help")
    assert "evaluate" in both.output
    assert "filter" in both.output


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--out", "nowhere"], 4, "nowhere is not a folder"),
        (["--out", "."], 4, "the reference truth is not a folder"),
        (["--out", ".", "--reference", ".", "--networks", "nothing"], 4, "unknown network 'nothing'"),
    ],
)
def test_wrong_usage_says_what_to_do(tmp_path, monkeypatch, arguments, code, says):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert (result.exit_code, says in result.output) == (code, True), result.output


def test_the_interval_of_a_mean_holds_it_and_narrows_with_clips():
    random = np.random.default_rng(0)
    few, many = random.standard_normal(20), random.standard_normal(2000)
    assert confidence_interval(few)[0] < few.mean() < confidence_interval(few)[1]
    assert np.ptp(confidence_interval(many)) < np.ptp(confidence_interval(few)) / 3
