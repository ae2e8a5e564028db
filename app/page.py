"""The page itself, in gradio: what is asked, what is shown, and how errors are said."""

from __future__ import annotations

import html
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import gradio as gr
from fastapi import FastAPI

from app.making import MOST_CANDIDATES, MOST_LETTERS, MOST_STEPS, Maker, Request, StoppedError
from common.errors import MFMError

Made = TypeVar("Made")
QUEUE = 20  # who comes when so many wait is told to come later
SCHEDULERS = (
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "UniPCMultistepScheduler",
)
CSS = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; }
#title h1 { margin-bottom: 0; }
#note, #made { color: var(--body-text-color-subdued); }
#film { position: relative; }
#film.unseen:has(video)::after {
  content: "This browser cannot show this film. Its sound can be made all the same.";
  position: absolute; inset: 0; display: grid; place-items: center; padding: 2rem; text-align: center;
  background: var(--block-background-fill); pointer-events: none;
}
"""
# gradio calls it an error when the browser cannot show what was uploaded (AVI, HEVC); for us it is none.
HEAD = """<script>
for (const kind of ["error", "loadeddata"]) document.addEventListener(kind, (event) => {
  const film = event.target instanceof HTMLVideoElement && event.target.closest("#film");
  if (!film) return;
  film.classList.toggle("unseen", kind === "error");
  if (kind === "error") event.stopImmediatePropagation();
}, true);
</script>"""


def theme() -> gr.themes.Base:
    """Fonts of the visitor's own machine: nothing is fetched from elsewhere."""
    return gr.themes.Soft(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        block_title_background_fill="none",
        block_title_background_fill_dark="none",
        block_title_padding="0",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_title_text_weight="500",
        block_label_background_fill="*background_fill_secondary",
        block_label_background_fill_dark="*background_fill_secondary",
        block_label_text_color="*body_text_color",
        block_label_text_color_dark="*body_text_color",
        block_label_text_size="*text_sm",
        block_label_text_weight="500",
        block_border_width="1px",
        block_border_width_dark="1px",
    )


def build_page(maker: Maker, examples: Sequence[tuple[Path, str]], classes: Sequence[str] = ()) -> gr.Blocks:
    """The page. ``examples``: films with their labels; ``classes``: the only labels that the models know, if so."""
    generation = maker.preset.generation
    gr.set_static_paths([str(path) for path, _ in examples])
    stops: dict[str, Event] = {}  # of what is made now, by session

    def check(video: str | None) -> None:
        if video is not None:
            said(lambda: maker.length_of(Path(video)), Path(video))

    def make(
        video: str | None,
        label: str | None,
        seed: float | None,
        steps: float,
        guidance: float,
        candidates: float,
        scheduler: str,
        negative_prompt: str,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),
    ) -> tuple[Any, ...]:
        if video is None:
            raise told("Choose a film first: drop one on the field above, or take an example.")
        session, stopped = str(request.session_hash), Event()
        stops[session] = stopped

        def on_progress(share: float, note: str) -> None:
            if stopped.is_set():
                raise StoppedError
            progress(share, desc=note)

        wanted = Request(
            video=Path(video),
            label=str(label or "").strip(),
            seed=None if seed is None else int(seed),
            steps=int(steps),
            guidance_scale=float(guidance),
            candidates=int(candidates),
            scheduler=scheduler,
            negative_prompt=negative_prompt,
        )
        try:
            result = said(lambda: maker.make(wanted, on_progress), wanted.video)
        except StoppedError:
            return (None, None, "Stopped.", *(gr.DownloadButton(interactive=False) for _ in range(2)))  # nobody looks
        finally:
            if stops.get(session) is stopped:
                del stops[session]
        note = f"{result.length:.2f} s of sound in {result.took:.1f} s, seed {result.seed}"
        if result.score is not None:
            note += f": best of {wanted.candidates}, token cosine {result.score:.3f}"
        return (
            str(result.film),
            str(result.picture),
            note,
            gr.DownloadButton(value=str(result.film), interactive=True),
            gr.DownloadButton(value=str(result.sound), interactive=True),
        )

    def leave(request: gr.Request) -> None:
        if (stopped := stops.get(str(request.session_hash))) is not None:
            stopped.set()

    def stop(request: gr.Request) -> str:
        leave(request)
        return "Stopped."

    with gr.Blocks(title="MFM-Mapper", analytics_enabled=False) as page:
        gr.Markdown("# Sound for silent films\nA film in, the same film with its sound out.", elem_id="title")
        if classes:
            gr.Markdown(
                f"These are the small models of preset **{maker.preset.name}**. They know rendered scenes of "
                f"{len(classes)} classes and nothing else: {', '.join(classes)}. Other films go through, and sound "
                f"like one of these.",
                elem_id="note",
            )
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                limits = f"up to {maker.limits.seconds:g} s and {maker.limits.megabytes:g} MB"
                video = gr.Video(label=f"Film, {limits}", sources=["upload"], height=270, elem_id="film")
                only_from(video, maker.place.files)
                label = gr.Dropdown(
                    list(classes),
                    value="",
                    allow_custom_value=True,
                    label="What is heard (may be empty)",
                    elem_id="label",
                )
                with gr.Row():
                    seed = gr.Number(generation.seed, label="Seed", precision=0, minimum=0, min_width=110)
                    candidates = gr.Slider(
                        1, MOST_CANDIDATES, 1, step=1, label="Candidates", info="the best is kept", min_width=180
                    )
                with gr.Row():
                    most = max(MOST_STEPS, generation.steps)
                    steps = gr.Slider(1, most, generation.steps, step=1, label="Steps", min_width=160, elem_id="steps")
                    guidance = gr.Slider(
                        0, max(15.0, generation.guidance_scale), generation.guidance_scale, step=0.1,
                        label="Guidance", min_width=160,
                    )  # fmt: skip
                with gr.Accordion("More", open=False):
                    scheduler = gr.Dropdown(
                        usable_schedulers(maker), value=generation.scheduler, label="Scheduler", filterable=False
                    )
                    negative_prompt = gr.Textbox(
                        generation.negative_prompt, label="Negative prompt", max_length=MOST_LETTERS,
                        visible=maker.preset.audio.reads_negative_prompt,
                    )  # fmt: skip
                with gr.Row():
                    button = gr.Button("Make the sound", variant="primary", scale=3, elem_id="make")
                    stop_button = gr.Button("Stop", scale=1, min_width=80, elem_id="stop")
            with gr.Column(scale=6, min_width=320):
                film = gr.Video(label="Film with its sound", height=340, interactive=False, elem_id="result")
                made = gr.Markdown(elem_id="made")
                picture = gr.Image(
                    label="Sound and tokens", show_label=False, interactive=False, buttons=["fullscreen"],
                    elem_id="picture",
                )  # fmt: skip
                with gr.Row():
                    film_file = gr.DownloadButton("Film (mp4)", interactive=False, elem_id="film-file")
                    sound_file = gr.DownloadButton("Sound (wav)", interactive=False, elem_id="sound-file")
        if examples:
            gr.Examples(
                [[str(path), name] for path, name in examples], [video, label], label="Films to try",
                visible_columns=[0], cache_examples=False, api_visibility="private",
            )  # fmt: skip
        video.upload(check, video, None, api_visibility="private", show_progress="hidden")
        making = button.click(
            make,
            [video, label, seed, steps, guidance, candidates, scheduler, negative_prompt],
            [film, picture, made, film_file, sound_file],
            api_name="make",
            show_progress_on=film,
            concurrency_limit=1,
        )
        stop_button.click(stop, None, made, cancels=[making], queue=False, api_visibility="private")
        page.unload(leave)
    page.queue(max_size=QUEUE)
    return page


def only_from(component: Any, folder: Path) -> None:
    """gradio would take any file of this machine that a program names, and fetch one from any address."""
    move = component.async_move_resource_to_block_cache

    async def move_file(path: str | Path | None) -> str | None:
        if path is not None and not Path(path).resolve().is_relative_to(folder):
            raise told("A film is uploaded here, not taken from elsewhere.")
        return await move(path)

    component.async_move_resource_to_block_cache = move_file


def application(page: gr.Blocks, most_bytes: int) -> FastAPI:
    """What a server runs. ``gradio``'s own ``launch`` asks its own address first, which a proxy or a slow machine
    answers wrongly."""
    served: FastAPI = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),  # they would load from elsewhere
        page,
        path="",
        max_file_size=most_bytes,
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
    # What ``launch`` sets: without it gradio takes any file of this machine that a program names for an upload, and
    # does not see that a tab was closed.
    page.has_launched = page.is_running = True
    return served


def usable_schedulers(maker: Maker) -> list[str]:
    """Those of :data:`SCHEDULERS` that work with the preset's noise schedule, and the preset's own."""
    audio, generation = maker.preset.audio, maker.preset.generation
    usable = [generation.scheduler]
    for name in SCHEDULERS:
        try:
            audio.check(replace(generation, scheduler=name))
        except MFMError:
            continue
        usable.append(name)
    return list(dict.fromkeys(usable))


def said(work: Callable[[], Made], video: Path) -> Made:
    """What ``work`` returns; what goes wrong becomes a sentence on the page, which names the film as its owner does."""
    try:
        return work()
    except MFMError as error:
        raise told(str(error).replace(str(video), video.name)) from error
    except StoppedError:
        raise
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        raise told(
            f"This is a defect of ours, not of your film ({type(error).__name__}). Where this page was started, the "
            f"terminal says more."
        ) from error


def told(sentence: str) -> gr.Error:
    """An error that stays until it is read. The page takes HTML, and a sentence may name a file of any name."""
    return gr.Error(html.escape(sentence), duration=None, print_exception=False)
