"""The fields of the dataclasses that describe a model: what they are checked with, and how they are read from JSON.

Under the configuration, first on the walk config -> image -> batch -> train state -> checkpoint -> SavedModel -> server
-> client. Standard library only, as the configuration is.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

T = TypeVar("T")


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


def from_fields(kind: type[T], values: Mapping[str, Any], strict: bool = True) -> T:
    """Builds a dataclass from a mapping; JSON lists become tuples.

    Args:
        kind: the dataclass.
        values: by field.
        strict: whether an unknown field is an error. What a newer server says of itself is read with it off.

    Raises:
        ValueError: no mapping, or unknown or missing fields; the message names them.
    """
    require(isinstance(values, Mapping), f"{kind.__name__} is {values!r}; expected an object of its fields")
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    extra = sorted(set(values) - {f.name for f in fields})
    require(
        not (strict and extra),
        f"{kind.__name__} has no field {', '.join(extra)}; it was written by a newer version of vit22b",
    )
    required = [f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING]
    missing = sorted(set(required) - set(values))
    require(not missing, f"{kind.__name__} lacks {', '.join(missing)}; it is damaged, or no {kind.__name__}")
    known = {k: v for k, v in values.items() if k not in extra}
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in known.items()})
