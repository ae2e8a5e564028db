"""Fetching from a server on the loopback that does all that servers do."""

import hashlib
import os
import shutil
import threading
import time
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from typer.testing import CliRunner

from common.errors import WeightsError
from pipeline import weights
from pipeline.__main__ import app
from pipeline.download import ATTEMPTS, download
from pipeline.encoders.checkpoints import read_state
from presets import load_preset
from presets.audio_models import AUDIO_MODELS
from presets.encoders import ENCODERS
from presets.official import OFFICIAL_FILES
from tests import layouts

BODY = bytes(range(256)) * 40
EVERY = {**{name: known.files for parts in (ENCODERS, AUDIO_MODELS) for name, known in parts.items()}, **OFFICIAL_FILES}


class Server:
    """Answers each request by the next of ``plan``, then as a good server does; remembers what was asked."""

    def __init__(self):
        self.plan, self.asked, self.bodies, self.tag = [], [], {"/file": BODY}, '"one"'
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append((self.path, self.headers.get("Range"), self.headers.get("If-Range")))
                outer.answer(self, outer.plan.pop(0) if outer.plan else {})

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answer(self, request, how):
        if "status" in how:
            request.send_response(how["status"])
            for name, value in how.get("headers", {}).items():
                request.send_header(name, value)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        body = self.bodies.get(request.path)
        if body is None:
            self.answer(request, {"status": 404})
            return
        start, wanted = 0, request.headers.get("Range")
        same = request.headers.get("If-Range") in (None, self.tag)
        if wanted and same and not how.get("no_ranges"):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                self.answer(request, {"status": 416, "headers": {"Content-Range": f"bytes */{len(body)}"}})
                return
            request.send_response(206)
            shown = how.get("start", start)
            request.send_header("Content-Range", f"bytes {shown}-{len(body) - 1}/{len(body)}")
        else:
            request.send_response(200)
        request.send_header("Content-Length", str(len(body) - start + how.get("longer", 0)))
        request.send_header("Content-Type", how.get("type", "application/octet-stream"))
        if not how.get("no_tag"):
            request.send_header("ETag", self.tag)
        request.end_headers()
        request.wfile.write(body[start : start + how["bytes"]] if "bytes" in how else body[start:])
        request.close_connection = True


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def fetch(server, target, **options):
    waits = []
    download(f"{server.url}/file", target, sleep=waits.append, **options)
    assert target.read_bytes() == BODY
    assert [path.name for path in target.parent.iterdir()] == [target.name], "nothing is left beside it"
    return waits


def test_a_file_that_breaks_off_twice_is_gone_on_with(server, tmp_path):
    server.plan = [{"bytes": 3000}, {"bytes": 4000}]
    seen = []
    fetch(server, tmp_path / "new" / "a.pth", on_bytes=lambda done, total: seen.append((done, total)))
    assert [ask[1:] for ask in server.asked] == [(None, None), ("bytes=3000-", '"one"'), ("bytes=7000-", '"one"')]
    assert seen[-1] == (len(BODY), len(BODY))


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(server, tmp_path):
    target = tmp_path / "a.pth"
    server.plan = [{"bytes": 5000}, *[{"status": 503}] * ATTEMPTS]
    with pytest.raises(WeightsError, match=r"/file could not be fetched: .*503.*5000 bytes stay in .*a\.pth\.part"):
        fetch(server, target)
    assert not target.exists()
    fetch(server, target)
    assert server.asked[-1][1] == "bytes=5000-"


def test_a_server_without_ranges_and_one_with_another_version_start_again(server, tmp_path):
    server.plan = [{"bytes": 5000}, {"no_ranges": True}]
    fetch(server, tmp_path / "1" / "a.pth")
    server.plan = [{"bytes": 5000}, *[{"status": 500}] * ATTEMPTS]
    with pytest.raises(WeightsError):
        fetch(server, tmp_path / "2" / "a.pth")
    server.tag = '"two"'
    fetch(server, tmp_path / "2" / "a.pth")
    server.plan = [{"bytes": 5000}, {"start": 4000}]
    fetch(server, tmp_path / "3" / "a.pth")
    (tmp_path / "4").mkdir()
    (tmp_path / "4" / "a.pth.part").write_bytes(b"of nobody knows what")
    fetch(server, tmp_path / "4" / "a.pth")
    assert server.asked[-1][1] is None


def test_a_part_that_was_whole_already_is_taken_and_a_longer_one_thrown_away(server, tmp_path):
    for name, extra, asked in (("1", b"", 1), ("2", b"x", 2)):
        target = tmp_path / name / "a.pth"
        server.plan = [{"bytes": 5000}, *[{"status": 500}] * ATTEMPTS]
        with pytest.raises(WeightsError):
            fetch(server, target)
        Path(f"{target}.part").write_bytes(BODY + extra)
        server.asked = []
        fetch(server, target)
        assert len(server.asked) == asked


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_what_is_not_there_is_said_at_once(server, tmp_path, status):
    server.plan = [{"status": status}]
    with pytest.raises(WeightsError, match=f"/file: the server answers {status}"):
        fetch(server, tmp_path / "a.pth")
    assert len(server.asked) == 1
    assert not (tmp_path / "a.pth").exists()


def test_a_busy_server_is_waited_for_as_it_asks(server, tmp_path):
    later = formatdate(time.time() + 40, usegmt=True)
    server.plan = [
        {"status": 429, "headers": {"Retry-After": "7"}},
        {"status": 503, "headers": {"Retry-After": later}},
        {"status": 502},
    ]
    waits = fetch(server, tmp_path / "a.pth")
    assert waits[0] == 7
    assert 30 < waits[1] <= 40
    assert waits[2] == 2**3
    server.plan = [{"status": 429, "headers": {"Retry-After": "86400"}}]
    with pytest.raises(WeightsError, match="asks to wait 86400 s"):
        fetch(server, tmp_path / "b" / "a.pth")


def test_a_wrong_length_is_never_a_whole_file(server, tmp_path):
    server.plan = [{"longer": 10}] * 20
    with pytest.raises(WeightsError, match="could not be fetched"):
        fetch(server, tmp_path / "a.pth")
    assert not (tmp_path / "a.pth").exists()
    server.plan = [{"longer": 10, "no_ranges": True}] * 20
    with pytest.raises(WeightsError, match="could not be fetched"):
        fetch(server, tmp_path / "b" / "a.pth")
    assert not (tmp_path / "b" / "a.pth").exists()


def test_a_web_page_and_a_wrong_digest_are_no_files(server, tmp_path):
    server.plan = [{"type": "text/html; charset=utf-8"}]
    with pytest.raises(WeightsError, match="leads to a web page"):
        fetch(server, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"sha256 is .* its authors publish 0123"):
        fetch(server, tmp_path / "a.pth", digest="sha256:0123")
    assert not (tmp_path / "a.pth").exists()
    fetch(server, tmp_path / "1" / "a.pth", digest=f"sha256:{hashlib.sha256(BODY).hexdigest()[:8]}")
    fetch(server, tmp_path / "2" / "a.pth", digest=f"md5:{hashlib.md5(BODY).hexdigest()}")


def test_no_server_no_address_and_another_process_are_clear_errors(server, tmp_path):
    with pytest.raises(WeightsError, match=r"could not be fetched: .*refused"):
        download("http://127.0.0.1:9/file", tmp_path / "a.pth", sleep=lambda _: None)
    with pytest.raises(WeightsError, match="is no address"):
        download("weights/file", tmp_path / "a.pth")
    with FileLock(tmp_path / "b.pth.lock"), pytest.raises(WeightsError, match="by another process"):
        fetch(server, tmp_path / "b.pth")


# --- the command ------------------------------------------------------------------------------


@pytest.fixture
def mirror(server, tmp_path_factory, monkeypatch):
    """Every single file of the paper's preset on the server, and AudioLDM-2's folders on a hub that is a folder."""
    for model, files in EVERY.items():
        for file in files:
            if file.repository is None:
                server.bodies[f"/{file.filename}"] = f"{model} {file.role}".encode() * 100
    checkpoint = tmp_path_factory.mktemp("server") / "cavp.ckpt"
    torch.save(layouts.open_clip({"x": torch.arange(1000.0)}), checkpoint)
    server.bodies["/cavp_epoch66.ckpt"] = checkpoint.read_bytes()
    monkeypatch.setenv("MFM_WEIGHTS_MIRROR", server.url)
    hub = load_preset("micro").weights.path / "audioldm2"

    def list_repo_files(name):
        return [path.relative_to(hub).as_posix() for path in hub.rglob("*") if path.is_file()] + ["unet/a.bin"]

    def snapshot_download(name, local_dir, allow_patterns):
        for pattern in allow_patterns:
            target = Path(local_dir) / pattern
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(hub / pattern, target)

    def hf_hub_download(name, path, local_dir):
        target = Path(local_dir) / path
        target.parent.mkdir(parents=True)
        target.write_bytes(f"{name} {path}".encode())
        return str(target)

    monkeypatch.setattr(weights, "list_repo_files", list_repo_files)
    monkeypatch.setattr(weights, "snapshot_download", snapshot_download)
    monkeypatch.setattr(weights, "hf_hub_download", hf_hub_download)
    return server


def run(folder, *arguments):
    result = CliRunner().invoke(app, ["weights", "--preset", "paper", "--set", f"weights.folder={folder}", *arguments])
    return result.exit_code, result.output


def test_licences_are_shown_and_nothing_is_fetched_before_they_are_accepted(mirror, tmp_path):
    code, output = run(tmp_path / "w", "--download")
    assert code == 5
    for word in ("CC BY-NC-SA 4.0", "MIT: synchformer_state_dict.pth", "imagebind_huge.pth", "--accept-licences"):
        assert word in output
    assert not mirror.asked
    assert not (tmp_path / "w").exists()


def test_weights_of_the_paper_come_from_a_server_that_breaks_off(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.weights.OFFICIAL_FILES", _without_digests())
    monkeypatch.setattr("time.sleep", lambda _: None)
    folder = tmp_path / "w"
    mirror.plan = [{"bytes": 1000}, {"bytes": 20}, {"bytes": 0}, {"status": 429}]
    code, output = run(folder, "--download", "--accept-licences")
    assert code == 0, output
    names = {path.name for path in folder.iterdir()}
    assert names == {file.filename for files in EVERY.values() for file in files if file.repository is None} | {
        "audioldm2"
    }
    for name in names - {"audioldm2"}:
        assert (folder / name).read_bytes() == mirror.bodies[f"/{name}"]
    assert torch.equal(read_state(folder / "cavp_epoch66.ckpt")["x"], torch.arange(1000.0))
    assert {path.name for path in (folder / "audioldm2").iterdir()} == {
        file.filename.split("/")[1] for model in ("audioldm2", "flan_t5") for file in EVERY[model]
    }
    assert not list(folder.rglob("*.bin"))
    mirror.asked = []
    assert run(folder, "--download")[0] == 0, "nothing is missing, nothing is asked, no licence either"
    assert not mirror.asked


def test_one_file_that_does_not_come_keeps_no_other_from_coming(mirror, tmp_path):
    del mirror.bodies["/Cnn14_16k_mAP=0.438.pth"]
    code, output = run(tmp_path, "--download", "--accept-licences", "--only", "panns,passt")
    assert code == 5
    assert "the server answers 404" in output
    assert "1 of the files did not come" in output
    assert [path.name for path in tmp_path.iterdir()] == ["passt-s-f128-p16-s10-ap.476-swa.pt"]


def test_without_a_mirror_the_hub_serves_its_own_and_a_page_is_named_for_the_rest(mirror, tmp_path, monkeypatch):
    monkeypatch.delenv("MFM_WEIGHTS_MIRROR")
    code, output = run(tmp_path, "--download", "--accept-licences", "--only", "cavp,audiomae")
    assert code == 5
    assert "by hand: open https://zenodo.org/records/14342967" in output
    expected = b"SimianLuo/Diff-Foley diff_foley_ckpt/cavp_epoch66.ckpt"
    assert (tmp_path / "cavp_epoch66.ckpt").read_bytes() == expected
    assert [path.name for path in tmp_path.iterdir()] == ["cavp_epoch66.ckpt"]


def test_unknown_models_are_named(tmp_path):
    code, output = run(tmp_path, "--only", "clap")
    assert code == 4
    assert "no official files of 'clap'" in output


def test_each_repository_has_its_folder(tmp_path, monkeypatch):
    """One whose files lie at its top, and one of folders; of several copies one is fetched."""
    hub = {
        "openai/clip-vit-base-patch32": ["config.json", "pytorch_model.bin", "tf_model.h5", "onnx/model.onnx"],
        "cvssp/audioldm-s-full-v2": [
            f"{part}/{name}"
            for part in ("unet", "vae", "vocoder", "scheduler", "text_encoder", "tokenizer", "other")
            for name in ("config.json", "model.safetensors", "model.fp16.safetensors", "pytorch_model.bin")
        ],
    }

    def snapshot_download(name, local_dir, allow_patterns):
        for file in allow_patterns:
            (Path(local_dir) / file).parent.mkdir(parents=True, exist_ok=True)
            (Path(local_dir) / file).write_text(f"{name}: {file}")

    monkeypatch.setattr(weights, "list_repo_files", hub.__getitem__)
    monkeypatch.setattr(weights, "snapshot_download", snapshot_download)
    words = ["weights", "--preset", "v2a-mapper", "--set", f"weights.folder={tmp_path}", "--only", "clip,audioldm"]
    result = CliRunner().invoke(app, [*words, "--download", "--accept-licences"])
    assert result.exit_code == 0, result.output
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    parts = [file.filename for file in EVERY["audioldm"]]
    assert found == {
        "clip-vit-base-patch32/config.json", "clip-vit-base-patch32/pytorch_model.bin",
        *(f"{part}/{name}" for part in parts for name in ("config.json", "model.safetensors")),
    }  # fmt: skip
    shutil.rmtree(tmp_path / "audioldm-s-full-v2" / "vae")
    result = CliRunner().invoke(app, words)
    assert result.exit_code == WeightsError.exit_code
    assert result.output.count("MISSING") == 1
    assert "audioldm-s-full-v2 (folder vae); CC BY-NC-SA 4.0" in " ".join(result.output.split())


def test_every_address_of_the_table_is_whole():
    for files in EVERY.values():
        for file in files:
            assert file.source.startswith("https://")
            assert file.licence
            assert not file.url or file.url.startswith(("https://", "hub:"))
            assert os.path.basename(file.url.rstrip("/")) in ("", os.path.basename(file.filename))


def _without_digests():
    return {model: tuple(replace(file, digest="") for file in files) for model, files in OFFICIAL_FILES.items()}
