"""What the features were made by, and whether two lots of them are of one kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from presets.encoders import reads
from presets.identity import Difference, Kind, differences, settings_of

# Settings that do not change what the features mean: rounding, who decoded, which clips were left out.
_SAME_MEANING: tuple[str, ...] = ("precision", "backend", "silence_threshold_db")
# Settings of the media that only the sound, or only the picture, depends on.
_SOUND_ONLY, _PICTURE_ONLY = ("sample_rate",), ("frames_per_second", "frame_size", "resize")


def features_provenance(made: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """``encoders`` (weights by name), ``encoder_configs`` and ``media`` from the fingerprints of the stages."""
    return {
        "encoders": {name: values["weights"] for name, values in made.items()},
        "encoder_configs": {name: values["config"] for name, values in made.items()},
        "media": next((values["media"] for values in made.values() if values["media"]), {}),
    }


def record_kind(encoders: Iterable[str]) -> Kind:
    """Which settings the sections of a run's record hold, those of :func:`features_provenance` among them."""
    return {
        "mapper": settings_of("mapper"),
        "training": settings_of("training"),
        "media": settings_of("media"),
        "encoder_configs": {name: settings_of("encoders", name) for name in encoders},
    }


def differing_features(trained: Mapping[str, Any], here: Mapping[str, Any], names: Sequence[str]) -> list[Difference]:
    """In what the features of the encoders ``names`` differ; empty if they are of one kind.

    Both are as :func:`features_provenance` gives them. Of a mapper that says nothing of an encoder's settings, or of
    the media, only what it says is compared.
    """
    found = []
    for name in names:
        weights = [values.get("encoders", {}).get(name) for values in (trained, here)]
        if weights[0] != weights[1]:
            found.append(Difference(f"weights of {name}", *weights))
        one, other = (values.get("encoder_configs", {}).get(name) for values in (trained, here))
        if one and other:
            found += differences(one, other, settings_of("encoders", name), _SAME_MEANING, f"encoders.{name}.")
    ignored = _SAME_MEANING
    read = {reads(name) for name in names}
    if read <= {"waveform"}:
        ignored += _PICTURE_ONLY
    elif "waveform" not in read:
        ignored += _SOUND_ONLY
    one, other = trained.get("media"), here.get("media")
    return found + (differences(one, other, settings_of("media"), ignored, "media.") if one and other else [])
