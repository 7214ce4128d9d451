"""The fields of the dataclasses that describe a model: what they are checked with, and how they are read from JSON.

Under the configuration, first on the walk config -> image -> batch -> train state -> checkpoint -> SavedModel -> server
-> client. Standard library only, as the configuration is.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
_WORDS = {str: "a text", bool: "true or false", int: "a whole number", float: "a number", NoneType: "null"}


def require(condition: bool, message: str) -> None:
    """Raises ValueError with the message where the condition does not hold."""
    if not condition:
        raise ValueError(message)


def require_choice(name: str, value: Any, choices: Any) -> None:
    """Raises ValueError where a field's value is none of a Literal's."""
    *others, last = map(repr, get_args(choices))
    require(value in get_args(choices), f"{name} is {value!r}; expected {', '.join(others)} or {last}")


def variations(config: Any) -> dict[str, Any]:
    """The fields of a dataclass that have a default and another value, by name."""
    values = ((field, getattr(config, field.name)) for field in dataclasses.fields(config))
    return {f.name: value for f, value in values if f.default is not dataclasses.MISSING and value != f.default}


def require_types(kind: type, values: Mapping[str, Any]) -> None:
    """Raises ValueError where a field's value is not what the dataclass has it annotated with; JSON may hold anything.

    Annotations are texts, numbers, booleans, None, Any, Literals, and tuples, Mappings and unions of those.
    """
    hints = get_type_hints(kind)
    for name, value in values.items():
        require(_fits(value, hints[name]), f"{name} is {value!r}; expected {_in_words(hints[name])}")


def _fits(value: Any, kind: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin is tuple:
        kinds = inner[:1] * len(value) if inner[-1] is Ellipsis and isinstance(value, tuple) else inner
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if origin is Mapping:
        return isinstance(value, Mapping) and all(_fits(each, inner[1]) for each in value.values())
    if kind in (int, float):  # True is an int to Python, and a whole number a float to JSON
        return isinstance(value, int | kind) and not isinstance(value, bool)
    return kind is Any or isinstance(value, kind)


def _in_words(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(map(_in_words, inner))
    if origin is Literal:
        return "one of " + ", ".join(map(repr, inner))
    if origin is tuple:
        many = "" if inner[-1] is Ellipsis else f" of {len(inner)}"
        return f"a list{many} ({_in_words(inner[0])} each)"
    if origin is Mapping:
        return "an object" if inner[1] is Any else f"an object ({_in_words(inner[1])} each)"
    return _WORDS.get(kind, getattr(kind, "__name__", str(kind)))


def from_fields(kind: type[T], values: Mapping[str, Any], strict: bool = True, typed: bool = False) -> T:
    """Builds a dataclass from a mapping; JSON lists become tuples.

    Args:
        kind: the dataclass.
        values: by field.
        strict: whether an unknown field is an error. What a newer server says of itself is read with it off.
        typed: whether values are checked by require_types.

    Raises:
        ValueError: no mapping, unknown or missing fields, or a value of another type; the message names them.
    """
    require(isinstance(values, Mapping), f"{kind.__name__} is {values!r}; expected an object of its fields")
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    names = [f.name for f in fields]
    extra = sorted(set(values) - set(names))
    near = [each for name in extra for each in difflib.get_close_matches(name, names, n=1)]
    require(
        not (strict and extra),
        f"{kind.__name__} has no field {', '.join(extra)}; it was written by a newer version of vit22b, or is misspelt"
        + (f" (did you mean {', '.join(near)}?)" if near else ""),
    )
    required = [f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING]
    missing = sorted(set(required) - set(values))
    require(not missing, f"{kind.__name__} lacks {', '.join(missing)}; it is damaged, or no {kind.__name__}")
    known = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k not in extra}
    if typed:
        require_types(kind, known)
    return kind(**known)
