"""Fixtures shared by all tests. Nothing here reaches a network."""

import os
import subprocess

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:  # as many workers as cores: each, and what it starts, has one
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from hypothesis import settings

from tests import layouts
from tests.recipe import official_state

settings.register_profile("house", deadline=None)  # no timing is asserted in a test
settings.load_profile("house")


@pytest.fixture(scope="session")
def official_files(tmp_path_factory):
    """The official checkpoint files, at full width (TimeChat at two layers), in the authors' layouts."""
    folder = tmp_path_factory.mktemp("official")
    cavp = {f"module.{key}": value for key, value in official_state("cavp").items()}
    cavp |= {"module.spec_encoder.conv0.weight": torch.zeros(3), "module.logit_scale": torch.tensor(1.0)}
    torch.save(layouts.open_clip(cavp), folder / "cavp_epoch66.ckpt")

    audiomae = official_state("audiomae")
    audiomae |= {"decoder_pos_embed": torch.zeros(1, 3, 4), "decoder_blocks.0.norm1.weight": torch.ones(4)}
    torch.save(layouts.mae(audiomae), folder / "audiomae_16k_128bins.ckpt", _use_new_zipfile_serialization=False)

    timechat = official_state("timechat_small")
    vit = {
        key.removeprefix("visual_encoder."): value
        for key, value in timechat.items()
        if key.startswith("visual_encoder.")
    }
    vit |= {
        "blocks.39.norm1.weight": torch.ones(3),
        "head.weight": torch.zeros(2),
        "norm.weight": torch.ones(2),
    }
    torch.save(vit, folder / "eva_vit_g.pth")
    frame = ("ln_vision.", "Qformer.", "query_tokens")
    qformer = {key: value for key, value in timechat.items() if key.startswith(frame)}
    # The official file has twelve layers and a language head; this one says so with one key of each.
    qformer |= {
        "Qformer.bert.encoder.layer.7.output.dense.bias": torch.zeros(3),
        "Qformer.cls.bias": torch.zeros(3),
    }
    torch.save(layouts.lavis(qformer), folder / "instruct_blip_vicuna7b_trimmed.pth")
    rest = {key: value for key, value in timechat.items() if key.startswith(("video_", "llama_proj."))}
    rest |= {"llama_model.base_model.q_proj.lora_A.weight": torch.zeros(3)}
    torch.save(layouts.lavis(rest), folder / "timechat_7b.pth")
    return folder


@pytest.fixture(autouse=True)
def _ordinary_priority():
    """No test leaves its process with real-time priority, as an encoder did."""
    yield
    assert not hasattr(os, "sched_getscheduler") or os.sched_getscheduler(0) == os.SCHED_OTHER


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB; only root may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    """``zoo(name)``: the path of a file of ``tests.zoo.ZOO``, made when first asked for. Do not change it."""
    from tests.zoo import ZOO, make_numbered

    folder = tmp_path_factory.mktemp("zoo")

    def file(name):
        path = folder / name
        return path if path.exists() else make_numbered(path, seconds=20, **ZOO[name])

    return file
