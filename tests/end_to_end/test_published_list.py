"""The published lists' formats at full length, through the command."""

import csv
import random

from tests.commands import run_here


def test_visualsound_list_of_published_size(tmp_path):
    dice = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
    rows = []
    for number in range(91_047):
        split = "test" if number % 17 == 0 else "train"
        youtube_id = "".join(dice.choices(letters, k=11))
        rows.append([youtube_id, dice.randrange(600), f"label {number % 308}, quoted", split])
    table = tmp_path / "visualsound.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", "start", "desc", "split"])
        writer.writerows(rows)
    held_out = [row for row in rows if row[3] == "train"][:8_357]
    names = [f"{name}_{start * 1000}_{start * 1000 + 10_000}" for name, start, _, _ in held_out]
    (tmp_path / "validation.txt").write_text("\n".join(names) + "\n")
    text = run_here(
        "pipeline", "manifest", "--visualsound", table, "--validation", tmp_path / "validation.txt",
        "--out", tmp_path / "m.parquet", "--preset", "paper",
    )  # fmt: skip
    train = sum(row[3] == "train" for row in rows) - 8_357
    assert f"test {91_047 - train - 8_357}, train {train}, validation 8357" in text
    assert "missing_file 91047" in text
    assert "356 of 256 clips" in text


def test_the_list_that_comes_with_us(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "--56QUhyDQM_000185.mp4").write_bytes(b"")
    text = run_here(
        "pipeline", "manifest", "--visualsound", "published", "--videos", tmp_path / "videos",
        "--out", tmp_path / "m.parquet",
    )  # fmt: skip
    assert "missing_file 91046" in text
    assert "empty_file 1" in text
