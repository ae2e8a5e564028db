"""``python -m app``: a page in the browser that gives a film its sound."""

from __future__ import annotations

import errno
import importlib.util
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any

import typer

from common.console import PresetOption, command, out, progress
from presets import Preset

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
PORTS = range(7860, 7960)


@app.command()
@command
def page(
    preset: PresetOption = "micro",
    run: Annotated[str | None, typer.Option(help="folder of a training run; default: the preset's own mapper")] = None,
    host: Annotated[str, typer.Option(help="whom to answer: 0.0.0.0 answers everybody on the network")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="default: the first free one from 7860 on", min=1, max=65535)] = None,
    max_megabytes: Annotated[float, typer.Option(help="larger films are refused", min=0.001)] = 200.0,
    max_seconds: Annotated[float, typer.Option(help="longer films are refused", min=0.1)] = 60.0,
    examples: Annotated[int, typer.Option(help="how many films to try", min=0)] = 6,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = "auto",
    assignments: Annotated[list[str], typer.Option("--set", help="section.field=value")] = [],  # noqa: B006
) -> None:
    """Serve a page on this machine: upload a film, hear it. Ctrl-C ends it, and removes what was uploaded and made."""
    from common.errors import InputError

    if importlib.util.find_spec("gradio") is None:
        raise InputError("the page needs gradio, which is not installed: run make setup, or pip install -e '.[app]'")
    listening = listen(host, port)  # before the models are loaded
    from common.runtime import choose_device, quiet_libraries
    from presets import load_preset

    quiet_libraries()
    settings = load_preset(preset, assignments)
    if settings.note:
        out.print(f"note: {settings.note}")
    serve(settings, run, choose_device(device), listening, max_megabytes, max_seconds, examples)


def listen(host: str, port: int | None) -> socket.socket:
    """A socket on ``port``, or on the first free one from 7860 on; raises :class:`InputError`."""
    from common.errors import InputError

    fault: Exception | None = None
    for number in PORTS if port is None else (port,):
        try:
            family, _, _, _, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
            return socket.create_server(address[:2], family=family)
        except (OSError, UnicodeError) as error:
            fault = error
            if not isinstance(error, OSError) or error.errno != errno.EADDRINUSE:
                break
    where = f"port {port}" if port is not None else f"any port from {PORTS[0]} to {PORTS[-1]}"
    raise InputError(f"cannot serve on {host}, {where}: {fault}. To go on: choose another --host or --port")


def address_of(listening: socket.socket) -> str:
    """Where a browser on this machine finds it."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def serve(
    settings: Preset,
    run: str | None,
    device: str,
    listening: socket.socket,
    max_megabytes: float,
    max_seconds: float,
    examples: int,
) -> None:
    from app.examples import CLASSES
    from app.examples import examples as films
    from app.making import MEGABYTE, Limits, Maker
    from app.place import Place
    from generate.video_to_audio import VideoToAudio

    model = VideoToAudio.from_pretrained(None if run is None else Path(run) / "mapper", settings, device)
    with Place() as place:
        # Settings that gradio takes from the environment alone: its folder, and no question to the internet.
        os.environ["GRADIO_TEMP_DIR"] = str(place.files)
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
        from app.page import application, build_page

        shipped = settings.weights.source == "shipped"
        to_try: list[tuple[Path, str]] = []
        with progress() as bar:
            task = bar.add_task("examples", total=examples if shipped else 0, note="")
            for film in films(place.examples, examples) if shipped else ():
                to_try.append(film)
                bar.update(task, advance=1, note=film[1])
        maker = Maker(model, place, Limits(max_megabytes, max_seconds))
        page = build_page(maker, to_try, CLASSES if shipped else ())
        try:
            with running(application(page, round(max_megabytes * MEGABYTE)), listening):
                if not ip_address(listening.getsockname()[0]).is_loopback:
                    out.print("note: whoever reaches this machine can use this page")
                out.print(
                    f"the page is at {address_of(listening)} (Ctrl-C ends it, and removes what was uploaded and made)"
                )
                try:
                    threading.Event().wait()
                finally:
                    maker.close()
        except KeyboardInterrupt:  # also SIGTERM: the ends that a page has
            out.print("closed; what was uploaded and made is removed")


@contextmanager
def running(application: Any, listening: socket.socket) -> Iterator[None]:
    """Serve in a thread of its own, so that signals are for this one."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.02)
        yield
    finally:
        server.should_exit = True
        thread.join(timeout=10)


if __name__ == "__main__":
    app()
