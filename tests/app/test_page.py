"""The page without a browser: errors are sentences, and what it offers works."""

import socket

import gradio as gr
import numpy as np
import pytest

from app.making import StoppedError
from app.page import build_page, said, theme, usable_schedulers
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
    for name in names[1:]:
        made = maker.model.best(film, scheduler=name, steps=2)
        assert np.abs(made.waveform).max() > 0.01


def test_one_thing_at_a_time_for_a_bounded_queue(maker, tmp_path):
    page = build_page(maker, [], ["dog barking"])
    (make,) = [fn for fn in page.fns.values() if fn.api_name == "make"]
    assert make.concurrency_limit == 1
    assert page._queue.max_size == 20
    assert not page.analytics_enabled
    assert [fn.api_name for fn in page.fns.values() if fn.api_visibility == "public"] == ["make"]


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
