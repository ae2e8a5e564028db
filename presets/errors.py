"""The base of all typed errors, and the one of settings; the others are in :mod:`pipeline.errors`."""

from __future__ import annotations


class MFMError(Exception):
    """Base of all errors whose message is meant for the user; ``exit_code`` is the command's."""

    exit_code = 1


class PresetError(MFMError, ValueError):
    """The preset does not exist or cannot be read, or a setting is unknown, of the wrong type or out of range."""

    exit_code = 3
