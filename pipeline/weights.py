"""The official files of a preset: which are here, and fetching those that are not."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from huggingface_hub import hf_hub_download, list_repo_files, snapshot_download

from common.errors import InputError, WeightsError
from common.hashing import sha256_file
from pipeline.download import download
from pipeline.hub import choose_files, is_hub_id, repository_folder
from presets import Preset
from presets.audio_models import AUDIO_MODELS
from presets.encoders import ENCODERS
from presets.official import OFFICIAL_FILES, CheckpointFile, Repository

MIRROR = "MFM_WEIGHTS_MIRROR"  # an address under which single files lie by their name in weights/


@dataclass(frozen=True)
class WeightFile:
    """One official file of a preset and the model it belongs to; ``sha256`` is empty while it is missing."""

    model: str
    file: CheckpointFile
    path: Path
    found: bool
    bytes: int
    sha256: str


def models_of(preset: Preset) -> list[str]:
    """Whose files a preset needs: its encoders, audio model, and the evaluation's networks that have official ones."""
    return [
        *preset.stages,
        preset.audio_model,
        *(name for name in preset.evaluation.networks if name in OFFICIAL_FILES),
    ]


def weight_files(preset: Preset, only: Sequence[str] = ()) -> list[WeightFile]:
    """Every official file that a preset needs, with what is on disk; ``only`` names some of the models.

    Nothing is fetched. Raises :class:`InputError` for a model that the preset does not use.
    """
    models = models_of(preset)
    if unknown := [name for name in only if name not in models]:
        raise InputError(f"preset '{preset.name}' has no official files of '{unknown[0]}': of {', '.join(models)}")
    rows = []
    for model in only or models:
        for file in _files_of(model):
            path = _place(file, preset)
            files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path] * path.is_file()
            digests = [sha256_file(file) for file in files]
            joined = hashlib.sha256("".join(digests).encode()).hexdigest() if len(digests) > 1 else "".join(digests)
            rows.append(WeightFile(model, file, path, bool(files), sum(p.stat().st_size for p in files), joined))
    return rows


def _files_of(model: str) -> Sequence[CheckpointFile]:
    """Of an encoder, an audio model, or a network of the evaluation."""
    files: Sequence[CheckpointFile] | None = next(
        (known[model].files for known in (ENCODERS, AUDIO_MODELS) if model in known), OFFICIAL_FILES.get(model)
    )
    return files or ()


def licences_to_fetch(rows: Sequence[WeightFile]) -> dict[str, list[str]]:
    """Licence -> the files that are missing and come under it."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if not row.found:
            found.setdefault(row.file.licence, []).append(row.file.filename)
    return found


def _place(file: CheckpointFile, preset: Preset) -> Path:
    if file.repository is None:
        return preset.weights.path / file.filename
    try:
        return repository_folder(file.repository, preset, [file.part], fetch=False) / file.part
    except WeightsError:  # a hub id of which this is not in the cache yet
        return Path(preset.weights.folders[file.repository.name]) / file.part


def fetch(
    rows: Sequence[WeightFile],
    preset: Preset,
    on_bytes: Callable[[str, int, int | None], None] = lambda name, done, total: None,
) -> None:
    """Fetch what of ``rows`` is missing; one that fails does not keep the others from coming.

    Single files come over HTTP or from the hub, each under a temporary name until it is whole; folders of a
    repository from the hub (``HF_ENDPOINT`` names a mirror of it). The environment variable
    ``MFM_WEIGHTS_MIRROR`` is an address that serves single files by name instead. Raises one
    :class:`WeightsError` with everything that did not come, and with what is to be fetched by hand.
    """
    missing = [row for row in rows if not row.found]
    problems: list[str] = []
    for repository in dict.fromkeys(row.file.repository for row in missing):
        if repository is None:
            continue
        with _collected(problems):
            on_bytes(f"{repository.folder or repository.name}/", 0, None)
            _fetch_parts(repository, [row.file.part for row in missing if row.file.repository == repository], preset)
    mirror = os.environ.get(MIRROR, "").rstrip("/")
    for row in missing:
        file = row.file
        if file.repository is not None:
            continue
        with _collected(problems):
            url = f"{mirror}/{file.filename}" if mirror else file.url
            on_bytes(file.filename, 0, None)
            if not url:
                raise WeightsError(f"by hand: open {file.source} and put the file there as {row.path}")
            if url.startswith("hub:"):
                _fetch_hub_file(url.removeprefix("hub:"), row.path)
            else:
                download(url, row.path, digest=file.digest, on_bytes=partial(on_bytes, file.filename))
    if problems:
        raise WeightsError(f"{len(problems)} of the files did not come:\n" + "\n".join(f"  {p}" for p in problems))


@contextmanager
def _collected(problems: list[str]) -> Iterator[None]:
    try:
        yield
    except WeightsError as error:
        problems.append(str(error))


def _fetch_hub_file(address: str, target: Path) -> None:
    """``owner/name/path`` of the hub into ``target``, through a folder that huggingface_hub resumes in."""
    owner, name, path = address.split("/", 2)
    part = target.parent / f".{target.name}.part"
    target.parent.mkdir(parents=True, exist_ok=True)
    with _hub_errors(f"https://huggingface.co/{owner}/{name} ({path})"):
        Path(hf_hub_download(f"{owner}/{name}", path, local_dir=part)).replace(target)
    shutil.rmtree(part)


def _fetch_parts(repository: Repository, parts: Sequence[str], preset: Preset) -> None:
    """Folders of a repository, or the files at its top: each under its name only when all of its files are there."""
    if is_hub_id(preset.weights.folders.get(repository.name, "")):
        repository_folder(repository, preset, parts)
        return
    target = repository_folder(repository, preset, parts)
    part = target.parent / f".{target.name}.part"
    with _hub_errors(repository.address):
        names = choose_files(list_repo_files(repository.hub_id), parts)
        snapshot_download(repository.hub_id, local_dir=part, allow_patterns=names)
    if lacking := [name for name in names if not (part / name).is_file()] or not names:
        raise WeightsError(f"{repository.address}: {lacking} did not come")
    if list(parts) == [""]:
        shutil.rmtree(part / ".cache", ignore_errors=True)  # huggingface_hub's own notes
        if target.is_dir():
            target.rmdir()  # empty, else it would not be missing
        part.replace(target)
        return
    target.mkdir(parents=True, exist_ok=True)
    for name in parts:
        if (target / name).is_dir():
            (target / name).rmdir()  # empty, else it would not be missing
        (part / name).replace(target / name)
    shutil.rmtree(part)


@contextmanager
def _hub_errors(where: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the HTTP library's own errors besides the hub's
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise WeightsError(f"{where}: {reason}") from error
