"""The page without a browser: errors are sentences, and what it offers works."""

import socket

import gradio as gr
import pytest
from fastapi.testclient import TestClient

from app.making import StoppedError
from app.page import application, build_page, said, theme, usable_schedulers
from common.errors import ClipError
from tests.commands import run_here


def fails(error):
    def work():
        raise error

    return work


def test_a_typed_error_is_its_sentence_with_the_film_as_its_owner_calls_it(tmp_path, capsys):
    video = tmp_path / "0123abcd" / "my <b>film.mp4"
    with pytest.raises(gr.Error) as caught:
        said(fails(ClipError("no_video", f"{video} has no video stream")), video)
    assert caught.value.message == "no_video: my &lt;b&gt;film.mp4 has no video stream"
    assert not caught.value.print_exception
    assert capsys.readouterr().err == ""


def test_a_defect_says_so_and_the_terminal_says_where(tmp_path, capsys):
    with pytest.raises(gr.Error, match="a defect of ours") as caught:
        said(fails(KeyError("secret")), tmp_path / "film.mp4")
    assert "secret" not in caught.value.message
    assert "KeyError" in caught.value.message
    assert "Traceback" in capsys.readouterr().err
    with pytest.raises(StoppedError):
        said(fails(StoppedError()), tmp_path / "film.mp4")


def test_every_scheduler_on_offer_works(maker, film):
    names = usable_schedulers(maker)
    assert names[0] == "DDIMScheduler"
    assert "DPMSolverMultistepScheduler" in names
    loudness = {name: maker.model.best(film, scheduler=name, steps=4).waveform.std() for name in names}
    for name in names[1:]:
        assert loudness[name] == pytest.approx(loudness["DDIMScheduler"], rel=0.3), name
    assert loudness["DDIMScheduler"] > 0.001  # quiet: nothing in this picture sounds


def test_one_thing_at_a_time_for_a_bounded_queue(maker, tmp_path):
    page = build_page(maker, [], ["dog barking"])
    (make,) = [fn for fn in page.fns.values() if fn.api_name == "make"]
    assert make.concurrency_limit == 1
    assert page._queue.max_size == 20
    assert not page.analytics_enabled
    assert [fn.api_name for fn in page.fns.values() if fn.api_visibility == "public"] == ["make"]


def test_what_a_program_may_ask(maker, film, monkeypatch):
    """No file that was not uploaded, and nothing from elsewhere."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(maker.place.files))
    upload = maker.place.files / "0" / film.name
    upload.parent.mkdir()
    upload.write_bytes(film.read_bytes())
    example = film.with_name("example.mp4")
    example.write_bytes(film.read_bytes())
    asked = []
    monkeypatch.setattr(maker, "make", lambda request, on_progress: asked.append(request) or fails(StoppedError())())

    def ask(path):
        """As a browser does, without one; the answer's lines."""
        film = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
        data = [film, "dog barking", 0, 1, 3.5, 1, "DDIMScheduler", ""]
        event = client.post("/gradio_api/call/make", json={"data": data}).json()["event_id"]
        return client.get(f"/gradio_api/call/make/{event}").text

    with TestClient(application(build_page(maker, [(example, "tone")]), 2**20)) as client:
        for path in (film, "/etc/passwd", f"{upload.parent}/../../.in-use", "http://127.0.0.1:9/film.mp4"):
            assert "event: error" in ask(path), path
        assert "A film is uploaded here, not taken from elsewhere" in ask("http://127.0.0.1:9/film.mp4")
        assert asked == []
        assert "event: complete" in ask(example)
        assert asked.pop().video == example
        assert "event: complete" in ask(upload)
        assert [request.video for request in asked] == [upload]
        large = client.post("/gradio_api/upload", files={"files": ("large.mp4", bytes(2**20 + 1))})
        assert large.status_code == 413
        assert not [path for path in maker.place.files.rglob("*.mp4") if path != upload]
        for page in ("docs", "redoc", "monitoring", "gradio_api/file=/etc/passwd"):
            assert client.get(f"/{page}").status_code in (403, 404), page


def test_no_font_comes_from_elsewhere():
    assert "https://" not in theme()._get_theme_css()
    assert not theme()._stylesheets


def test_where_nothing_can_be_served_is_said_at_once():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = run_here("app", "--port", port, code=4)
        assert f"cannot serve on 127.0.0.1, port {port}: " in said
        assert "choose another --host or --port" in said
    assert "cannot serve on nowhere.invalid, any port from 7860" in run_here("app", "--host", "nowhere.invalid", code=4)


def test_without_gradio_the_command_says_how_to_get_it(monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "gradio" else found(name, *a))
    assert "the page needs gradio, which is not installed: run make setup" in run_here("app", code=4)
