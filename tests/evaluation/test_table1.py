"""Table 1 of several folders: computed Scale and Param., the paper's rows as quoted, and what does not compare."""

import json

import pytest
from typer.testing import CliRunner

from evaluation.__main__ import app
from evaluation.evaluate import Result
from evaluation.report import quoted, write_report
from evaluation.systems import read_systems
from evaluation.table1 import read_row, shares
from generate.records import About, Outcome, read_made, write_made
from manifests.manifest import Clip
from pipeline.media.writing import write_wav
from presets import load_preset
from tests.media_factory import tone
from trainer.scale import Fitted

OURS, BASELINE = Fitted("gpt2", 85_912_345, 7999.6, 40), Fitted("v2a", 48_830_000, 40_000.0, 80)


@pytest.fixture
def evaluated(tmp_path):
    """``evaluated(name, mapper, ids, **metrics)``: a folder as make generate and make evaluate leave it."""

    def make(name, mapper, ids=("a", "b"), **metrics):
        out = tmp_path / name
        clips = [Clip(clip_id, "", 0, "dog", "test", "") for clip_id in ids]
        for clip_id in ids:
            write_wav(out / "wav" / f"{clip_id}.wav", tone(1), 16_000)
        write_made(About(load_preset("micro"), {}, mapper), clips, Outcome(), out)
        values = {"FD_PaSST": 101.5, "DeSync": 1.0, **metrics}
        write_report(Result(values, {"DeSync": (0.9, 1.1)}, matched=list(ids)), out, {}, mapper)
        return out

    return make


def table1(*outputs, to, code=0):
    words = [word for output in outputs for word in ("--out", str(output))]
    result = CliRunner().invoke(app, ["table1", *words, "--to", str(to)], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def test_measured_rows_stand_above_the_quoted_ones(evaluated, tmp_path):
    ours, baseline = evaluated("ours", OURS, IB_score=27.5), evaluated("v2a", BASELINE, FD_micro=3.0)
    said = table1(f"MFM-Mapper={ours}", f"V2A-Mapper={baseline}", to=tmp_path / "to")
    found = json.loads((tmp_path / "to/table1.json").read_text())
    mine, other = found["measured"]
    assert (mine["method"], mine["Scale"], mine["Param."]) == ("MFM-Mapper", "8,000 h", "85.91M")
    assert (other["method"], other["Scale"], other["Param."]) == ("V2A-Mapper", "40,000 h", "48.83M")
    assert (mine["IB_score ↑"], other["IB_score ↑"], other["FD_micro ↓"]) == ("27.5", "", "3")
    assert mine["DeSync ↓"] == "1 [0.9, 1.1]"
    paper = {row["method"]: row for row in found["quoted"]}
    assert all(name.endswith("(quoted from the paper)") for name in paper)
    assert paper["V2A-Mapper (quoted from the paper)"]["Scale"] == "50,000 h"
    assert paper["MMAudio-S-16kHz (quoted from the paper)"]["Scale"] == ">100,000 h"
    assert paper["VATT (quoted from the paper)"]["Param."] == ""
    assert found["shares"] == [
        "MFM-Mapper was trained on 20 % of the hours of V2A-Mapper: 8,000 h of 40,000 h",
        "MFM-Mapper was trained on 16 % of the hours of V2A-Mapper: 8,000 h of 50,000 h (quoted from the paper)",
        "MFM-Mapper-M was trained on 40 % of the hours of V2A-Mapper: 20,000 h of 50,000 h (quoted from the paper)",
    ]
    assert all(line in said for line in found["shares"])
    assert found["notes"] == []
    text = (tmp_path / "to/table1.md").read_text()
    assert "| MFM-Mapper | 8,000 h | 85.91M | 101.5 |" in text
    assert text.index("| MFM-Mapper |") < text.index("| V-AURA (quoted from the paper) |")
    page = (tmp_path / "to/table1.html").read_text()
    assert page.count('<tr class="measured">') == 2
    assert page.count("(quoted from the paper)</td>") == len(quoted([]))


def test_what_does_not_compare_is_said(evaluated, tmp_path):
    """Other clips; a folder of sound that says nothing; a mapper that does not say what it was trained on."""
    ours = evaluated("ours", OURS)
    others = evaluated("others", Fitted("v2a", 1_000_000, None), ids=("b", "c", "d"))
    foreign = evaluated("foreign", None)
    said = table1(ours, others, f"x|y={foreign}", to=tmp_path)
    assert "others was measured on other clips than ours (3 and 2, 1 of them the same)" in said
    assert "the mapper of others does not say on how much sound it was trained" in said
    assert "foreign does not say what made it, so x|y has no Scale and no Param." in said
    assert "| x\\|y |  |  | 101.5 |" in (tmp_path / "table1.md").read_text()
    assert [
        line for line in shares([read_row(each) for each in read_systems([str(others)])]) if "quoted" not in line
    ] == []


def test_the_report_of_one_folder_has_them_too(evaluated, tmp_path):
    ours = evaluated("ours", OURS)
    text = (ours / "evaluation.md").read_text()
    assert "| this run | 8,000 h | 85.91M | 101.5 |" in text
    assert "| MFM-Mapper (quoted from the paper) | 8,000 h | 124M | 111.74 |" in text
    assert read_made(ours).mapper == OURS


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "is not evaluated: run make evaluate OUT="), ("{", "damaged"), ('{"values": 3}', "damaged")],
)
def test_what_was_not_evaluated_is_named(evaluated, tmp_path, content, says):
    ours = evaluated("ours", OURS)
    (ours / "evaluation.json").unlink()
    if content is not None:
        (ours / "evaluation.json").write_text(content)
    assert says in table1(ours, to=tmp_path, code=4)
    assert not (tmp_path / "table1.md").exists()
