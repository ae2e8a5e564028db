import csv
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from manifests.builders import clips_from_folder, clips_from_vggsound, clips_from_visualsound
from manifests.manifest import Clip, make_manifest, read_manifest, write_manifest
from manifests.names import clip_name, parse_clip_name
from pipeline.probing import probe_clips
from tests.media_factory import make_media
from tests.pipeline.hanging import hangs_on_bad

youtube_ids = st.text("abcXYZ019_-", min_size=11, max_size=11)


@given(youtube_ids, st.integers(0, 99_999))
def test_every_file_name_convention_is_read_back(youtube_id, start):
    assert parse_clip_name(clip_name(youtube_id, start)) == (youtube_id, start)
    assert parse_clip_name(f"{youtube_id}_{start * 1000}_{(start + 10) * 1000}") == (youtube_id, start)
    assert parse_clip_name(f"{youtube_id}_{start}_{start + 10}") == (youtube_id, start)


@given(st.text(max_size=30))
def test_other_names_never_raise(stem):
    name = parse_clip_name(stem)
    assert name is None or len(name[0]) == 11


def write_csv(path, rows, header=None):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        if header:
            writer.writerow(header)
        writer.writerows(rows)
    return path


def test_vggsound_finds_files_under_three_names(tmp_path):
    ids = ["-aaaaaaaaaa", "bbbbbbbbbbb", "ccccccccccc", "ddddddddddd"]
    table = write_csv(tmp_path / "vggsound.csv", [[i, 30 + n, "dog, barking", "train"] for n, i in enumerate(ids)])
    videos = tmp_path / "videos"
    make_media(videos / "train" / f"{ids[0]}_000030.mp4", seconds=0.5)
    make_media(videos / f"{ids[1]}_31000_41000.mkv", seconds=0.5)
    make_media(videos / "x" / "y" / f"{ids[2]}_32_42.mp4", seconds=0.5)
    clips = {clip.youtube_id: clip for clip in probe_clips(clips_from_vggsound(table, videos))}
    assert [clips[i].status for i in ids] == ["ok", "ok", "ok", "missing_file"]
    assert clips[ids[0]].label == "dog, barking"
    assert clips[ids[0]].clip_id == "-aaaaaaaaaa_000030"
    assert clips[ids[0]].has_audio
    assert clips[ids[0]].audio_rate == 16_000


def test_visualsound_with_validation(tmp_path):
    table = write_csv(
        tmp_path / "visualsound.csv",
        [["aaaaaaaaaaa", 1, "x", "train"], ["bbbbbbbbbbb", 2, "y", "train"], ["ccccccccccc", 3, "z", "test"]],
        header=["filename", "start", "desc", "split"],
    )
    held_out = tmp_path / "validation.txt"
    held_out.write_text("bbbbbbbbbbb_2000_12000\n")
    clips = clips_from_visualsound(table, validation=held_out)
    assert [clip.split for clip in clips] == ["train", "validation", "test"]
    assert all(clip.status == "missing_file" for clip in clips)


@pytest.mark.parametrize("row", [["aaaaaaaaaaa", "x", "l", "train"], ["aaaaaaaaaaa", "1"], ["a", "1", "l", "dev"]])
def test_broken_rows_name_file_and_line(tmp_path, row):
    table = write_csv(tmp_path / "v.csv", [["bbbbbbbbbbb", 1, "l", "test"], row])
    with pytest.raises(InputError, match=r"v\.csv:2"):
        clips_from_vggsound(table)


def test_folder_gives_splits_labels_and_ids(tmp_path):
    make_media(tmp_path / "test" / "dog_barking" / "abcdefghijk_000007.mp4", seconds=0.5)
    make_media(tmp_path / "holiday.mp4", seconds=0.5)
    make_media(tmp_path / "a" / "same.mp4", seconds=0.5)
    make_media(tmp_path / "b" / "same.mp4", seconds=0.5)
    clips = {clip.clip_id: clip for clip in clips_from_folder(tmp_path)}
    assert set(clips) == {"abcdefghijk_000007", "holiday", "a__same", "b__same"}
    assert clips["abcdefghijk_000007"].split == "test"
    assert clips["abcdefghijk_000007"].label == "dog barking"
    assert clips["holiday"].split == "train"
    assert clips["holiday"].label == ""


def test_folder_without_videos(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="holds no videos"):
        clips_from_folder(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        clips_from_folder(tmp_path / "nowhere")


def some_clips(count):
    return [Clip(f"clip{n:04d}", f"id{n}", n, f"label {n % 3}", "train", f"/v/{n}.mp4") for n in range(count)]


@given(st.randoms(use_true_random=False), st.integers(1, 40), st.integers(1, 9))
def test_shards_do_not_depend_on_the_order_of_discovery(random, count, size):
    clips = some_clips(count)
    shuffled = list(clips)
    random.shuffle(shuffled)
    one, other = make_manifest(clips, size), make_manifest(shuffled, size)
    assert one == other
    assert [clip for k in range(one.shard_count) for clip in one.shard(k)] == clips
    assert one.digest == other.digest


def test_round_trip_and_damage(tmp_path):
    manifest = make_manifest(some_clips(5), 2)
    path = tmp_path / "m.parquet"
    write_manifest(manifest, path)
    assert read_manifest(path) == manifest
    assert [p.name for p in tmp_path.iterdir()] == ["m.parquet"]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="not a Parquet manifest"):
        read_manifest(path)
    with pytest.raises(InputError, match="does not exist"):
        read_manifest(tmp_path / "other.parquet")
    with pytest.raises(InputError, match="no shard 3"):
        manifest.shard(3)
    with pytest.raises(InputError, match="twice"):
        make_manifest([*some_clips(2), *some_clips(1)], 2)


# --- manifests that others wrote ----------------------------------------------------------------

GOOD = {
    "clip_id": ["a", "b"], "youtube_id": ["a", "b"], "start_s": [0, 0], "label": ["x", "y"], "split": ["train", "test"],
    "path": ["/v/a.mp4", "/v/b.mp4"], "duration_s": [1.0, 2.0], "fps": [4.0, 4.0], "width": [8, 8], "height": [8, 8],
    "has_audio": [True, False], "audio_rate": [16_000, 0], "bytes": [1, 2], "file_fingerprint": ["", ""],
    "status": ["ok", "ok"], "reason": ["", ""],
}  # fmt: skip


def foreign(path, columns, metadata=None):
    table = pa.table(columns).replace_schema_metadata({"clips_per_shard": "2"} if metadata is None else metadata)
    pq.write_table(table, path)
    return path


def test_what_other_writers_call_text_and_numbers_is_read(tmp_path):
    columns = {
        **GOOD,
        "label": pa.array(["x", "y"]).dictionary_encode(),
        "path": pa.array(GOOD["path"], pa.large_string()),
        "width": pa.array([8, 8], pa.int32()),
        "fps": pa.array([4.0, 4.0], pa.float32()),
        "more": [1, 2],
    }
    read = read_manifest(foreign(tmp_path / "m.parquet", columns))
    assert [(clip.clip_id, clip.label, clip.split, clip.width) for clip in read.clips] == [
        ("a", "x", "train", 8),
        ("b", "y", "test", 8),
    ]


def test_ids_like_those_of_youtube_and_of_any_film_are_read(tmp_path):
    ids = ["-rf", "Film [official] #1 100%?"]
    assert [c.clip_id for c in read_manifest(foreign(tmp_path / "m", {**GOOD, "clip_id": ids})).clips] == ids


UNSAFE = [
    "../../victim",
    "/etc/passwd",
    "a/b",
    "..",
    ".",
    ".hidden",
    "",
    "a\0b",
    "a\nb",
    "x" * 300,
    "\u00fc" * 126,
]


@pytest.mark.parametrize("clip_id", UNSAFE)
def test_an_unsafe_id_is_refused_with_its_row(tmp_path, clip_id):
    path = foreign(tmp_path / "m.parquet", {**GOOD, "clip_id": ["a", clip_id]})
    with pytest.raises(InputError, match=r"m\.parquet: 1 clip id cannot be the names of files:\n  row 2: ") as caught:
        read_manifest(path)
    assert caught.value.exit_code == 4
    assert len(str(caught.value)) < 500
    with pytest.raises(InputError, match="row 1: "):  # nor is one written
        make_manifest([Clip(clip_id, "y", 0, "l", "train", "/v")], 2)


STRANGE = {
    "a null": ({"label": ["x", None]}, "column label has no value in row 2"),
    "a null id": ({"clip_id": [None, "b"]}, "column clip_id has no value in row 1"),
    "words for numbers": ({"start_s": ["0", "soon"]}, "column start_s must hold int64"),
    "lists": ({"label": [["x"], ["y"]]}, "column label must hold string"),
    "fractions": ({"width": [1.5, 2.5]}, "column width must hold int64"),
    "bytes that are no text": ({"label": pa.array([b"x", b"\xff"])}, "column label must hold string"),
    "another split": ({"split": ["train", "dev"]}, "row 2: split 'dev' is none of train, validation, test"),
    "an id twice": ({"clip_id": ["a", "a"]}, "clip id 'a' stands twice"),
    "a NUL in a path": ({"path": ["/v/a", "/v/\0"]}, "row 2: the path '/v/.x00' has a NUL"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_column_is_named(tmp_path, name):
    columns, said = STRANGE[name]
    with pytest.raises(InputError, match=rf"m\.parquet: {said}"):
        read_manifest(foreign(tmp_path / "m.parquet", {**GOOD, **columns}))


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({}, "missing clips_per_shard"),
        ({"clips_per_shard": "many"}, "clips_per_shard is no number"),
        ({"clips_per_shard": "0"}, "clips per shard must be at least 1"),
        ({"clips_per_shard": "-3"}, "clips per shard must be at least 1"),
    ],
)
def test_strange_metadata_is_named(tmp_path, metadata, said):
    with pytest.raises(InputError, match=said):
        read_manifest(foreign(tmp_path / "m.parquet", GOOD, metadata))


def test_missing_columns_and_no_rows(tmp_path):
    with pytest.raises(InputError, match="missing split"):
        read_manifest(foreign(tmp_path / "m", {name: column for name, column in GOOD.items() if name != "split"}))
    with pytest.raises(InputError, match="no clips"):
        read_manifest(foreign(tmp_path / "m", {name: pa.array(column)[:0] for name, column in GOOD.items()}))
    for path in (tmp_path, "nosuch://place/m.parquet"):
        with pytest.raises(InputError, match="cannot be read"):
            read_manifest(path)


def test_a_flipped_byte_is_found_or_changes_nothing(tmp_path):
    """A typed error, or (in what nobody reads, such as statistics) the same clips."""
    path = tmp_path / "m.parquet"
    write_manifest(make_manifest(some_clips(30), 7), path)
    good, data = read_manifest(path), path.read_bytes()
    dice, found = random.Random(5), 0
    for place in dice.sample(range(len(data)), 250):
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << dice.randrange(8))]) + data[place + 1 :])
        try:
            assert read_manifest(path).clips == good.clips, place
        except InputError:
            found += 1
    assert found > 100


def test_a_file_that_hangs_the_probe_is_named(tmp_path, monkeypatch):
    good, bad = (make_media(tmp_path / f"{name}.mp4", seconds=1, audio=None) for name in ("good", "bad"))
    monkeypatch.setattr("pipeline.probing.probe", hangs_on_bad)
    found = {clip.clip_id: clip for clip in probe_clips(clips_from_folder(tmp_path), seconds=4.0)}
    assert (found["good"].status, found["bad"].status) == ("ok", "timeout")
    assert str(bad) in found["bad"].reason
    assert found["good"].path == str(good)
