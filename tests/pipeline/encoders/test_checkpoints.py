"""Wrong files: the error names the file and the keys."""

import pytest
import torch
from safetensors.torch import save_file

from common.errors import WeightsError
from pipeline.encoders import load_encoder
from pipeline.encoders.checkpoints import read_state
from presets import load_preset
from tests.recipe import official_state
from tests.tiny import TINY

SHALLOW = {"vit_layers": 2, "frame_qformer_layers": 2, "video_qformer_layers": 2}


@pytest.fixture(scope="module")
def cavp_state():
    return official_state("cavp")


def load_cavp(path):
    return load_encoder("cavp", checkpoints={"cavp": path})


def test_safetensors_and_prefixes(tmp_path, cavp_state):
    save_file({k: v.contiguous() for k, v in cavp_state.items()}, tmp_path / "cavp.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in cavp_state.items()}}, tmp_path / "cavp.ckpt")
    one, other = load_cavp(tmp_path / "cavp.safetensors"), load_cavp(tmp_path / "cavp.ckpt")
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
    assert one.fingerprint != other.fingerprint, "the fingerprint is of the file"


def test_missing_renamed_and_misshaped_keys_come_in_one_error(tmp_path, cavp_state):
    state = dict(cavp_state)
    del state["video_project_head.bias"]
    state["video_encoder.conv1.conv.weights"] = state.pop("video_encoder.conv1.conv.weight")
    state["video_project_head.weight"] = torch.zeros(512, 1024)
    torch.save({"state_dict": state}, tmp_path / "cavp_epoch66.ckpt")
    with pytest.raises(WeightsError) as caught:
        load_cavp(tmp_path / "cavp_epoch66.ckpt")
    message = str(caught.value)
    assert "cavp_epoch66.ckpt" in message
    assert "missing (2)" in message
    assert "video_project_head.bias" in message
    assert "unexpected (1)" in message
    assert "video_encoder.conv1.conv.weights" in message
    assert "video_project_head.weight: (512, 1024) instead of (512, 2048)" in message


def test_half_a_file(tmp_path, official_files):
    data = (official_files / "cavp_epoch66.ckpt").read_bytes()
    (tmp_path / "cavp_epoch66.ckpt").write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightsError, match=r"cavp_epoch66\.ckpt cannot be read"):
        load_cavp(tmp_path / "cavp_epoch66.ckpt")


def test_text_is_refused_and_a_pickled_function_is_no_tensor(tmp_path):
    (tmp_path / "a.ckpt").write_text("not a checkpoint")
    with pytest.raises(WeightsError, match=r"a\.ckpt cannot be read"):
        load_cavp(tmp_path / "a.ckpt")
    torch.save({"state_dict": {"x": print}}, tmp_path / "b.ckpt")
    with pytest.raises(WeightsError, match=r"b\.ckpt holds no tensors; .*not read: builtins\.print"):
        load_cavp(tmp_path / "b.ckpt")


def test_file_of_the_wrong_model(official_files):
    with pytest.raises(WeightsError) as caught:
        load_cavp(official_files / "audiomae_16k_128bins.ckpt")
    assert "audiomae_16k_128bins.ckpt" in str(caught.value)
    assert "missing (320)" in str(caught.value)
    swapped = {
        "vit": official_files / "timechat_7b.pth",
        "qformer": official_files / "instruct_blip_vicuna7b_trimmed.pth",
        "timechat": official_files / "eva_vit_g.pth",
    }
    with pytest.raises(WeightsError, match=r"timechat_7b\.pth holds none of the keys that 'vit'"):
        load_encoder("timechat", checkpoints=swapped, config=SHALLOW)


def test_timechat_names_what_is_missing(tmp_path, official_files):
    rest = read_state(official_files / "timechat_7b.pth")
    rest["video_Qformer.bert.encoder.layer.0.crossattention.self.query.bias_"] = rest.pop(
        "video_Qformer.bert.encoder.layer.0.crossattention.self.query.bias"
    )
    torch.save({"model": rest}, tmp_path / "timechat_7b.pth")
    paths = {
        "vit": official_files / "eva_vit_g.pth",
        "qformer": official_files / "instruct_blip_vicuna7b_trimmed.pth",
        "timechat": tmp_path / "timechat_7b.pth",
    }
    with pytest.raises(WeightsError) as caught:
        load_encoder("timechat", checkpoints=paths, config=SHALLOW)
    assert "missing (1)" in str(caught.value)
    assert "unexpected (1)" in str(caught.value)
    assert "crossattention.self.query.bias_" in str(caught.value)


def test_later_files_override_earlier_ones_and_short_tables_are_stretched(tmp_path, official_files):
    rest = read_state(official_files / "timechat_7b.pth")
    rest["query_tokens"] = torch.full((1, 32, 768), 3.0)
    rest["video_frame_position_embedding.weight"] = torch.arange(32.0)[:, None].expand(32, 768).contiguous()
    torch.save({"model": rest}, tmp_path / "timechat_7b.pth")
    paths = {
        "vit": official_files / "eva_vit_g.pth",
        "qformer": official_files / "instruct_blip_vicuna7b_trimmed.pth",
        "timechat": tmp_path / "timechat_7b.pth",
    }
    encoder = load_encoder("timechat", checkpoints=paths, config=SHALLOW)
    assert torch.equal(encoder.query_tokens, torch.full((1, 32, 768), 3.0))
    table = encoder.video_frame_position_embedding.weight[:, 0]
    assert torch.equal(table, torch.arange(32.0).repeat_interleave(3))


def test_missing_official_files_say_where_to_get_them(tmp_path):
    preset = load_preset("paper", [f"weights.folder={tmp_path}"])
    with pytest.raises(WeightsError) as caught:
        load_encoder("timechat", preset=preset)
    for word in ("eva_vit_g.pth", "timechat_7b.pth", "https://", "BSD-3-Clause"):
        assert word in str(caught.value)


def test_unknown_names_and_settings():
    with pytest.raises(KeyError, match="there are cavp"):
        load_encoder("dinov2", preset="micro")
    with pytest.raises(ValueError, match="unknown settings"):
        load_encoder("cavp", config={"depth": 3}, preset="micro")
    with pytest.raises(WeightsError, match="no checkpoint called"):
        load_encoder("cavp", checkpoints={"vit": "x"})


def test_shipped_weights_are_those_of_their_file(tmp_path):
    one, same = (load_encoder("cavp", preset="micro") for _ in range(2))
    assert one.fingerprint == same.fingerprint
    assert one.fingerprint.startswith("shipped-")
    with pytest.raises(WeightsError, match=r"cavp\.safetensors does not exist"):
        load_encoder("cavp", preset=load_preset("micro", [f"weights.folder={tmp_path}"]))


def test_seeded_weights_follow_from_the_seed():
    one = load_encoder("cavp", preset=TINY)
    same = load_encoder("cavp", preset=TINY)
    other = load_encoder("cavp", preset=load_preset(TINY, ["weights.seed=8"]))
    assert one.fingerprint == same.fingerprint
    assert one.fingerprint != other.fingerprint
    assert one.fingerprint.startswith("seeded-")
