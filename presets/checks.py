"""Ranges of settings, and one sentence for a value that is not in them."""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from common.errors import PresetError
from presets.sections import NameOf

T = TypeVar("T")
STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):  # Python's True is 1; in a setting it is a slip
        raise PydanticCustomError("no_number", "a truth value is no number")
    return value


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments as a JSON file could hold them: no dates, no sets, nothing that holds itself, no NaN."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise PydanticCustomError("not_plain", "not plain values") from None
    return value


def _unicode(value: str) -> str:
    """Bytes of a command line that are no UTF-8 come as lone surrogates, which no tokenizer and no file takes."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("no_unicode", "no Unicode") from None
    return value


# Why the upper ends: they are far above any use, and keep a slip of the finger from asking for terabytes.
Number = BeforeValidator(_no_bool)
Count = Annotated[int, Number, Field(ge=1, le=1_000_000)]
Batch = Annotated[int, Number, Field(ge=1, le=100_000)]
Layers = Annotated[int, Number, Field(ge=1, le=512)]
Heads = Annotated[int, Number, Field(ge=1, le=1024)]
Width = Annotated[int, Number, Field(ge=1, le=65_536)]
Workers = Annotated[int, Number, Field(ge=0, le=1024)]
Seed = Annotated[int, Number, Field(ge=0, le=2**32 - 1)]  # what numpy's generators take
Seconds = Annotated[float, Number, Field(gt=0, le=86_400)]
Share = Annotated[float, Number, Field(ge=0, le=1)]
Fraction = Annotated[float, Number, Field(ge=0, lt=1)]
Arguments = Annotated[dict[str, Any], AfterValidator(_plain)]
Prompt = Annotated[str, AfterValidator(_unicode)]


def checked(kind: type[T], values: Mapping[Any, Any], where: str) -> T:
    """A dataclass of settings from plain values; raises :class:`PresetError` with a sentence for each wrong one.

    The sentence names the setting, its value and what is allowed; ``where`` says whose values they are.
    """
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        sentences = [sentence(kind, dict(each)) for each in error.errors(include_url=False)]
    raise PresetError(joined(where, sentences))


def check_heads(prefix: str, width: int, heads: int) -> None:
    """Raise ValueError unless the heads of a transformer share its width evenly; ``prefix``: of the settings' names."""
    if width % heads:
        raise ValueError(f"{prefix}width is {width}, and must be a multiple of {prefix}heads ({heads})")


def joined(where: str, sentences: Iterable[str]) -> str:
    """One message of one sentence, or of a line for each."""
    lines = list(dict.fromkeys(sentences))
    return f"{where}: {lines[0]}" if len(lines) == 1 else f"{where}:\n" + "\n".join(f"  {line}" for line in lines)


def sentence(kind: type, error: Mapping[str, Any]) -> str:
    """What pydantic found wrong in ``kind``, in words of settings."""
    location, fault = error["loc"], error["type"]
    name = _name(location)
    if fault == "value_error":  # of a check that compares settings, which names them
        return str(error["ctx"]["error"])
    if fault in ("unexpected_keyword_argument", "invalid_key", "extra_forbidden"):
        known = list(fields_of(_annotation(kind, location[:-1])[0]) or ())
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        above = _name(location[:-1])
        hint = f"did you mean {_name([*location[:-1], near[0]])}?" if near else f"there are {', '.join(known)}"
        return f"{short(name)} is no setting{f' of {above}' if above else ''}: {hint}"
    if fault in ("missing", "missing_argument"):
        return f"{name} is missing"
    return f"{name} is {short(error['input'])}, and must be {allowed(*_annotation(kind, location))}"


def short(value: object, most: int = 60) -> str:
    """A value on one line of at most about ``most`` letters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    try:
        letters = value if isinstance(value, str) and value.isidentifier() else repr(value)
    except (RecursionError, ValueError):  # nested without end, or a number of thousands of digits
        letters = f"a {type(value).__name__} too large to show"
    letters = str(letters).replace("\n", " ")
    return letters if len(letters) <= most else f"{letters[:most]}..."


def _name(location: Iterable[Any]) -> str:
    """('mapper', 'encoders', 0) -> mapper.encoders[0]"""
    name = ""
    for part in location:
        if isinstance(part, int):
            name += f"[{part}]"
        else:
            name += f".{part}" if name else str(part)
    return name


def fields_of(kind: Any) -> Mapping[str, FieldInfo] | None:
    """Fields of a section by name; None for what is no section."""
    return getattr(kind, "__pydantic_fields__", None)


def _annotation(kind: Any, location: Iterable[Any]) -> tuple[Any, list[Any]]:
    """Type and constraints at a place in ``kind``; Any where it does not say."""
    constraints: list[Any] = []
    for part in location:
        fields = fields_of(kind)
        if fields is not None:
            if part not in fields:
                return Any, []
            kind, constraints = fields[part].annotation, list(fields[part].metadata)
        else:
            items = get_args(kind)
            kind, constraints = _split(items[-1] if get_origin(kind) in (list, dict) and items else Any)
    return kind, constraints


def _split(annotation: Any) -> tuple[Any, list[Any]]:
    if get_origin(annotation) is not Annotated:
        return annotation, []
    kind, *extras = get_args(annotation)
    constraints: list[Any] = []
    for extra in extras:
        constraints += extra.metadata if isinstance(extra, FieldInfo) else [extra]
    return kind, constraints


def field_type(kind: Any, path: Iterable[str]) -> Any:
    """The type of the setting at a dotted path, without its constraints; Any where there is none."""
    return _annotation(kind, path)[0]


def allowed(kind: Any, constraints: Iterable[Any]) -> str:
    """What a setting may be, in words: 'a whole number from 1 to 512'."""
    kind, more = _split(kind)
    constraints = [*constraints, *more]
    origin = get_origin(kind)
    if registry := next((each.registry for each in constraints if isinstance(each, NameOf)), None):
        return f"one of {', '.join(registry)}"
    if fields := fields_of(kind):
        return f"a section with settings: {', '.join(fields)}"
    if origin is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if origin in (Union, types.UnionType):
        kinds = [each for each in get_args(kind) if each is not type(None)]
        return " or ".join([*(allowed(each, constraints) for each in kinds), "null"])
    if origin is list:
        items = allowed(*_split(get_args(kind)[0]))
        return f"a list{_length(constraints)}, each {items}"
    words = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        dict: "a mapping of plain values",
    }
    return words.get(origin or kind, "another value") + _range(constraints)


def _range(constraints: Iterable[Any]) -> str:
    ends = {type(each): each for each in constraints}
    if Ge in ends and Le in ends:
        return f" from {ends[Ge].ge} to {ends[Le].le}"
    words = {Ge: "of at least {0.ge}", Gt: "above {0.gt}", Le: "at most {0.le}", Lt: "below {0.lt}"}
    said = [text.format(ends[kind]) for kind, text in words.items() if kind in ends]
    return f" {' and '.join(said)}" if said else ""


def _length(constraints: Iterable[Any]) -> str:
    least = next((each.min_length for each in constraints if isinstance(each, MinLen)), 0)
    most = next((each.max_length for each in constraints if isinstance(each, MaxLen)), None)
    if most is None:
        return f" of {least} or more" if least else ""
    return f" of {least}" if least == most else f" of {least} to {most}"
