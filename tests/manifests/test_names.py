import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from common.errors import InputError
from manifests.names import MAX_ID_BYTES, as_markdown, check_id

HOSTILE = [
    "../../victim",
    "/etc/passwd",
    "a/b",
    "",
    ".",
    "..",
    ".hidden",
    "a\0b",
    "a\nb",
    "a\x1b[2Jb",
    "x" * 252,
    "ü" * 126,
]


@pytest.mark.parametrize("clip_id", HOSTILE)
def test_ids_that_name_no_file_are_refused(clip_id):
    with pytest.raises(InputError, match="cannot be the name of a file") as caught:
        check_id(clip_id)
    assert caught.value.exit_code == 4
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("clip_id", ["-rf", "-0jeONf82dE_000021", "a b", "100% #1?", "é$x_{$", "x" * MAX_ID_BYTES])
def test_odd_ids_that_are_fine(clip_id, tmp_path):
    (tmp_path / f"{check_id(clip_id)}.wav").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == [f"{clip_id}.wav"]


@given(st.text(max_size=260))
def test_what_passes_stays_in_its_folder(tmp_path_factory, clip_id):
    try:
        check_id(clip_id)
    except InputError:
        return
    folder = tmp_path_factory.mktemp("f")
    path = folder / f"{clip_id}.wav"
    path.write_text("x")
    assert os.listdir(folder) == [path.name]
    assert Path(os.path.normpath(path)).parent == folder


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=60))
def test_markdown_shows_text_as_it_is(text):
    """By another project's CommonMark parser: one run of plain text, no tag, no link, no emphasis."""
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    lines = parser.parse(f"- excluded: x{as_markdown(text)}x")
    (inline,) = [token for token in lines if token.type == "inline"]
    assert {token.type for token in inline.children} <= {"text", "text_special"}
    shown = "".join(token.content for token in inline.children)
    assert shown == "excluded: x" + text.replace("\u2028", " ").replace("\u2029", " ") + "x"


@pytest.mark.parametrize(
    "text", ["<img src=x onerror=alert(1)>", "[a](javascript:alert(1))", "`x`", "a|b", "&lt;", "**b**", "a\n# b"]
)
def test_markdown_of_hostile_ids(text):
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(f"| a |\n| --- |\n| {as_markdown(text)} |")
    for tag in ("<img", "<a ", "<code", "<strong", "<h1"):
        assert tag not in page
    assert page.count("<td") == 1
