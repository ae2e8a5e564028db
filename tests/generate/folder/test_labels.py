"""Labels of a folder of videos: one for all, their folders, a table."""

from pathlib import Path, PurePath

import pytest

from common.errors import InputError
from generate.labels import labels_of_table
from tests.generate.folder.made import SMALL


class TestLabels:
    def test_one_for_all(self, generate, videos, sampled, tmp_path):
        generate(videos("a.mp4", "rain/b.mp4"), "-o", tmp_path / "out", *SMALL, "--label", "bell ringing")
        assert [labels for labels, _, _ in sampled] == [["bell ringing", "bell ringing"]]

    def test_a_table(self, generate, videos, sampled, tmp_path):
        folder = videos("a.mp4", "rain/b.mp4", "c.mp4")
        (tmp_path / "labels.csv").write_bytes(
            '\ufefffile,label\nb.mp4,"glass, breaking"\na.mp4,bell\nx.mp4,y\n'.encode()
        )
        text = generate(folder, "-o", tmp_path / "out", *SMALL, "--labels", tmp_path / "labels.csv")
        assert [labels for labels, _, _ in sampled] == [["bell", "", "glass, breaking"]]
        assert "note: rows of --labels that name no video: 1 (x.mp4 (" in text
        assert "labels.csv:4))" in text
        assert "note: videos without a row in --labels, which have no label: 1 (c.mp4)" in text

    def read(self, tmp_path, text, name="labels.csv", videos=("a.mp4", "one/b.mp4", "two/b.mp4")):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return labels_of_table(tmp_path / name, [PurePath(video) for video in videos]).labels

    def test_tabs_paths_and_no_header(self, tmp_path):
        text = "one/b.mp4\tbell, large\n\n./two\\b.mp4\train\n"
        assert self.read(tmp_path, text, "labels.tsv") == ["", "bell, large", "rain"]

    @pytest.mark.parametrize("separator", [";", "\t"])
    def test_what_spreadsheets_write(self, tmp_path, separator):
        rows = ["file,label", 'a.mp4,"glass, breaking"', "one/b.mp4,rain"]
        text = "".join(f"{row}\r\n" for row in rows).replace(",", separator).replace(f"s{separator} b", "s, b")
        assert self.read(tmp_path, text) == ["glass, breaking", "rain", ""]
        assert self.read(tmp_path, f"sep={separator}\r\n{text}") == ["glass, breaking", "rain", ""]

    def test_paths_from_elsewhere(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "lists").mkdir()
        table = tmp_path / "lists" / "labels.csv"
        table.write_text(f"{tmp_path}/films/one/b.mp4,rain\nfilms/two/b.mp4,bell\n../films/a.mp4,dog\n")
        names = [PurePath(name) for name in ("a.mp4", "one/b.mp4", "two/b.mp4")]
        assert labels_of_table(table, names, Path("films")).labels == ["dog", "rain", "bell"]

    def test_accents_in_either_form(self, tmp_path):
        assert self.read(tmp_path, "caf\u00e9.mp4,x\n", videos=["cafe\u0301.mp4"]) == ["x"]

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("a.mp4,bell\na.mp4,rain\n", r"csv:2: 'a.mp4' has the label rain, and bell in .*csv:1"),
            ("a.mp4,bell\n./a.mp4,rain\n", r"csv:2: './a.mp4' has the label"),
            ("b.mp4,rain\n", r"csv:1: several videos are called 'b.mp4': one/b.mp4, two/b.mp4"),
            ("file,label\na.mp4\n", r"csv:2: 1 fields between commas instead of 2"),
            ("a.mp4,glass, breaking\n", r"csv:1: 3 fields .* quotation marks"),
            (",rain\n", r"csv:1: "),
            (
                "x.mp4,rain\ny.mp4,bell\n",
                r"none of its rows names a video: it has 2 \(x.mp4 .*the videos are 3 \(a.mp4,",
            ),
            ("file,label\n", r"lists no files"),
            ('a.mp4,"rain\n', r"csv:1: "),
        ],
    )
    def test_tables_that_cannot_be(self, tmp_path, text, says):
        with pytest.raises(InputError, match=says.replace("label rain, and bell", "label 'rain', and 'bell'")):
            self.read(tmp_path, text)

    def test_a_row_that_stands_twice_counts_once(self, tmp_path):
        assert self.read(tmp_path, "a.mp4,bell\na.mp4,bell\n") == ["bell", "", ""]

    def test_no_table(self, generate, videos, sampled, tmp_path):
        text = generate(videos("a.mp4"), "-o", tmp_path / "out", "--labels", tmp_path / "no.csv", code=4)
        assert "no.csv does not exist" in text
