"""The page in a real browser: upload a film, press, and hear what the video element plays."""

import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from urllib.parse import urlsplit

import av
import numpy as np
import psutil
import pytest

from tests.commands import ROOT
from tests.media_factory import make_media

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIETLY = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--mute-audio",
)  # fmt: skip
MEDIA = (".mp4", ".wav", ".png")
WAIT = 240_000  # milliseconds: a bound for a machine that is busy, not a measure
PLAY = """async video => {
    video.muted = true;
    await video.play();
    while (video.currentTime < 0.5 && !video.ended) await new Promise(done => setTimeout(done, 20));
    return {time: video.currentTime, length: video.duration, error: video.error && video.error.message,
            width: video.videoWidth, heard: video.webkitAudioDecodedByteCount, address: video.currentSrc};
}"""


@contextmanager
def served(folder, *options):
    """``python -m app`` on a free port: its address and process, and who asked the proxy that must not be asked."""
    temporary = folder / "temporary"
    temporary.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.setblocking(False)
        elsewhere = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        names = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
        environment = {**os.environ, **dict.fromkeys(names, elsewhere), "TMPDIR": str(temporary), "no_proxy": ""}
        command = [sys.executable, "-m", "app", *options]
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        said = ""
        try:
            while not (found := re.search(r"http://\S+", said)):
                line = process.stdout.readline()
                assert line, f"it ended with {process.wait()}:\n{said}"
                said += line
            yield found[0], process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                said += process.communicate(timeout=60)[0]
            except subprocess.TimeoutExpired:
                process.kill()
                said += process.communicate()[0]
        assert process.returncode == 0, said
        assert "removed" in said
        assert "Traceback" not in said
        left = [path for path in temporary.rglob("*") if "mfm-mapper" in str(path) or path.suffix in MEDIA]
        assert left == [], "uploads and results are removed"
        with pytest.raises(BlockingIOError):  # nobody asked for anything beyond this machine
            proxy.accept()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def decoded(data):
    """What a file plays: seconds of picture, sound as floats, its rate."""
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.audio[0]
        sound = np.concatenate([frame.to_ndarray().mean(axis=0) for frame in container.decode(stream)])
        return container.duration / av.time_base, sound, stream.rate


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, to see the page as people do")
def test_a_film_gets_its_sound_in_the_browser(tmp_path):
    from playwright.sync_api import sync_playwright

    film = make_media(tmp_path / "my film.mp4", seconds=3)
    before = film.read_bytes()
    long = make_media(tmp_path / "long.mp4", seconds=5, fps=4)
    port = free_port()
    options = ("--port", port, "--examples", 1, "--max-seconds", 4)
    with served(tmp_path, *map(str, options)) as (address, process), sync_playwright() as playwright:
        assert address == f"http://127.0.0.1:{port}/"
        listening = [c for c in psutil.Process(process.pid).net_connections("inet") if c.status == "LISTEN"]
        assert {each.laddr.ip for each in listening} == {"127.0.0.1"}
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIETLY, "--no-proxy-server"])
        page = browser.new_page()
        page.set_default_timeout(WAIT)
        asked, wrong = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.goto(address)

        page.set_input_files("#film input[type=file]", long)
        sentence = page.locator(".toast-body")
        sentence.wait_for()
        assert "long.mp4 plays 5 s; this page takes films of up to 4 s" in sentence.inner_text()
        page.click("#film button[aria-label=Clear]")
        sentence.locator("button").last.click()

        page.set_input_files("#film input[type=file]", film)
        page.locator("#film video").wait_for()
        page.locator("#label input").fill("dog barking")
        page.keyboard.press("Enter")
        page.locator("#steps input[type=number]").fill("2")
        page.click("#make")
        page.locator("#result video").wait_for()
        played = page.locator("#result video").evaluate(PLAY)
        assert played["error"] is None
        assert played["time"] >= 0.5
        assert played["length"] == pytest.approx(3, abs=0.1)
        assert (played["width"], played["heard"] > 0) == (128, True)
        assert "3.00 s of sound" in page.locator("#made").inner_text()
        assert page.locator("#picture img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 500
        assert page.locator(".toast-body").count() == 0

        seconds, sound, _ = decoded(page.request.get(played["address"]).body())
        assert seconds == pytest.approx(3, abs=0.1)
        assert np.abs(sound).max() > 0.01, "it can be heard"
        with page.expect_download() as download:
            page.click("#sound-file")
        saved = download.value
        assert saved.suggested_filename == "my film.wav"
        _, alone, rate = decoded(saved.path().read_bytes())
        assert (len(alone), rate) == (48000, 16000)
        assert np.abs(alone).max() > 0.01

        assert wrong == []
        assert {urlsplit(url).hostname for url in asked if urlsplit(url).scheme in ("http", "https")} == {"127.0.0.1"}
        assert {urlsplit(url).scheme for url in asked} <= {"http", "blob", "data"}
        served_files = page.request.get(f"{address}gradio_api/file={ROOT / 'README.md'}")
        assert served_files.status == 403, "no file of this machine but what was uploaded and made"
        browser.close()
    assert film.read_bytes() == before
