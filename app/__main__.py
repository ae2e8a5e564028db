"""``python -m app``: a page in the browser that gives a film its sound."""

from __future__ import annotations

import importlib.util
import os
import socket
import threading
from pathlib import Path
from typing import Annotated

import typer

from common.console import PresetOption, command, out, progress, shown
from presets import Preset

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
LOOPBACK = ("127.0.0.1", "localhost", "::1")


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
    _check_address(host, port)
    from common.runtime import choose_device, quiet_libraries
    from presets import load_preset

    quiet_libraries()
    settings = load_preset(preset, assignments)
    if settings.note:
        out.print(f"note: {settings.note}")
    serve(settings, run, choose_device(device), host, port, max_megabytes, max_seconds, examples)


def serve(
    settings: Preset,
    run: str | None,
    device: str,
    host: str,
    port: int | None,
    max_megabytes: float,
    max_seconds: float,
    examples: int,
) -> None:
    from app.examples import CLASSES
    from app.examples import examples as films
    from app.making import MEGABYTE, Limits, Maker
    from app.place import Place
    from common.errors import InputError
    from generate.video_to_audio import VideoToAudio

    model = VideoToAudio.from_pretrained(None if run is None else Path(run) / "mapper", settings, device)
    with Place() as place:
        _stay_here(place.files, host)
        import gradio as gr

        from app.page import CSS, HEAD, build_page, theme

        shipped = settings.weights.source == "shipped"
        to_try: list[tuple[Path, str]] = []
        with progress() as bar:
            task = bar.add_task("examples", total=examples, note="")
            for film in films(place.examples, examples) if shipped else ():
                to_try.append(film)
                bar.update(task, advance=1, note=film[1])
        gr.set_static_paths([str(path) for path, _ in to_try])
        maker = Maker(model, place, Limits(max_megabytes, max_seconds))
        blocks = build_page(maker, to_try, CLASSES if shipped else ())
        try:
            _, address, _ = blocks.launch(
                server_name=host,
                server_port=port,
                share=False,
                max_file_size=round(max_megabytes * MEGABYTE),
                prevent_thread_lock=True,
                quiet=True,
                ssr_mode=False,
                mcp_server=False,
                pwa=False,
                run_history=False,
                enable_monitoring=False,
                footer_links=[],
                theme=theme(),
                css=CSS,
                head=HEAD,
            )
        except OSError as error:
            where = f"port {port}" if port is not None else "any port from 7860 on"
            raise InputError(f"cannot serve on {host}, {where}: {error}. To go on: choose another --port") from None
        try:
            if host not in LOOPBACK:
                out.print("note: everybody who reaches this machine can use this page, and see nothing of each other")
            out.print(f"the page is at {shown(address)} (Ctrl-C ends it, and removes what was uploaded and made)")
            threading.Event().wait()
        except KeyboardInterrupt:  # also SIGTERM: the ends that a page has
            out.print("closed; what was uploaded and made is removed")
        finally:
            maker.close()
            blocks.close(verbose=False)


def _check_address(host: str, port: int | None) -> None:
    """Raise :class:`InputError` where nothing can be served, before the models are loaded: gradio would wait."""
    from common.errors import InputError

    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, OverflowError, UnicodeError) as error:
        where = "any port" if port is None else f"port {port}"
        raise InputError(
            f"cannot serve on {host}, {where}: {error}. To go on: choose another --host or --port"
        ) from None


def _stay_here(files: Path, host: str) -> None:
    """Settings that gradio takes from the environment only: its folder, and no question to the internet."""
    os.environ["GRADIO_TEMP_DIR"] = str(files)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    # gradio asks its own address whether it is there, and a proxy would know nothing of it.
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), *LOOPBACK, host]))


if __name__ == "__main__":
    app()
