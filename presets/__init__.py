"""The one place where sizes, constants of the paper and model files are written down.

A preset is a YAML file in this folder (``micro``, ``paper``) or anywhere on disk; every field is
checked against the dataclasses of :mod:`presets.config`. An option (``paper,fast``) is a small file in ``options``.
"""

from common.errors import PresetError
from presets.config import MediaConfig, Preset, available_options, available_presets, load_preset

__all__ = ["MediaConfig", "Preset", "PresetError", "available_options", "available_presets", "load_preset"]
