"""The hub's own client against a hub on the loopback: what the replaced functions of the other tests leave open."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote

from presets import load_preset
from tests.tiny import TINY

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# In the other process: fetch into weights/, through the cache, a mapper up and down, then without a connection.
SCRIPT = """
import json, sys
import torch
from typer.testing import CliRunner
import huggingface_hub.constants as constants
from pipeline.__main__ import app
from pipeline.encoders import load_encoder, official_paths
from common.errors import WeightsError
from presets import load_preset
from trainer.mapper import MapperSpec
from trainer.registry import MFMMapper, build_mapper

folder = sys.argv[1]
place = ["--set", f"weights.folder={folder}", "--only", "cavp,flan_t5"]
made = CliRunner().invoke(app, ["weights", "--download", "--accept-licences", *place])
cached = load_preset("paper", ["weights.audioldm2=cvssp/audioldm2"])
online = {role: str(path) for role, path in official_paths("flan_t5", cached).items()}
preset = load_preset(sys.argv[2])
spec = MapperSpec(preset.mapper, {"cavp": 64, "timechat": 96}, {"cavp": 40, "timechat": 10}, (8, 96))
mapper = build_mapper(spec)
commit = mapper.push_to_hub("me/mapper", token="hf_x")
back = MFMMapper.from_pretrained("me/mapper")
same = all(torch.equal(back.state_dict()[name], tensor) for name, tensor in mapper.state_dict().items())
constants.HF_HUB_OFFLINE = True
same = same and MFMMapper.from_pretrained("me/mapper").spec == spec
offline = {role: str(path) for role, path in official_paths("flan_t5", cached).items()}
micro = load_preset("micro", ["weights.audioldm2=cvssp/audioldm2"])
fingerprint = load_encoder("flan_t5", preset=micro).fingerprint
try:
    official_paths("flan_t5", load_preset("paper", ["weights.audioldm2=cvssp/other"]))
    unknown = ""
except WeightsError as error:
    unknown = str(error)
print(json.dumps([made.exit_code, made.output, online, offline, fingerprint, unknown, commit, same]))
"""


class HubHandler(BaseHTTPRequestHandler):
    """The addresses that the client asks a hub for."""

    repositories: ClassVar[dict[str, dict[str, bytes]]] = {}
    asked: ClassVar[list[str]] = []

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def do_POST(self):
        """A new repository, how its files are to come, and a commit of them."""
        path = unquote(self.path.split("?")[0]).strip("/")
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        name = "/".join(path.split("/")[2:4])
        reply = {"url": f"http://{self.headers['Host']}/me/mapper"}
        if path == "api/repos/create":
            self.repositories["me/mapper"] = {}
        elif path.endswith("/preupload/main"):
            listed = json.loads(sent)["files"]
            reply = {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in listed]}
        elif path.endswith("/commit/main"):
            for line in map(json.loads, sent.splitlines()):
                if line["key"] == "file":
                    self.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            reply = {"commitUrl": f"http://{self.headers['Host']}/{name}/commit/{COMMIT}", "commitOid": COMMIT}
        self.reply(200, json.dumps(reply).encode(), {"Content-Type": "application/json"}, True)

    def answer(self, body):
        path = unquote(self.path.split("?")[0]).strip("/")
        type(self).asked.append(path)
        words = path.split("/")
        if words[:2] == ["api", "models"]:
            files = self.repositories.get("/".join(words[2:4]))
            if files is None:
                self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
            elif words[4:5] == ["tree"]:
                listed = [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in files.items()
                ]
                self.reply(200, json.dumps(listed).encode(), {"Content-Type": "application/json"}, body)
            else:
                siblings = [{"rfilename": name} for name in files]
                about = {"id": "/".join(words[2:4]), "sha": COMMIT, "siblings": siblings}
                self.reply(200, json.dumps(about).encode(), {"Content-Type": "application/json"}, body)
        else:
            data = self.repositories["/".join(words[:2])]["/".join(words[4:])]
            tag = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
            self.reply(200, data, tag, body)

    def reply(self, status, data, headers, body):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_):
        pass


def test_the_client_fetches_and_finds_again_without_a_connection(tmp_path):
    source = load_preset("micro").weights.path / "audioldm2"
    parts = ("text_encoder_2", "tokenizer_2", "scheduler")
    paths = [path for part in parts for path in (source / part).iterdir()]
    files = {path.relative_to(source).as_posix(): path.read_bytes() for path in paths}
    files["text_encoder_2/pytorch_model.bin"] = b"the same weights again"
    files["README.md"] = b"card"
    HubHandler.repositories = {
        "cvssp/audioldm2": files,
        "SimianLuo/Diff-Foley": {"diff_foley_ckpt/cavp_epoch66.ckpt": b"weights" * 1000},
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    own = {name: value for name, value in os.environ.items() if "proxy" not in name.lower() and "OFFLINE" not in name}
    own |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    weights = tmp_path / "weights"
    command = [sys.executable, "-c", SCRIPT, str(weights), TINY]
    done = subprocess.run(command, env=own, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stderr
    code, output, online, offline, fingerprint, unknown, commit, same = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, output
    assert (weights / "cavp_epoch66.ckpt").read_bytes() == b"weights" * 1000
    assert sorted(path.name for path in weights.iterdir()) == ["audioldm2", "cavp_epoch66.ckpt"]
    fetched = {path.relative_to(weights / "audioldm2").as_posix() for path in (weights / "audioldm2").rglob("*.*")}
    assert fetched == {name for name in files if name.startswith(("text_encoder_2", "tokenizer_2"))} - {
        "text_encoder_2/pytorch_model.bin"
    }
    assert offline == online
    assert (Path(offline["text_encoder_2"]) / "model.safetensors").is_file()
    assert fingerprint.startswith("official-")
    assert same, "the mapper that came back is the one that was pushed"
    assert commit.endswith(f"/me/mapper/commit/{COMMIT}")
    assert {"README.md", "config.json", "model.safetensors"} <= set(HubHandler.repositories["me/mapper"])
    assert "'cvssp/other' is neither a folder nor a hub id" in unknown
    assert not any(path.endswith(".bin") or "scheduler" in path for path in HubHandler.asked)
