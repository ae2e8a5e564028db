"""The demo's page on sounds whose events are known."""

import re
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import InputError
from evaluation.systems import read_systems
from micro.networks import load_classifier
from micro.page import timeline, write_page
from micro.study import another_of_its_class, scene
from micro.world.render import render_waveform, scene_of
from pipeline.media.writing import write_wav
from presets import load_preset
from tests.media_factory import make_media

IDS = [f"world{number:06d}_000000" for number in (0, 6, 12)]


def test_a_page_of_true_sounds_finds_everything_right(tmp_path):
    for clip_id in IDS:
        for folder in ("wav", "truth"):
            write_wav(tmp_path / folder / f"{clip_id}.wav", render_waveform(scene(clip_id)), 16_000)
    rows = [{"clip_id": c, "label": scene(c).label, "wav": f"wav/{c}.wav"} for c in IDS]
    rows.append({"clip_id": "world000018_000000", "label": "rain falling", "wav": ""})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "made.parquet")
    path, scores = write_page(tmp_path, load_classifier(load_preset("micro")), "a note")
    assert scores["class heard is right"] == "100%"
    hit, known = scores["events hit within 0.15 s"].split(" of ")
    assert hit == known
    page = path.read_text()
    assert page.count("<svg") == 3
    assert "Figure 2" not in page
    assert "world000018" not in page
    assert {f"mp4/{c}.mp4" for c in IDS} == set(re.findall(r'<video[^>]+src="([^"]+)"', page))


def test_figure_2_of_the_clips_that_all_have(tmp_path):
    """One of the two clips was made by the other system, in a folder of its class."""
    for clip_id in IDS[:2]:
        for folder in ("wav", "truth"):
            write_wav(tmp_path / "out" / folder / f"{clip_id}.wav", render_waveform(scene(clip_id)), 16_000)
        make_media(tmp_path / "out/mp4" / f"{clip_id}.mp4", fps=2, audio=False)
    rows = [{"clip_id": c, "label": scene(c).label, "wav": f"wav/{c}.wav"} for c in IDS[:2]]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "out/made.parquet")
    other = tmp_path / "a b" / "its class" / f"{IDS[1]}.wav"
    write_wav(other, render_waveform(scene(IDS[0])), 16_000)
    systems = read_systems([f"V2A-Mapper={tmp_path / 'a b'}"])
    page = write_page(tmp_path / "out", load_classifier(load_preset("micro")), "", systems)[0].read_text()
    (section,) = re.findall(r'<section id="figure2">.*?</section>', page, re.DOTALL)
    assert "figure2.png" in section
    assert (tmp_path / "out/figure2.png").stat().st_size > 10_000
    places = [unquote(place) for place in re.findall(r'<audio[^>]+src="([^"]+)"', section)]
    assert [(tmp_path / "out" / place).resolve() for place in places] == [
        (tmp_path / "out/wav" / f"{IDS[1]}.wav").resolve(), other.resolve(),
    ]  # fmt: skip


def test_the_time_line_has_a_mark_for_each_event_and_a_curve_for_each_level():
    struck, steady = scene_of(0), scene_of(6)
    marks = timeline(struck, render_waveform(struck), None).count('class="mark"')
    assert marks == 2 * len(struck.onsets)
    assert timeline(steady, render_waveform(steady), render_waveform(steady)).count("<polyline") == 3
    assert timeline(struck, np.zeros(160_000, np.float32), None).count('class="mark"') == len(struck.onsets)


def test_a_folder_without_generated_clips_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no made\.parquet"):
        write_page(tmp_path, load_classifier(load_preset("micro")), "")


def test_the_shuffle_keeps_the_class_and_changes_every_clip():
    clips = [f"world{number:06d}_000000" for number in range(36)]
    others = another_of_its_class(clips)
    assert [scene(c).label for c in others] == [scene(c).label for c in clips]
    assert all(one != other for one, other in zip(clips, others, strict=True))
    assert sorted(others) == clips
