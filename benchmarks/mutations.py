"""Valid requests made a little wrong: bytes, messages, JSON, paths and headers.

For fuzz.py, at the client's end of the walk SavedModel -> server -> [client]. Every function takes the random numbers
that it uses, so that the same seed makes the same request.
"""

import copy
import random
import string
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_BYTES = (0x00, 0x01, 0x0A, 0x22, 0x2C, 0x5B, 0x7B, 0x7F, 0x80, 0xFF)
_INTEGERS = (0, 1, -1, 2, 3, 127, 128, 255, 2**20, 2**31 - 1, -(2**31), 2**40, 2**63 - 1, -(2**63))
_FLOATS = (0.0, -0.0, 1.5, 3.4e38, 1e300, 1e-45, float("inf"), float("-inf"), float("nan"))
_TEXTS = (
    "",
    "x",
    "half_plus",
    "tower",
    "stable",
    "canary",
    "classify",
    "regress",
    "\0",
    "ä\u2028",
    "%s",
    "a" * 300,
    "y",
)
_JSON: tuple[Any, ...] = (None, True, 0, -1, 1.5, 2**70, 1e308, "", "x", [], {}, [[]], {"b64": "YQ=="}, {"b64": 1})
_PATHS = (
    "/",
    "//",
    ":",
    "%",
    "%00",
    "%zz",
    "..",
    "?a=1",
    "#",
    "/versions/",
    "/labels/",
    "/metadata",
    "\u00e4",
    " ",
    "\t",
)
_HEADERS = (
    ("Content-Length", "7"),
    ("Content-Length", "-1"),
    ("Transfer-Encoding", "chunked"),
    ("Transfer-Encoding", "nonsense"),
    ("Content-Encoding", "gzip"),
    ("Content-Encoding", "br"),
    ("Expect", "100-continue"),
    ("Expect", "nonsense"),
    ("Connection", "close"),
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Origin", "http://here"),
    ("X-Request-Id", '"\\'),
    ("Authorization", "Bearer x"),
    ("Range", "bytes=0-1"),
    ("A" * 5000, "b"),
)
_METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "FOO", "get", "")
_DEPTH = 200  # of lists in lists


def some_bytes(content: bytes, other: bytes, random: random.Random) -> bytes:
    """Changes a few bytes in place, takes some out, doubles some, or puts a part of another content in."""
    mutated = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        at = random.randrange(len(mutated) + 1)
        end = min(len(mutated), at + random.choice((1, 1, 2, 8, 64)))
        change = random.randrange(6)
        if change == 0 and at < len(mutated):
            mutated[at] ^= 1 << random.randrange(8)
        elif change == 1 and at < len(mutated):
            mutated[at] = random.choice(_BYTES)
        elif change == 2:
            del mutated[at:end]
        elif change == 3:
            mutated[at:at] = mutated[at:end]
        elif change == 4:
            start = random.randrange(len(other) + 1)
            mutated[at:end] = other[start : start + random.choice((1, 4, 32))]
        else:
            del mutated[at:]
    return bytes(mutated)


def a_message(message: Message, random: random.Random) -> Message:
    """A copy in which some fields have other values; it is as well formed as before."""
    mutated = copy.deepcopy(message)
    for _ in range(random.choice((1, 1, 2, 3))):
        _change_a_field(random.choice(_messages(mutated)), random)
    return mutated


def _messages(message: Message) -> list[Message]:
    """A message and all that are in it."""
    found = [message]
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if _is_map(field):
            if field.message_type.fields_by_name["value"].message_type is not None:
                found += [part for key in value for part in _messages(value[key])]
        elif isinstance(value, Message):
            found += _messages(value)
        else:
            found += [part for one in value for part in _messages(one)]
    return found


def _change_a_field(message: Message, random: random.Random) -> None:
    fields = list(message.DESCRIPTOR.fields)
    if not fields:
        return
    there = [field for field, _ in message.ListFields()]
    field = random.choice(there if there and random.random() < 0.7 else fields)
    if random.random() < 0.15:
        message.ClearField(field.name)
    elif _is_map(field):
        _change_a_map(getattr(message, field.name), random)
    elif field.message_type is not None:
        _change_messages(message, field, random)
    elif isinstance(getattr(message, field.name), (str, bytes, int, float)):
        setattr(message, field.name, _value(field, random))
    else:
        values = getattr(message, field.name)
        if values and random.random() < 0.5:
            values[random.randrange(len(values))] = _value(field, random)
        else:
            values.extend([_value(field, random)] * random.choice((1, 1, 2, 50)))


def _change_a_map(entries: Any, random: random.Random) -> None:
    keys = sorted(entries)
    if keys and random.random() < 0.5:
        del entries[random.choice(keys)]
        return
    value = entries[random.choice(_TEXTS)]  # makes it
    if keys and isinstance(value, Message):
        value.CopyFrom(entries[random.choice(keys)])


def _change_messages(message: Message, field: FieldDescriptor, random: random.Random) -> None:
    values = getattr(message, field.name)
    if isinstance(values, Message):
        values.SetInParent()
    elif values and random.random() < 0.5:
        del values[random.randrange(len(values))]
    else:
        added = values.add()
        if len(values) > 1:
            added.CopyFrom(values[0])


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _value(field: FieldDescriptor, random: random.Random) -> Any:
    """A value of a field's type, at the edge of what it can be."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        text = random.choice(_TEXTS)
        return text if field.type == FieldDescriptor.TYPE_STRING else text.encode() * random.choice((1, 1, 9))
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return random.random() < 0.5
    if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return random.choice(_FLOATS)
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return random.randrange(-1, 40)
    bits = 32 if field.cpp_type in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32) else 64
    if field.cpp_type in (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64):
        return random.choice(_INTEGERS) % 2**bits
    return (random.choice(_INTEGERS) + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)


def a_document(document: Any, random: random.Random) -> Any:
    """A copy of a JSON value in which one value is another, is doubled, or is gone."""
    mutated = copy.deepcopy(document)
    parents = [one for one in _containers(mutated) if one]
    if not parents:
        return random.choice(_JSON)
    parent = random.choice(parents)
    key = random.choice(sorted(parent)) if isinstance(parent, dict) else random.randrange(len(parent))
    changes: tuple[Callable[[], None], ...] = (
        lambda: parent.__setitem__(key, random.choice(_JSON)),
        lambda: parent.__delitem__(key),
        lambda: parent.__setitem__(key, [parent[key]]),
        lambda: parent.__setitem__(key, [copy.deepcopy(parent[key])] * random.choice((2, 5))),
        lambda: parent.__setitem__(key, _deep(parent[key], random.choice((40, 70, _DEPTH)))),
        lambda: parent.update({random.choice(_TEXTS): parent[key]}) if isinstance(parent, dict) else parent.append(key),
    )
    random.choice(changes)()
    return mutated


def _containers(value: Any) -> list[Any]:
    if isinstance(value, (dict, list)):
        inner = value.values() if isinstance(value, dict) else value
        return [value, *(found for one in inner for found in _containers(one))]
    return []


def _deep(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value


def a_path(path: str, random: random.Random) -> str:
    """Puts something into a path, in the place of what is there or beside it."""
    at = random.randrange(1, len(path) + 1)
    return path[:at] + random.choice((*_PATHS, random.choice(string.printable))) + path[at + random.randrange(3) :]


def some_headers(headers: Mapping[str, str], random: random.Random) -> dict[str, str]:
    """Headers with one or two more."""
    return {**headers, **dict(random.choices(_HEADERS, k=random.choice((1, 1, 2))))}


def a_method(random: random.Random) -> str:
    """A method of HTTP, or none."""
    return random.choice(_METHODS)
