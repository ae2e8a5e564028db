"""What the features were made by, and whether two lots of them are of one kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Settings that do not change what the features mean: rounding, who decoded, which clips were left out.
_SAME_MEANING = ("precision", "backend", "silence_threshold_db")
# Settings of the media that only the sound, or only the picture, depends on.
_SOUND_ONLY, _PICTURE_ONLY = ("sample_rate",), ("frames_per_second", "frame_size", "resize")
_SOUND = ("audiomae",)


def features_provenance(made: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """``encoders`` (weights by name), ``encoder_configs`` and ``media`` from the fingerprints of the stages."""
    return {
        "encoders": {name: values["weights"] for name, values in made.items()},
        "encoder_configs": {name: values["config"] for name, values in made.items()},
        "media": next((values["media"] for values in made.values() if values["media"]), {}),
    }


def differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Every setting in which two nested mappings differ, as ``name: value there, value here``."""
    found = []
    for name in sorted({*there, *here}):
        one, other = there.get(name), here.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += differences(one, other, f"{prefix}{name}.")
        elif one != other:
            found.append(f"{prefix}{name}: {_short(one)} there, {_short(other)} here")
    return found


def differing_features(trained: Mapping[str, Any], here: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """In what the features of the encoders ``names`` differ, as :func:`differences`; empty if they are of one kind.

    Both are as :func:`features_provenance` gives them. A setting that only one of the two knows is not compared:
    a mapper that was saved before the setting existed had what is now its default.
    """
    found = []
    for name in names:
        one, other = trained.get("encoders", {}).get(name), here.get("encoders", {}).get(name)
        if one != other:
            found.append(f"weights of {name}: {_short(one)} there, {_short(other)} here")
        configs = (trained.get("encoder_configs", {}).get(name, {}), here.get("encoder_configs", {}).get(name, {}))
        found += _common_differences(*configs, f"encoders.{name}.", ())
    ignored: tuple[str, ...] = ()
    if all(name in _SOUND for name in names):
        ignored = _PICTURE_ONLY
    elif not any(name in _SOUND for name in names):
        ignored = _SOUND_ONLY
    return found + _common_differences(trained.get("media") or {}, here.get("media") or {}, "media.", ignored)


def _common_differences(
    one: Mapping[str, Any], other: Mapping[str, Any], prefix: str, ignored: tuple[str, ...]
) -> list[str]:
    common = [name for name in one if name in other and name not in (*_SAME_MEANING, *ignored)]
    return differences({name: one[name] for name in common}, {name: other[name] for name in common}, prefix)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 48 else f"{text[:45]}..."
