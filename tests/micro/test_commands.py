"""Commands of ``micro`` with options that cannot be: each is one error before any work."""

import pytest

from tests.commands import run_here


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("render", "--out", "here/clips", "--clips", 0), 2, "--clips"),
        (("render", "--out", "here/clips", "--seed", -1), 2, "--seed"),
        (("study", "--folder", "here/study", "--clips", 10**20), 2, "--clips"),
        (("study", "--folder", "here/study", "--baseline", "none-such"), 3, "unknown preset"),
        (("study", "--folder", "here/study", "--mapper-device", "tpu"), 4, "unknown device 'tpu'"),
        (("study", "--folder", "here/file/study"), 6, "cannot write"),
        (("study", "--folder", "here/study", "--workers", 0), 2, "--workers"),
        (("study", "--folder", "here/study", "--workers", 100_000), 2, "--workers"),
        (("study", "--folder", "here/study", "--device-workers", 0), 2, "--device-workers"),
        (("curve", "--folder", "here/study", "--workers", -1), 2, "--workers"),
        (("vocoders", "--out", "here/out", "--rounds", 0), 2, "--rounds"),
        (("vocoders", "--out", "here/file/out"), 6, "cannot write"),
        (("probe", "--out", "here/out", "--ceiling", -1), 2, "--ceiling"),
        (("probe", "--out", "here/out", "--threads", -1), 2, "--threads"),
        (("probe", "--out", "here/file/out"), 6, "cannot write"),
        (("probe", "--out", "here/out", "--mapper", "here/none"), 5, "no trained mapper in"),
        (("train", "--folder", "here/models", "--threads", 10**13), 2, "--threads"),
        (("train", "--folder", "here/models", "--scale", "nan"), 4, "--scale is nan, and must be a number above 0"),
        (("train", "--folder", "here/models", "--scale", "inf"), 4, "--scale is inf, and must be a number above 0"),
        (("train", "--folder", "here/models", "--scale", 0), 4, "--scale is 0, and must be a number above 0"),
        (("train", "--folder", "here/file/models"), 6, "cannot write"),
        (("train", "--folder", "here/models", "--export", "here/file/weights"), 6, "cannot write"),
        (("train", "--folder", "here/models", "--mapper", "here/none"), 5, "no trained mapper in"),
        (("train", "--folder", "here/models", "--v2a-mapper", "here/none"), 5, "no trained mapper in"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_what_cannot_be_is_said_first(words, code, said, tmp_path):
    (tmp_path / "file").touch()
    output = run_here("micro", *(str(word).replace("here", str(tmp_path)) for word in words), code=code)
    assert said in output.replace("\n", "")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
