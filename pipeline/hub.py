"""Folders of the Hugging Face hub, taken into its cache once and found there afterwards, online or not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import list_repo_files, snapshot_download

from common.errors import WeightsError
from presets import Preset
from presets.official import Repository

_WEIGHTS = (".safetensors", ".bin", ".msgpack", ".h5", ".ot", ".onnx", ".pth", ".ckpt")


def is_hub_id(source: str | Path) -> bool:
    """Whether this reads as ``owner/name`` of the hub and is nothing on the disk; a Path is always on the disk."""
    return (
        isinstance(source, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", source) is not None and not Path(source).exists()
    )


def choose_files(names: Sequence[str], folders: Sequence[str]) -> list[str]:
    """Of a repository's files those that are read: of weights ``.safetensors``, or ``.bin`` where there are none.

    ``folders`` are its sub-folders that are wanted; "" is its top. Half-precision copies are left out where there
    are others.
    """
    chosen = []
    for folder in folders:
        inside = [name for name in names if name.rpartition("/")[0] == folder]
        if any(name.endswith((".safetensors", ".bin")) and ".fp16" not in name for name in inside):
            inside = [name for name in inside if ".fp16" not in name]
        kind = ".safetensors" if any(name.endswith(".safetensors") for name in inside) else ".bin"
        for name in inside:
            weights = name.removesuffix(".index.json")  # a list of the parts of weights in several files
            if weights.endswith(kind) or not weights.endswith(_WEIGHTS):
                chosen.append(name)
    return chosen


def hub_folder(repo_id: str, folders: Sequence[str], what: str, *, fetch: bool = True) -> Path:
    """The folder where the hub's cache holds ``folders`` of a repository; fetched if need be and allowed.

    ``what`` begins the message of a :class:`WeightsError`: no connection and nothing in the cache, no such
    repository, no access, or a repository without these folders.
    """
    reason = ""
    wanted = [f"{folder}/*" if folder else "*" for folder in folders]
    if fetch:
        try:
            wanted = choose_files(list_repo_files(repo_id), folders)
        except Exception as error:  # offline, refused or unknown: the HTTP library's own errors; the cache may do
            fetch, reason = False, _first_line(error)
    # Without a listing: what choose_files leaves out is not in the cache, and is not missed there.
    unread = [] if fetch else [*(f"*{ending}" for ending in _WEIGHTS if ending != ".safetensors"), "*.fp16.*"]
    unread += [f"{pattern}.index.json" for pattern in unread[:-1]]
    try:
        root = Path(
            snapshot_download(repo_id, allow_patterns=wanted, ignore_patterns=unread, local_files_only=not fetch)
        )
    except Exception as error:
        raise WeightsError(
            f"{what}: '{repo_id}' is neither a folder nor a hub id that can be downloaded or is in the hub's cache "
            f"({reason or _first_line(error)})"
        ) from error
    if lacking := [folder for folder in folders if folder and not any((root / folder).glob("*"))]:
        beside = f" and the hub was not reached ({reason})" if reason else ""
        raise WeightsError(f"{what}: '{repo_id}' lacks {', '.join(lacking)} in {root}{beside}")
    return root


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def repository_folder(repository: Repository, preset: Preset, parts: Sequence[str], *, fetch: bool = True) -> Path:
    """The folder of a repository, by the one rule that every stage follows.

    ``weights.folders.NAME`` as a folder or a hub id, of which ``parts`` are fetched; else the repository's folder
    beside the other weights. Raises :class:`WeightsError` for a hub id that cannot be had; a folder that is not there
    is the caller's to name.
    """
    wanted, weights = preset.weights.folders.get(repository.name, ""), preset.weights
    if not wanted:
        named = repository.name if weights.source == "shipped" else repository.folder
        return weights.path / (named or repository.name)
    what = f"weights.folders.{repository.name}"
    return hub_folder(wanted, parts, what, fetch=fetch) if is_hub_id(wanted) else Path(wanted)
