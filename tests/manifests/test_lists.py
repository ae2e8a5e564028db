"""Published lists as they come out of editors, spreadsheets and downloads."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from manifests.builders import clips_from_vggsound, clips_from_visualsound
from manifests.lists import MAX_START, published_visualsound, read_clips, read_names, read_text
from manifests.manifest import make_manifest
from manifests.names import clip_name

HEADER = "filename,start,desc,split\n"
ROWS = 'aaaaaaaaaaa,1,"dog, barking",train\n-bbbbbbbbbb,20,fête,test\n'
EXPECTED = [("aaaaaaaaaaa", 1, "dog, barking", "train"), ("-bbbbbbbbbb", 20, "fête", "test")]

ENCODINGS = {
    "UTF-8": (lambda text: text.encode(), None),
    "UTF-8 with a mark": (lambda text: text.encode("utf-8-sig"), None),
    "UTF-16 with a mark": (lambda text: text.encode("utf-16"), None),
    "UTF-16 the other way": (lambda text: b"\xfe\xff" + text.encode("utf-16-be"), None),
    "UTF-32 with a mark": (lambda text: text.encode("utf-32"), None),
    "Latin-1": (lambda text: text.encode("latin-1"), "read as Windows-1252"),
    "CRLF": (lambda text: text.replace("\n", "\r\n").encode(), None),
    "old Mac": (lambda text: text.replace("\n", "\r").encode(), None),
    "no end of line at the end": (lambda text: text.rstrip("\n").encode(), None),
    "blank lines": (lambda text: text.replace("\n", "\n\n,,,\n \n").encode(), None),
    "spaces": (lambda text: text.replace("20,fête,", " 20 , fête , ").encode(), None),
}


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("name", ENCODINGS)
def test_encodings(name, header, tmp_path):
    encode, note = ENCODINGS[name]
    path = tmp_path / "list.csv"
    path.write_bytes(encode((HEADER if header else "") + ROWS))
    clips = clips_from_visualsound(path) if header else clips_from_vggsound(path)
    assert [(clip.youtube_id, clip.start_s, clip.label, clip.split) for clip in clips] == EXPECTED
    assert [note in said for said in clips.notes] == ([True] if note else [])
    make_manifest(clips, 2)


def test_bytes_that_windows_1252_lacks_are_latin_1(tmp_path):
    (tmp_path / "a").write_bytes(b"caf\xe9\x81")
    assert (tmp_path / "a").read_bytes().decode("latin-1") == read_text(tmp_path / "a").text
    assert "Latin-1" in read_text(tmp_path / "a").note


# The second line of a list, and what the error must say after "list.csv:2: ".
BROKEN = {
    "too few fields": ("ccccccccccc,1,x", "3 fields instead of 4"),
    "too many fields": ("ccccccccccc,1,x,y,train", "5 fields instead of 4"),
    "another separator": ("ccccccccccc;1;x;train", "1 fields instead of 4"),
    "start inf": ("ccccccccccc,inf,x,train", "start 'inf'"),
    "start nan": ("ccccccccccc,nan,x,train", "start 'nan'"),
    "start negative": ("ccccccccccc,-1,x,train", "start '-1'"),
    "start huge": ("ccccccccccc,1e300,x,train", "start '1e300'"),
    "start a word": ("ccccccccccc,soon,x,train", "start 'soon'"),
    "no start": ("ccccccccccc,,x,train", "start ''"),
    "another split": ("ccccccccccc,1,x,dev", "unknown split 'dev'"),
    "no id": (",1,x,train", "it is empty"),
    "an id that leads out": ("../../victim,1,x,train", "another folder"),
    "a hidden id": (".hidden,1,x,train", "hidden"),
    "an id with an escape": ("a\x1b[2Jb,1,x,train", "control characters"),
    "an id of 300 letters": ("x" * 300 + ",1,x,train", "bytes"),
    "a field of 128 KiB": (f"ccccccccccc,1,{'x' * 140_000},train", "field larger than field limit"),
    "a quotation mark that stays open": ('ccccccccccc,1,"x,train\n' + "ddddddddddd,1,x,train\n" * 9000, "never closed"),
    "a short one": ('ccccccccccc,1,"x,train\nddddddddddd,1,x,train', "3 fields instead of 4"),
    "NUL": ("ccccccccccc,1,x\0y,train", "NUL"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_line_is_named(name, tmp_path):
    line, said = BROKEN[name]
    path = tmp_path / "list.csv"
    path.write_text(f"aaaaaaaaaaa,1,x,train\n{line}\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        clips_from_vggsound(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:2: ")
    assert said in message
    assert message.isprintable()
    assert len(message) < 400
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "lists no clips"),
        (b"\n\n", "lists no clips"),
        (ROWS.encode("utf-16-le"), "list.csv:1: a NUL byte.*UTF-16 without"),
        (b"\xff\xfeabc", "its byte-order mark says UTF-16, but byte 4 is not"),
        (b"\xef\xbb\xbfcaf\xe9,1,x,train", "its byte-order mark says UTF-8, but"),
    ],
)
def test_broken_files(tmp_path, data, said):
    (tmp_path / "list.csv").write_bytes(data)
    with pytest.raises(InputError, match=said):
        clips_from_vggsound(tmp_path / "list.csv")


def test_files_that_are_not_there(tmp_path):
    for path, said in ((tmp_path / "none.csv", "does not exist"), (tmp_path, "cannot be read: Is a directory")):
        with pytest.raises(InputError, match=said):
            clips_from_vggsound(path)
        with pytest.raises(InputError, match=said):
            read_names(path)


def test_another_header_is_shown(tmp_path):
    (tmp_path / "list.csv").write_text("id,start,label,split\n" + ROWS)
    with pytest.raises(InputError, match=r"list.csv:1: .*'filename,start,desc,split', not 'id,start,label,split'"):
        clips_from_visualsound(tmp_path / "list.csv")


def test_duplicates_are_counted_and_named(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text(ROWS + 'aaaaaaaaaaa,1.0,"dog, barking",train\n-bbbbbbbbbb,20,fête,train\n', encoding="utf-8")
    clips = clips_from_vggsound(path)
    assert [(clip.youtube_id, clip.split) for clip in clips] == [("aaaaaaaaaaa", "train"), ("-bbbbbbbbbb", "test")]
    assert clips.notes == [
        "not counted, as an earlier row names the clip: 2 rows: aaaaaaaaaaa_000001, -bbbbbbbbbb_000020 "
        "(with another label or split)"
    ]


def test_two_files_of_one_listed_clip_are_named(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text(ROWS, encoding="utf-8")
    for name in ("aaaaaaaaaaa_000001.mp4", "aaaaaaaaaaa_1000_11000.mkv"):
        (tmp_path / name).write_bytes(b"x")
    clips = clips_from_vggsound(path, tmp_path)
    assert [clip.path for clip in clips] == [str(tmp_path / "aaaaaaaaaaa_000001.mp4"), ""]
    second = tmp_path / "aaaaaaaaaaa_1000_11000.mkv"
    assert clips.notes == [f"not used, as another file is of the clip: 1 file: {second}"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_validation_names_in_any_encoding(tmp_path, encoding):
    (tmp_path / "list.csv").write_text(HEADER + ROWS, encoding="utf-8")
    names = "aaaaaaaaaaa_1000_11000\r\n\r\n-bbbbbbbbbb_20000_30000\r\n"
    (tmp_path / "validation.txt").write_bytes(names.encode(encoding))
    clips = clips_from_visualsound(tmp_path / "list.csv", validation=tmp_path / "validation.txt")
    assert [clip.split for clip in clips] == ["validation", "test"]
    assert len(clips.notes) == 1
    assert "1 name of" in clips.notes[0]
    assert "-bbbbbbbbbb_000020" in clips.notes[0]
    (tmp_path / "validation.txt").write_bytes((names + "what\x1b?").encode(encoding))
    with pytest.raises(InputError, match=r"validation.txt:4: 'what\\x1b\?' is not"):
        clips_from_visualsound(tmp_path / "list.csv", validation=tmp_path / "validation.txt")


labels = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=20)
rows = st.tuples(
    st.text("abcXYZ019_-", min_size=11, max_size=11),
    st.integers(0, MAX_START),
    labels,
    st.sampled_from(["train", "test", "val"]),
)


@given(st.lists(rows, min_size=1, max_size=8), st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]))
def test_what_another_writer_writes_is_read_back(tmp_path_factory, table, encoding):
    """Against quoting done by hand: every field in quotation marks, those inside doubled."""
    path = tmp_path_factory.mktemp("list") / "list.csv"
    lines = [",".join('"' + str(field).replace('"', '""') + '"' for field in row) for row in table]
    path.write_bytes("\r\n".join(lines).encode(encoding))
    clips, _ = read_clips(path)
    assert [(c.youtube_id, c.start_s, c.label) for c in clips] == [(i, s, t.strip()) for i, s, t, _ in table]
    assert {clip.clip_id for clip in clips} == {clip_name(i, s) for i, s, _, _ in table}


@given(st.binary(max_size=200) | st.text("\"',;\r\n\0 ax1", max_size=80).map(str.encode))
def test_any_bytes_end_in_order(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("list") / "list.csv"
    path.write_bytes(data)
    for read in (read_clips, read_names):
        try:
            read(path)
        except InputError as error:
            said = str(error)
            assert said.startswith(str(path)), said


def test_the_published_list_comes_with_us(tmp_path):
    """Counts as V-AURA publishes them; one file of it is found under the names that people give."""
    listed = published_visualsound()
    assert Counter(row.split for row in listed) == {"train": 77_263, "validation": 8_356, "test": 5_428}
    assert len({row.clip_id for row in listed}) == 91_047
    assert len({row.label for row in listed}) == 308
    assert all(row.youtube_id and len(row.youtube_id) == 11 and row.label for row in listed)
    with pytest.raises(InputError, match="has its validation clips already"):
        clips_from_visualsound(None, tmp_path, tmp_path / "validation.txt")
