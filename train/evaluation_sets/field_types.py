"""What the fields of a set.json have to be: JSON may hold a text where a list is meant, which would be read as one.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from vit22b.fields import require


def check_fields(described: Any) -> None:
    """Raises ValueError where a field of an EvaluationSet has another type than is documented there."""
    fields = vars(described)
    require_texts("name", (fields["name"],))
    require("/" not in fields["name"], f"`name` is {fields['name']!r}; rows say NAME/PART: it cannot have a slash")
    require_texts("origin", (fields["origin"],))
    require_texts("groups", () if fields["groups"] is None else (fields["groups"],))
    for name in ("synthetic", "retrieval"):
        require(isinstance(fields[name], bool), f"`{name}` is {fields[name]!r}; expected true or false")
    for name in ("classes", "templates"):
        require(isinstance(fields[name], tuple), f"`{name}` is {fields[name]!r}; expected a list of texts")
        require_texts(name, fields[name])
    for name in ("categories", "legend", "details"):
        require(isinstance(fields[name], Mapping), f"`{name}` is {fields[name]!r}; expected an object")
    require_texts("categories", fields["categories"].values())
    for name, colour in fields["legend"].items():
        require(
            isinstance(colour, tuple) and len(colour) == 3 and all(map(_is_level, colour)),
            f"`legend` has {list(colour) if isinstance(colour, tuple) else colour!r} for {name!r}; expected a colour: "
            "[red, green, blue], each a whole number from 0 to 255",
        )


def _is_level(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def require_texts(name: str, values: Iterable[Any]) -> None:
    """Raises ValueError where one of a field's values is no text, or has nothing in it."""
    for value in values:
        require(isinstance(value, str) and bool(value.strip()), f"`{name}` has {value!r}; expected a text")
