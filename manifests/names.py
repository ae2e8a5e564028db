"""Clip ids: made from names of files, and checked wherever they are read or made into names of files again."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import PurePath

from common.errors import InputError

# File systems allow 255 bytes a name; the longest suffixes that are put behind an id (".wav", ".mp4") have four.
MAX_ID_BYTES = 251


def id_fault(clip_id: object) -> str | None:
    """Why a clip id cannot be the stem of a file's name; None if it can.

    A name that starts with "-" is allowed: ids of YouTube do, and names are always given with their folder.
    """
    if not isinstance(clip_id, str) or not clip_id:
        return "it is empty"
    if "/" in clip_id:
        return "it has a '/', which would lead to another folder"
    if clip_id.startswith("."):
        return "it starts with '.', so its files would be hidden"
    if any(map(_is_control, clip_id)):
        return "it has control characters, or characters that are no Unicode"
    if (size := len(os.fsencode(clip_id))) > MAX_ID_BYTES:
        return f"it has {size} bytes, and the name of a file at most {MAX_ID_BYTES} and a suffix"
    return None


def check_id(clip_id: str) -> str:
    """The id, if it can be the stem of a file's name; else raises :class:`InputError` that says why not."""
    if fault := id_fault(clip_id):
        raise InputError(f"clip id {short_repr(clip_id)} cannot be the name of a file: {fault}")
    return clip_id


def short_repr(text: object, most: int = 80) -> str:
    """``repr`` of at most about ``most`` letters, for messages."""
    letters = repr(text)
    return letters if len(letters) <= most else f"{letters[:most]}...'"


def as_markdown(text: object) -> str:
    """Text of others for one line of Markdown: shown as it is, whatever it holds."""
    plain = "".join(" " if _is_control(letter) or letter in "\u2028\u2029" else letter for letter in str(text))
    return re.sub(r"([\\`*_~\[\]<>|&$#!])", r"\\\1", plain)


def _is_control(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cc", "Cs")


def safe_id(text: str) -> str:
    """``text`` where it is fit for a clip id, else something like it that is, and that follows from it alone.

    Control characters and "/" become "_", what is too long is cut, and a hash of the text keeps ids apart.
    Raises :class:`InputError` for no text at all.
    """
    if not text or id_fault(text) is None:
        return check_id(text)
    plain = "".join("_" if letter == "/" or _is_control(letter) else letter for letter in text)
    plain = f"_{plain[1:]}" if plain.startswith(".") else plain
    cut = plain.encode()[: MAX_ID_BYTES - 10].decode(errors="ignore")
    return f"{cut}__{_hash(text)}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


_START_END = re.compile(r"^(?P<id>.{11})_(?P<start>[0-9]{1,12})_(?P<end>[0-9]{1,12})$", re.DOTALL)
_START = re.compile(r"^(?P<id>.{11})_(?P<start>[0-9]{6})$", re.DOTALL)


def parse_clip_name(stem: str) -> tuple[str, int] | None:
    """(YouTube id, start second) of a VGGSound file name, or None.

    Three conventions: ``<id>_<start ms>_<end ms>`` (V-AURA), ``<id>_<start s, six digits>`` (MMAudio,
    V2A-Mapper, the Hugging Face copies) and ``<id>_<start s>_<end s>``; in the two with an end, the
    length tells seconds from milliseconds (a clip is 10 s, and never 10 ms).
    """
    if match := _START.match(stem):
        return match["id"], int(match["start"])
    if match := _START_END.match(stem):
        start, end = int(match["start"]), int(match["end"])
        if 0 < end - start <= 100:
            return match["id"], start
        return match["id"], round(start / 1000)
    return None


def clip_name(youtube_id: str, start_s: int) -> str:
    """The id used everywhere: ``<youtube id>_<start second, six digits>`` (as MMAudio's evaluation)."""
    return f"{youtube_id}_{start_s:06d}"


def ids_of_files(paths: Sequence[PurePath], suffixes: Sequence[str]) -> list[str]:
    """A clip id for each file of a folder, all distinct and fit for names of files.

    ``paths`` are relative to the folder. The id is the clip's name (VGGSound's, else the stem). Files of one name
    in several folders have their folders in front; of one name in one folder, the kind that stands first in
    ``suffixes`` keeps the name and the others have their suffix behind it. So a file that is added can change the
    ids of files of its own name alone (but for a name that looks like an id so made: both then get a hash).
    """
    names = [clip_name(*found) if (found := parse_clip_name(path.stem)) else path.stem for path in paths]
    rank = {suffix: place for place, suffix in enumerate(suffixes)}
    groups: dict[str, list[int]] = defaultdict(list)
    for index in sorted(range(len(paths)), key=lambda i: (rank.get(paths[i].suffix.lower(), len(rank)), paths[i])):
        groups[names[index]].append(index)
    ids = list(names)
    for group in groups.values():
        several = len({paths[index].parent for index in group}) > 1
        taken: set[PurePath] = set()
        for index in group:
            path = paths[index]
            parts = [*(path.parent.parts if several else ()), names[index]]
            if path.parent in taken:
                parts.append(path.suffix[1:].lower())
            taken.add(path.parent)
            ids[index] = "__".join(parts)
    ids = [safe_id(clip_id) for clip_id in ids]
    # What is left: names that look like what was made above (``a__b.mp4`` beside ``a/b.mp4``).
    count = Counter(ids)
    return [
        clip_id if count[clip_id] == 1 else safe_id(f"{clip_id}__{_hash(path.as_posix())}")
        for clip_id, path in zip(ids, paths, strict=True)
    ]
