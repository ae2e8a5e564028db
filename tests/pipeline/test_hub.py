"""Hub ids in the place of folders, with a hub that is a folder here."""

import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from common.errors import PresetError, WeightsError
from generate.sampling import load_sampler
from pipeline import hub
from pipeline.__main__ import app
from pipeline.encoders import check_weights, load_encoder, official_paths
from pipeline.hub import choose_files, hub_folder, is_hub_id, repository_folder
from pipeline.weights import weight_files
from presets import load_preset
from presets.official import AUDIOLDM2
from tests.tiny import TINY
from trainer.initialise import initial_weights
from trainer.mapper import MapperSpec
from trainer.registry import MFMMapper, build_mapper, mapper_folder

MICRO = load_preset("micro").weights.path


class Hub:
    """Stands for huggingface_hub's functions: repositories are folders, what was fetched is another."""

    def __init__(self, root: Path):
        self.root, self.cache, self.online, self.fetched = root, root / "cache", True, []

    def repository(self, name, source):
        shutil.copytree(source, self.root / name)

    def list_repo_files(self, name, **_):
        self._reach(name)
        folder = self.root / name
        return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]

    def snapshot_download(self, name, allow_patterns, ignore_patterns=(), local_files_only=False, local_dir=None):
        target = Path(local_dir or self.cache / name)
        if local_files_only:
            if not target.is_dir():
                raise FileNotFoundError("not in the cache and local_files_only")
            return str(target)
        self._reach(name)
        for pattern in allow_patterns:
            for path in (self.root / name).glob(pattern):
                place = target / path.relative_to(self.root / name)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, place)
                self.fetched.append(f"{name}/{pattern}")
        return str(target)

    def _reach(self, name):
        if not self.online:
            raise ConnectionError("no connection to the hub")
        if not (self.root / name).is_dir():
            raise OSError(f"404: there is no repository {name}")


@pytest.fixture
def fake(tmp_path, monkeypatch):
    made = Hub(tmp_path / "hub")
    made.repository("someone/audioldm2", MICRO / "audioldm2")
    for name in ("list_repo_files", "snapshot_download"):
        monkeypatch.setattr(hub, name, getattr(made, name))
    return made


def test_only_text_of_two_names_that_is_nothing_here_is_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("cvssp/audioldm2")
    (tmp_path / "runs" / "mapper").mkdir(parents=True)
    for other in ("runs/mapper", "/a/b", "audioldm2", "a/b/c", "", "./a/b", Path("cvssp/audioldm2")):
        assert not is_hub_id(other)


def test_of_two_copies_of_weights_one_is_fetched():
    names = [
        "README.md",
        "unet/config.json",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vocoder/config.json",
        "vocoder/pytorch_model.bin",
        "vocoder/tf_model.h5",
        "text/model-00001-of-00002.safetensors",
        "text/model-00002-of-00002.safetensors",
        "text/model.safetensors.index.json",
        "text/pytorch_model.bin.index.json",
        "tokenizer/spiece.model",
        "feature_extractor/config.json",
    ]
    assert choose_files(names, ["unet", "vocoder", "text", "tokenizer"]) == [
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vocoder/config.json",
        "vocoder/pytorch_model.bin",
        "text/model-00001-of-00002.safetensors",
        "text/model-00002-of-00002.safetensors",
        "text/model.safetensors.index.json",
        "tokenizer/spiece.model",
    ]
    assert choose_files(names, [""]) == ["README.md"]
    half = ["unet/config.json", "unet/diffusion_pytorch_model.fp16.safetensors", "unet/model.fp16.bin", "x.fp16.bin"]
    assert choose_files(half, ["unet", ""]) == [*half[:2], half[3]], "where there are no others"


def test_a_hub_id_of_audioldm2_serves_every_stage(fake):
    preset = load_preset("micro", ["weights.audioldm2=someone/audioldm2", "mapper.initialise=audioldm2"])
    encoder = load_encoder("flan_t5", preset=preset)
    assert encoder.fingerprint == load_encoder("flan_t5", preset="micro").fingerprint
    assert {name.split("/")[2] for name in fake.fetched} == {"text_encoder_2", "tokenizer_2"}, "only what it needs"
    folder = Path(initial_weights(preset))
    assert (folder / "model.safetensors").read_bytes() == (
        MICRO / "audioldm2/language_model/model.safetensors"
    ).read_bytes()
    official = load_preset("paper", ["weights.audioldm2=someone/audioldm2"])
    check_weights(official, ["flan_t5"])
    fake.online = False
    assert official_paths("flan_t5", official)["tokenizer_2"].is_dir(), "what the cache holds serves without a hub"
    found = {row.file.role: row.found for row in weight_files(official, ["flan_t5", "audioldm2"])}
    assert {role for role, there in found.items() if there} == {"text_encoder_2", "tokenizer_2", "language_model"}


def test_where_a_repository_is_is_a_setting_by_its_name(tmp_path):
    older = load_preset("paper", ["weights.audioldm2=someone/audioldm2"])
    assert older == load_preset("paper", ["weights.folders.audioldm2=someone/audioldm2"])
    path = tmp_path / "older.yaml"
    path.write_text("weights: {audioldm2: 'there: 1'}")
    assert load_preset(str(path)).weights.folders == {"audioldm2": "there: 1"}
    assert load_preset(str(path), ["weights.folders.audioldm2=h: 2"]).weights.folders == {"audioldm2": "h: 2"}
    for settings in (load_preset("paper"), load_preset("micro")):
        assert repository_folder(AUDIOLDM2, settings, ["unet"]) == settings.weights.path / "audioldm2"
    assert repository_folder(AUDIOLDM2, load_preset(str(path)), ["unet"]) == Path("there: 1")
    with pytest.raises(PresetError, match=r"weights\.folders\.audioldm3 is no repository .* there are .*audioldm2"):
        load_preset("paper", ["weights.folders.audioldm3=x"])
    path.write_text("weights: {folders: {audioldm2: 3}}")
    with pytest.raises(PresetError, match=r"weights\.folders\.audioldm2 is 3, and must be text"):
        load_preset(str(path))


def test_offline_and_not_in_the_cache_is_one_clear_error(fake):
    fake.online = False
    official = load_preset("paper", ["weights.audioldm2=someone/audioldm2"])
    wrong = r"'someone/audioldm2' is neither a folder nor a hub id .*no connection to the hub"
    for ask in (lambda: check_weights(official, ["flan_t5"]), lambda: initial_weights(official)):
        with pytest.raises(WeightsError, match=wrong):
            ask()
    fake.online = True
    hub_folder("someone/audioldm2", ["tokenizer_2"], "x")
    fake.online = False
    with pytest.raises(WeightsError, match=r"lacks unet in .* not reached"):
        hub_folder("someone/audioldm2", ["tokenizer_2", "unet"], "x")
    fake.online = True
    with pytest.raises(WeightsError, match="there is no repository no/body"):
        hub_folder("no/body", [""], "x")
    listing = CliRunner().invoke(app, ["weights", "--set", "weights.audioldm2=someone/audioldm2", "--only", "flan_t5"])
    assert listing.exit_code == 5
    assert "MISSING  someone/audioldm2/text_encoder_2" in listing.output


def test_a_mapper_goes_to_the_hub_and_comes_back(fake, monkeypatch):
    pushed = {}

    def create_repo(repo_id, private, token, exist_ok):
        pushed["private"] = private
        (fake.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)

    def upload_folder(repo_id, folder_path, token, commit_message):
        shutil.copytree(folder_path, fake.root / repo_id, dirs_exist_ok=True)
        return f"https://huggingface.co/{repo_id}/commit/1"

    monkeypatch.setattr("trainer.mapper.create_repo", create_repo)
    monkeypatch.setattr("trainer.mapper.upload_folder", upload_folder)
    preset = load_preset(TINY)
    width = preset.encoders.audiomae.width
    spec = MapperSpec(preset.mapper, {"cavp": 64, "timechat": 96}, {"cavp": 40, "timechat": 10}, (8, width))
    mapper = build_mapper(spec).eval()
    assert mapper.push_to_hub("me/mapper", private=True) == "https://huggingface.co/me/mapper/commit/1"
    assert pushed["private"]
    assert {"README.md", "config.json", "model.safetensors"} <= {p.name for p in (fake.root / "me/mapper").iterdir()}
    loaded = MFMMapper.from_pretrained("me/mapper")
    assert (mapper_folder("me/mapper") / "SHA256SUMS").is_file(), "what comes from the hub is checked too"
    for name, tensor in mapper.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    fake.online = False
    sampler = load_sampler(preset, "me/mapper")
    assert sampler.mapper.spec == spec
    negatives = sampler.audio_model.negatives
    assert negatives is None or not negatives.is_relative_to(fake.root), "nothing of ours goes into the hub's cache"
    assert initial_weights(load_preset(TINY, ["mapper.initialise=me/mapper"])) == str(mapper_folder("me/mapper"))
    with pytest.raises(WeightsError, match=r"mapper: 'me/other' is neither a folder nor a hub id"):
        MFMMapper.from_pretrained("me/other")

    def refused(*_, **__):
        raise OSError("401: who are you?")

    monkeypatch.setattr("trainer.mapper.create_repo", refused)
    with pytest.raises(WeightsError, match="could not be pushed to 'me/mapper': 401"):
        mapper.push_to_hub("me/mapper")
