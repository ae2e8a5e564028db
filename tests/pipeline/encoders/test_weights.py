import hashlib

import torch

from pipeline.encoders import ENCODERS, load_encoder
from pipeline.encoders.cavp import CAVP
from pipeline.encoders.timechat import TimeChat
from pipeline.weights import weight_files
from presets import load_preset


def test_every_file_is_listed_with_source_and_licence(tmp_path):
    (tmp_path / "timechat_7b.pth").write_bytes(b"content")
    preset = load_preset("paper", [f"weights.folder={tmp_path}"])
    rows = weight_files(preset)
    assert {file.filename for stage in preset.stages for file in ENCODERS[stage].files} <= {
        row.file.filename for row in rows
    }
    assert all(row.file.source and row.file.licence for row in rows)
    found = [row for row in rows if row.found]
    assert [row.file.filename for row in found] == ["timechat_7b.pth"]
    assert (found[0].bytes, found[0].sha256) == (7, hashlib.sha256(b"content").hexdigest())
    assert {"unet", "vae", "vocoder", "language_model"} <= {row.file.role for row in rows}


def test_official_names_are_found_in_the_weights_folder(official_files):
    encoder = load_encoder("cavp", preset=load_preset("paper", [f"weights.folder={official_files}"]))
    assert encoder.fingerprint.startswith("official-")
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_paper_sizes_without_allocating_them():
    preset = load_preset("paper")
    with torch.device("meta"):
        sizes = {
            name: sum(p.numel() for p in kind(preset.encoders[name]).parameters())
            for name, kind in (("cavp", CAVP), ("timechat", TimeChat))
        }
    assert round(sizes["cavp"] / 1e6, 2) == 32.68  # 32.74 M with the running statistics
    assert 1.19e9 < sizes["timechat"] < 1.2e9
