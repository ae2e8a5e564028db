"""Scores of features: in batches, from some files only, and one that fails beside others that do not."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, PreTrainedTokenizerFast
from typer.testing import CliRunner

from common.errors import CacheError, InputError, WeightsError
from evaluation import evaluate as module
from evaluation import metrics, scores
from evaluation.__main__ import app
from evaluation.evaluate import Side, evaluate
from evaluation.networks.clap import CLAP
from evaluation.networks.synchformer import GlobalTransformer, Synchformer
from evaluation.texts import read_texts
from pipeline.hub import repository_folder
from presets import load_preset
from tests.evaluation.official import write_float_wav

PRESET = load_preset("paper")


class Told(Synchformer):
    """The part of Synchformer that tells the offset."""

    def __init__(self):
        nn.Module.__init__(self)
        self.vproj, self.aproj = nn.Linear(768, 768), nn.Linear(768, 768)
        self.transformer = GlobalTransformer()


@pytest.fixture(scope="module")
def told():
    torch.manual_seed(0)
    return Told().eval().requires_grad_(False)


@pytest.fixture
def sides(tmp_path):
    random = torch.Generator().manual_seed(1)
    for side, name, parts in (("generated", "audio", 6), ("reference", "video", 8)):
        (tmp_path / side).mkdir()
        entries = {f"clip{n}": torch.randn(24, parts, 768, generator=random) for n in range(3)}
        torch.save(entries, tmp_path / side / f"synchformer_{name}.pth")
    (tmp_path / "none").mkdir()
    return Side(tmp_path / "none", tmp_path / "generated"), Side(tmp_path / "none", tmp_path / "reference")


def test_desync_is_the_same_in_batches(told, sides, monkeypatch):
    monkeypatch.setattr(module, "load_network", lambda kind, folder, device: told)
    values = set()
    for batch in (64, 2):
        monkeypatch.setattr(scores, "_COMPARED", batch)
        values.add(evaluate(PRESET, ["synchformer"], *sides).values["DeSync"])
    assert len(values) == 1
    assert 0 < values.pop() <= 2


@pytest.mark.parametrize(
    "error",
    [
        CacheError("damaged"), InputError("wrong"), WeightsError("none"), np.linalg.LinAlgError("SVD did not converge"),
        torch.linalg.LinAlgError("singular"), torch.OutOfMemoryError("out of memory"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
@pytest.mark.parametrize("where", ["metric", "network"])
def test_what_one_metric_or_network_breaks_leaves_the_others(error, where, tmp_path, monkeypatch):
    random = torch.Generator().manual_seed(1)
    for side in ("generated", "reference"):
        (tmp_path / side).mkdir()
        entries = {f"clip{n}": torch.randn(8, 128, generator=random) for n in range(12)}
        torch.save(entries, tmp_path / side / "vggish_features.pth")
        panns = {c: {"2048": torch.randn(4, generator=random), "logits": torch.randn(9)} for c in entries}
        torch.save(panns, tmp_path / side / "pann_features.pth")

    def fails(*arguments):
        raise error

    if where == "metric":
        monkeypatch.setattr(metrics, "frechet_distance", fails)
    else:
        read = module.read_cache
        monkeypatch.setattr(module, "read_cache", lambda path: fails() if "vggish" in path.name else read(path))
    result = evaluate(
        PRESET, ["vggish", "panns"], Side(tmp_path, tmp_path / "generated"), Side(tmp_path, tmp_path / "reference")
    )
    assert {"KL_PANNs", "IS"} <= set(result.values)
    assert str(error) in result.skipped["FD_VGG"]
    assert len(result.matched) == 12


def test_a_damaged_file_from_elsewhere_skips_its_network_alone(sides, tmp_path):
    (tmp_path / "generated" / "vggish_features.pth").write_bytes(b"not a feature file")
    ids = [f"clip{n}" for n in range(12)]
    for side in ("generated", "reference"):
        torch.save({c: torch.randn(527) for c in ids}, tmp_path / side / "passt_logits.pth")
    result = evaluate(PRESET, ["vggish", "passt"], *sides)
    assert "cannot be read" in result.skipped["FD_VGG"]
    assert set(result.values) == {"KL_PaSST", "IS_PaSST"}
    assert "no passt_features_embed.pth" in result.skipped["FD_PaSST"]


def test_inception_score_of_passt_is_that_of_its_logits(sides, tmp_path):
    random = torch.Generator().manual_seed(2)
    logits = {f"clip{n:02d}": 3 * torch.randn(527, generator=random) for n in range(40)}
    for side in ("generated", "reference"):
        torch.save(logits, tmp_path / side / "passt_logits.pth")
    result = evaluate(PRESET, ["passt"], *sides)
    expected = metrics.inception_score(np.stack([value.numpy() for value in logits.values()]))[0]
    assert result.values["IS_PaSST"] == pytest.approx(expected)


def test_frechet_distance_takes_all_clips_of_both_sides(sides, tmp_path):
    """Clips that stand on one side only count, too."""
    random = torch.Generator().manual_seed(4)
    held = {
        side: {f"clip{n:02d}": torch.randn(6, generator=random) for n in range(first, last)}
        for side, first, last in (("generated", 0, 30), ("reference", 10, 45))
    }
    for side, entries in held.items():
        torch.save(entries, tmp_path / side / "passt_features_embed.pth")
    result = evaluate(PRESET, ["passt"], *sides)
    arrays = {side: np.stack([value.numpy() for value in entries.values()]) for side, entries in held.items()}
    whole = metrics.frechet_distance(arrays["generated"], arrays["reference"])
    assert result.values["FD_PaSST"] == pytest.approx(whole)
    assert whole != pytest.approx(metrics.frechet_distance(arrays["generated"][10:], arrays["reference"][:20]))


def test_fd_vgg_is_of_all_frames_together(sides, tmp_path):
    random = torch.Generator().manual_seed(5)
    arrays = {}
    for side in ("generated", "reference"):
        entries = {f"clip{n}": torch.randn(8, 4, generator=random) for n in range(6)}
        torch.save(entries, tmp_path / side / "vggish_features.pth")
        arrays[side] = torch.cat(list(entries.values())).numpy()
    result = evaluate(PRESET, ["vggish"], *sides)
    assert result.values["FD_VGG"] == pytest.approx(metrics.frechet_distance(arrays["generated"], arrays["reference"]))


def test_imagebind_score_is_a_cosine_times_100(sides, tmp_path):
    ids = ["a", "b"]
    for side, name, values in (("generated", "audio", [1.0, 0.0]), ("reference", "video", [0.6, 0.8])):
        torch.save({clip_id: torch.tensor(values) for clip_id in ids}, tmp_path / side / f"imagebind_{name}.pth")
    assert evaluate(PRESET, ["imagebind"], *sides).values["IB_score"] == pytest.approx(60)


# --- CLAP ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clap_folder(tmp_path_factory):
    """A small ClapModel, saved by transformers as its users have the large one."""
    folder = tmp_path_factory.mktemp("weights") / "clap"
    words = ["<s>", "<pad>", "</s>", "<unk>", "dog", "rain", "barking", "falling"]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=20, **special).save_pretrained(folder)
    text = {
        "vocab_size": 8, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
        "max_position_embeddings": 32, "projection_dim": 8,
    }  # fmt: skip
    audio = {
        "patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [1, 2], "hidden_size": 16,
        "projection_dim": 8, "num_mel_bins": 64,
    }  # fmt: skip
    torch.manual_seed(3)
    ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=8)).save_pretrained(folder)
    ClapFeatureExtractor(truncation="rand_trunc").save_pretrained(folder)
    return folder


@pytest.fixture
def spoken(tmp_path):
    random = np.random.default_rng(0)
    for n in range(3):
        waveform = np.sin(np.arange(128_000) * 0.02 * (n + 1)) * 0.3 + 0.01 * random.standard_normal(128_000)
        for folder in ("out/wav_8s", "out/truth"):
            write_float_wav(tmp_path / folder / f"clip{n}.wav", waveform, 16_000)
    rows = [{"clip_id": f"clip{n}", "label": ["dog barking", "rain falling", ""][n]} for n in range(3)]
    pq.write_table(pa.Table.from_pylist([*rows, {"clip_id": "unheard", "label": "dog"}]), tmp_path / "out/made.parquet")
    return tmp_path / "out"


def test_clap_score_is_the_cosine_that_transformers_gives(clap_folder, spoken):
    preset = load_preset("paper", [f"weights.folder={clap_folder.parent}"])
    texts = read_texts(spoken / "made.parquet")
    assert texts == {"clip0": "dog barking", "clip1": "rain falling", "unheard": "dog"}
    generated = Side(spoken / "wav_8s", spoken / "features")
    result = evaluate(preset, ["clap"], generated, Side(spoken / "truth", spoken / "features-truth", None, texts))
    model = ClapModel.from_pretrained(clap_folder).eval()
    extractor = ClapFeatureExtractor.from_pretrained(clap_folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(clap_folder)
    wanted = []
    for n, text in enumerate(("dog barking", "rain falling")):
        heard = CLAP.sound.read(spoken / "wav_8s" / f"clip{n}.wav")
        assert heard.shape == (384_000,)
        inputs = extractor([heard], sampling_rate=48_000, return_tensors="pt")
        with torch.inference_mode():
            both = model(**inputs, **tokenizer([text], return_tensors="pt"))
        wanted.append(float(nn.functional.cosine_similarity(both.audio_embeds, both.text_embeds)))
    assert result.values["CLAP_score"] == pytest.approx(np.mean(wanted), abs=1e-5)
    assert result.matched == ["clip0", "clip1"]


def test_clap_is_computed_where_its_weights_are(clap_folder, spoken):
    """By the command as it stands, with the labels that were generated from as texts."""
    settings = ["--preset", "paper", "--set", f"weights.folder={clap_folder.parent}", "--device", "cpu"]
    result = CliRunner().invoke(app, ["--out", str(spoken), *settings])
    assert result.exit_code == 0, result.output
    assert "CLAP_score" in json.loads((spoken / "evaluation.json").read_text())["values"]
    assert "not computed: FD_PaSST" in result.output


def test_clap_is_the_encoders_or_another_that_is_put_beside_it(clap_folder, tmp_path):
    weights = tmp_path / "weights"
    preset = load_preset("v2a-mapper", [f"weights.folder={weights}"])
    official = weights / "clap-htsat-unfused"
    assert repository_folder(preset.encoders.clap.files[0].repository, preset, [""]) == official
    assert not CLAP.is_there(preset)
    shutil.copytree(clap_folder, official)
    assert CLAP.is_there(preset)
    assert CLAP.folder(preset) == official
    shutil.copytree(clap_folder, weights / "clap")
    assert CLAP.folder(preset) == weights / "clap"
    placed = load_preset("v2a-mapper", [f"weights.folder={weights}", f"weights.folders.clap={clap_folder}"])
    assert CLAP.folder(placed) == clap_folder
    (weights / "clap" / "tokenizer.json").unlink()
    assert CLAP.folder(preset) == official
    # Half of it ships with the small models, and what is on the hub alone is not here.
    on_the_hub = load_preset("v2a-mapper", ["weights.folders.clap=laion/clap-htsat-unfused"])
    assert not any(map(CLAP.is_there, (on_the_hub, PRESET, load_preset("micro"), load_preset("v2a-mapper-micro"))))


def test_clap_is_not_computed_without_weights_or_texts(clap_folder, spoken):
    preset = load_preset("paper", [f"weights.folder={clap_folder.parent}"])
    generated = Side(spoken / "wav_8s", spoken / "features")
    with pytest.raises(InputError, match="no texts of the clips: give --texts"):
        evaluate(preset, ["clap"], generated, Side(spoken / "truth", spoken / "f"))
    with pytest.raises(
        InputError, match=r"clap-htsat-unfused/model\.safetensors from a transformers folder of ClapModel"
    ):
        evaluate(PRESET, ["clap"], generated, Side(spoken / "truth", spoken / "f"))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.csv", 'clip_id,caption\na,"a dog, barking"\nb,\n', {"a": "a dog, barking"}),
        ("t.csv", "\ufeffclip_id,caption\na,dog\n,cat\n", {"a": "dog"}),  # as spreadsheets save it
        ("t.tsv", "id\tlabel\nabc_000001\train\n", {"abc_000001": "rain"}),
        ("t.csv", "file,words\na,b\n", None),
        ("t.parquet", "not parquet", None),
    ],
)
def test_texts_are_read_from_tables(name, content, expected, tmp_path):
    (tmp_path / name).write_text(content)
    if expected is None:
        with pytest.raises(InputError, match=name):
            read_texts(tmp_path / name)
    else:
        assert read_texts(tmp_path / name) == expected
