"""What a clip's file was like when it was read, so that a file replaced in place is noticed."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

from manifests.tars import Member, find_member


class SourceFile:
    """One file as it is now; looked at once, when first asked.

    Its ``state`` is ``<bytes>-<modified, ns>-<sha256>``, and "" for a file that cannot be read.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @cached_property
    def _member(self) -> Member | None:
        return find_member(self.path)

    @cached_property
    def size_and_time(self) -> str:
        """``<bytes>-<modified, ns>``; of a file in a tar its own bytes and the tar's time."""
        if self._member is not None:
            return f"{self._member.size}-{self._member.modified_ns}"
        try:
            stat = self.path.stat()
        except (OSError, ValueError):
            return ""
        return f"{stat.st_size}-{stat.st_mtime_ns}" if self.path.is_file() else ""

    @cached_property
    def _content(self) -> str:
        try:
            if self._member is not None:
                return self._member.sha256()
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, ValueError):
            return ""

    @property
    def state(self) -> str:
        # Size and time first: a file that changes meanwhile is then seen as another the next time, not as the same.
        seen = self.size_and_time
        return f"{seen}-{self._content}" if seen and self._content else ""

    def same_as(self, recorded: str | None, compare_content: bool = False) -> bool:
        """Is this the file that was read then?

        Size and time decide; where only the time differs (copied, restored, touched), the content does, as it
        always does with ``compare_content``. What was not recorded (None: caches of older versions) counts as the
        same, and so does a file that is gone: its features stay right.
        """
        if recorded is None or not self.size_and_time:
            return True
        if not recorded:  # there was none then
            return False
        size, _, content = recorded.split("-", 2) if recorded.count("-") == 2 else ("", "", "")
        if size != self.size_and_time.partition("-")[0]:
            return False
        if not compare_content and recorded.startswith(f"{self.size_and_time}-"):
            return True
        return content == self._content or not self._content
