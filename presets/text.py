"""YAML text of presets and of ``--set``: plain values, and a typed error for everything else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml

from common.errors import PresetError
from presets.checks import field_type, short


class _Loader(yaml.SafeLoader):
    """YAML with the plain scalars of its version 1.2: ``no`` is text (a setting has that name), 1e-3 is a number.

    PyYAML follows version 1.1, where ``no`` is false, ``1e-3`` is text, ``1:30`` is 90 and ``010`` is 8.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own way to set them)

    def construct_whole(self, node: yaml.ScalarNode) -> int:
        return int(node.value)

    def construct_number(self, node: yaml.ScalarNode) -> float:
        return float(re.sub(r"\.(inf|nan)$", r"\1", node.value.lower()))


_RESOLVERS = (
    ("null", r"~|null|Null|NULL|", "~nN", yaml.SafeLoader.construct_yaml_null),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF", yaml.SafeLoader.construct_yaml_bool),
    ("int", r"[-+]?[0-9][0-9_]*", "-+0123456789", _Loader.construct_whole),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
        _Loader.construct_number,
    ),
    ("merge", r"<<", "<", None),
)
for _name, _pattern, _first, _construct in _RESOLVERS:
    _letters = list(_first) + [""] * (_name == "null")
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), _letters)
    if _construct is not None:
        _Loader.add_constructor(f"tag:yaml.org,2002:{_name}", _construct)


def parse_yaml(text: str, where: str) -> Any:
    """Plain values of YAML text; raises :class:`PresetError` that says where the text goes wrong."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise PresetError(f"{where} is not YAML: {problem or short(str(error))}{place}") from None
    except RecursionError:
        raise PresetError(f"{where} is not YAML that can be read: it is nested too deeply") from None
    except (ValueError, TypeError, ArithmeticError) as error:  # of a tag and a value that do not go together
        raise PresetError(f"{where} is not YAML that can be read: {short(str(error))}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Sections of a YAML file; raises :class:`PresetError` for a file that cannot be read or holds something else."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise PresetError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise PresetError(f"{path} is not a text file in UTF-8") from None
    values = parse_yaml(text, str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise PresetError(f"{path} is not a mapping of sections, such as 'training: {{epochs: 3}}'")
    return values


def assigned_value(kind: Any, assignment: str) -> dict[str, Any]:
    """``section.field=value`` as nested mappings; raises :class:`PresetError` if it is not of that form.

    The value is YAML, but for a setting that is text: there it is taken as it stands.
    """
    name, separator, text = assignment.partition("=")
    keys = name.strip().split(".")
    if not separator or not all(keys):
        raise PresetError(f"--set {short(assignment)} is not of the form section.field=value")
    value: Any = text.strip() if _is_text(field_type(kind, keys)) else parse_yaml(text, f"--set {name}: {short(text)}")
    for key in reversed(keys):
        value = {key: value}
    return value


def _is_text(kind: Any) -> bool:
    return kind is str or (get_origin(kind) is Literal and all(isinstance(each, str) for each in get_args(kind)))


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``override``, section by section.

    Arguments of another class, by ``_class_name``, take the place of the old ones: that class has none of them.
    """
    merged = dict(base)
    for key, value in override.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            same = value.get("_class_name", below.get("_class_name")) == below.get("_class_name")
            value = merge(below, value) if same else value
        merged[key] = value
    return merged
