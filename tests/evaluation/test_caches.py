import pytest
import torch

from common.errors import CacheError
from evaluation.caches import finite, maker, read_cache, rows, write_cache


def test_a_cache_is_what_av_benchmark_saves(tmp_path):
    path = tmp_path / "pann_features.pth"
    torch.save({"abc_000001": {"2048": torch.ones(2048), "logits": torch.zeros(527)}}, path)
    entries = read_cache(path)
    assert rows(entries, ["abc_000001"], "2048", "here").shape == (1, 2048)
    assert maker(path) is None
    with pytest.raises(CacheError, match="has no '512', only 2048, logits"):
        rows(entries, ["abc_000001"], "512", "here")


def test_what_is_written_reads_back_and_says_who_made_it(tmp_path):
    path = tmp_path / "vggish_features.pth"
    write_cache(path, {"a": torch.ones(8, 128), "b": torch.zeros(7, 128)}, {"network": "vggish"})
    assert maker(path) == {"network": "vggish"}
    assert rows(read_cache(path), ["a", "b"], "frames", "here").shape == (15, 128)
    assert set(torch.load(path, weights_only=True)) == {"a", "b"}


def test_clips_of_different_shapes_are_named(tmp_path):
    with pytest.raises(CacheError, match="different shapes"):
        rows({"a": torch.ones(3), "b": torch.ones(4)}, ["a", "b"], "", "here")


@pytest.mark.parametrize("content", [b"", b"not a file of torch", None])
def test_a_file_that_is_no_cache_is_named(tmp_path, content):
    path = tmp_path / "pann_features.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CacheError, match=r"pann_features\.pth cannot be read"):
        read_cache(path)


@pytest.mark.parametrize("held", [torch.ones(3), {"a": [1, 2]}])
def test_a_file_that_holds_something_else_is_named(tmp_path, held):
    torch.save(held, tmp_path / "x.pth")
    with pytest.raises(CacheError, match=r"x\.pth"):
        read_cache(tmp_path / "x.pth")


def test_clips_that_are_not_finite_are_left_out():
    good, bad = finite(
        {"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")]), "c": {"x": torch.tensor(torch.inf)}}
    )
    assert (list(good), bad) == (["a"], ["b", "c"])
