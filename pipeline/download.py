"""One file over HTTP, whole or not at all: resumed where it broke off, under its name only when it is checked."""

from __future__ import annotations

import email.utils
import hashlib
import http.client
import json
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from common.errors import WeightsError

ATTEMPTS = 6  # in a row that bring nothing new
_BLOCK = 1 << 20
_LONGEST_WAIT = 300.0
_TIMEOUT = 60.0


class _TryAgain(Exception):
    """Something that may pass: a broken connection, a busy server. ``wait`` is how long the server asks for."""

    def __init__(self, message: str, wait: float | None = None):
        super().__init__(message)
        self.wait = wait


def download(
    url: str,
    target: str | Path,
    *,
    digest: str = "",
    on_bytes: Callable[[int, int | None], None] = lambda done, total: None,
    sleep: Callable[[float], None] | None = None,
) -> Path:
    """Fetch ``url`` into ``target``, which appears only when it is whole.

    What has come stays in ``<target>.part`` and is gone on with, now and in a later call, unless the file on the
    server has changed. ``digest`` is ``algorithm:hexadecimal digits``, or the first of them. ``on_bytes`` is told
    how many bytes are there and how many are promised. Raises :class:`WeightsError` that names the address.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{target}.lock", timeout=0)
    try:
        with lock:
            part = _Part(url, Path(f"{target}.part"))
            try:
                _fetch(part, on_bytes, sleep or time.sleep)
                if digest:
                    _check_digest(part, digest)
                part.path.replace(target)
                part.about.unlink(missing_ok=True)
            finally:
                Path(lock.lock_file).unlink(missing_ok=True)
    except Timeout:
        raise WeightsError(f"{target} is being fetched by another process") from None
    except OSError as error:
        raise WeightsError(f"{target} cannot be written: {error}") from error
    return target


class _Part:
    """What has come of a file, and of which version of it."""

    def __init__(self, url: str, path: Path):
        self.url, self.path = url, path
        self.about = Path(f"{path}.json")
        try:
            known: Any = json.loads(self.about.read_text())
            self.validator, self.total = str(known["validator"]), known["total"]
            same = known["url"] == url and isinstance(self.total, int | None)
        except (OSError, ValueError, KeyError, TypeError):
            same = False
        if not same or not self.path.is_file():
            self.restart()

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def restart(self) -> None:
        self.path.unlink(missing_ok=True)
        self.about.unlink(missing_ok=True)
        self.validator, self.total = "", None

    def describe(self, validator: str, total: int | None) -> None:
        self.validator, self.total = validator, total
        self.about.write_text(json.dumps({"url": self.url, "validator": validator, "total": total}))


def _fetch(part: _Part, on_bytes: Callable[[int, int | None], None], sleep: Callable[[float], None]) -> None:
    failures, most = 0, part.size
    while True:
        try:
            if _ask(part, on_bytes):
                return
            raise _TryAgain("it broke off")
        except _TryAgain as error:
            failures = 0 if part.size > most else failures + 1
            most = max(most, part.size)
            if failures >= ATTEMPTS:
                raise WeightsError(
                    f"{part.url} could not be fetched: {error}, {failures} times in a row; "
                    f"{part.size} bytes stay in {part.path} to go on from"
                ) from error
            wait = error.wait if error.wait is not None else float(2**failures) if failures else 0.0
            if wait > _LONGEST_WAIT:
                raise WeightsError(f"{part.url}: the server asks to wait {wait:.0f} s; try again then") from error
            sleep(wait)


def _ask(part: _Part, on_bytes: Callable[[int, int | None], None]) -> bool:
    """One request; True when the file is whole."""
    headers = {"User-Agent": "mfm-mapper", "Accept-Encoding": "identity"}
    have = part.size
    if have:
        headers["Range"] = f"bytes={have}-"
        if part.validator:
            headers["If-Range"] = part.validator
    try:
        with urllib.request.urlopen(urllib.request.Request(part.url, headers=headers), timeout=_TIMEOUT) as answer:
            return _take(part, answer, have, on_bytes)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and have:  # nothing behind what is here: whole, or of another version
                if have == part.total:
                    return True
                part.restart()
                raise _TryAgain("the server has another version") from error
            if error.code in (408, 425, 429) or error.code >= 500:
                raise _TryAgain(f"the server answers {error.code}", _retry_after(error.headers)) from error
            raise WeightsError(f"{part.url}: the server answers {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        reason = getattr(error, "reason", None) or error
        raise _TryAgain(f"{type(error).__name__}: {reason}") from error
    except ValueError as error:
        raise WeightsError(f"{part.url} is no address to fetch from: {error}") from error


def _take(part: _Part, answer: Any, have: int, on_bytes: Callable[[int, int | None], None]) -> bool:
    length = answer.headers.get("Content-Length")
    promised = int(length) if length and length.isdigit() else None
    if answer.headers.get_content_type() == "text/html":
        raise WeightsError(f"{part.url} leads to a web page, not to a file")
    tag = answer.headers.get("ETag", "")
    validator = tag if tag.startswith('"') else answer.headers.get("Last-Modified", "")  # a weak tag proves nothing
    if answer.status == 206:
        start, total = _content_range(answer.headers.get("Content-Range", ""))
        if start != have or (part.total is not None and total != part.total):
            part.restart()
            raise _TryAgain("the server has another version")
    else:  # the whole file: no part of it was asked for, or ranges are not served, or it has changed
        have, total = 0, promised
        part.restart()
    part.describe(validator, total)
    if total is not None and total - have > (free := shutil.disk_usage(part.path.parent).free):
        raise WeightsError(f"{part.path.parent} has {free / 1e9:.1f} GB free, {(total - have) / 1e9:.1f} GB are needed")
    with part.path.open("ab") as file:
        while block := answer.read(_BLOCK):
            file.write(block)
            have += len(block)
            on_bytes(have, total)
    if total is not None and have > total:
        part.restart()
        raise _TryAgain(f"{have} bytes came instead of {total}")
    return total is None or have == total


def _content_range(text: str) -> tuple[int, int | None]:
    """Start and whole length of ``bytes 5-9/10``."""
    try:
        span, _, total = text.removeprefix("bytes ").partition("/")
        return int(span.partition("-")[0]), None if total == "*" else int(total)
    except ValueError:
        raise _TryAgain(f"the server answers with a part it does not describe ('{text}')") from None


def _retry_after(headers: Any) -> float | None:
    """Seconds of ``Retry-After``, a number or a date."""
    text = headers.get("Retry-After", "")
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _check_digest(part: _Part, digest: str) -> None:
    algorithm, _, wanted = digest.partition(":")
    with part.path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if not found.startswith(wanted):
        part.restart()
        raise WeightsError(f"{part.url}: {algorithm} is {found}, its authors publish {wanted}; it is thrown away")
