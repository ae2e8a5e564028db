"""Clip ids as names of files: one check, for all that read ids and all that make names of them."""

from __future__ import annotations

import os
import unicodedata

from pipeline.errors import InputError

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
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in clip_id):
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
