"""JSON as TensorFlow Serving writes it: RapidJSON's layout, and floats in the fewest digits that bring them back.

The last hop of a REST answer on the way SavedModel -> server -> client, and the values that error texts quote. Arrays
are formatted and joined a whole level at a time.
"""

import base64
import contextlib
import decimal
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from serving.json_reader import Repeated
from serving.json_tokens import encode

_INDENT = "    "
_QUOTED_BYTES = 256  # of a value in an error text, about
_SHORT = 6  # digits of %g
_INT64_MIN, _UINT64_MAX = -(2**63), 2**64 - 1
_ESCAPES = {code: f"\\u{code:04X}" for code in range(0x20)} | {
    ord(letter): f"\\{name}" for letter, name in zip('\b\t\n\f\r"\\', 'btnfr"\\', strict=True)
}


class UnwritableError(ValueError):
    """An array of a dtype that JSON has no form for."""


def string(text: str) -> str:
    """A string with its quotes."""
    return f'"{text.translate(_ESCAPES)}"'


def error(text: str) -> bytes:
    """The body of a failed request."""
    return encode(f'{{\n{_INDENT}"error": {string(text)}\n}}')


def elements(array: np.ndarray, base64_depth: int | None = None) -> list[str]:
    """The text of every element, in the array's order.

    Args:
        array: of numbers, booleans, or objects that are bytes.
        base64_depth: write bytes as {"b64": ..}, with so many containers around it; if None, as the strings that they
            are, UTF-8 or not.

    Raises:
        UnwritableError: there is no form for the dtype.
    """
    kind, flat = array.dtype, array.ravel()
    if not flat.size:
        return []
    if kind in (np.float32, np.float64):
        return _floats(flat)
    if kind == np.bool_:
        return ["true" if value else "false" for value in flat.tolist()]
    if kind in (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint32, np.uint64):
        return list(map(str, flat.tolist()))
    if kind.kind != "O":
        raise UnwritableError(str(kind))
    if base64_depth is not None:
        return [_base64(value, base64_depth) for value in flat.tolist()]
    return [string(value.decode("utf-8", "surrogateescape")) for value in flat.tolist()]


def _base64(value: bytes, depth: int) -> str:
    return f'{{\n{_INDENT * (depth + 1)}"b64": "{base64.b64encode(value).decode()}"\n{_INDENT * depth}}}'


def nest(texts: list[str], shape: Sequence[int], *, outer: int = 0, depth: int | None = None) -> list[str]:
    """Joins elements to nested arrays.

    Args:
        texts: of all elements.
        shape: of the whole.
        outer: how many of the leading axes stay apart.
        depth: how many containers are around the outermost arrays, for one element a line; None for all on one line.

    Returns:
        The texts of the arrays: one, or as many as the outer axes have elements.
    """
    for axis in reversed(range(outer, len(shape))):
        texts = _level(texts, shape[axis], math.prod(shape[:axis]), None if depth is None else depth + axis - outer)
    return texts


def _level(texts: list[str], size: int, count: int, depth: int | None) -> list[str]:
    if size == 0:
        return ["[]"] * count
    start, between, end = "[", ", ", "]"
    if depth is not None:
        line = "\n" + _INDENT * (depth + 1)
        start, between, end = "[" + line, "," + line, "\n" + _INDENT * depth + "]"
    return [start + between.join(texts[first : first + size]) + end for first in range(0, len(texts), size)]


def _floats(values: np.ndarray) -> list[str]:
    """%g where its six digits bring the value back, and else as many as always do, as absl::StrCat and printf write."""
    digits = 9 if values.dtype == np.float32 else 17
    texts = _printed(values, digits)
    finite = np.isfinite(values)
    short = np.flatnonzero(finite & _may_be_short(values))
    for index, text in zip(short.tolist(), _printed(values[short], _SHORT), strict=True):
        if values.dtype.type(text) == values[index]:
            texts[index] = text
    for index in np.flatnonzero(finite & (values == np.trunc(values))).tolist():
        if "." not in texts[index] and "e" not in texts[index]:
            texts[index] += ".0"
    for index in np.flatnonzero(~finite).tolist():
        value = values[index]
        texts[index] = "NaN" if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return texts


def _printed(values: np.ndarray, digits: int) -> list[str]:
    if not values.size:
        return []
    return (f"%.{digits}g\n" * values.size % tuple(values.tolist())).split("\n")[:-1]


def _may_be_short(values: np.ndarray) -> np.ndarray:
    """Which values may have six digits; an estimate that errs on the side of trying."""
    exact = values.astype(np.float64)
    with np.errstate(all="ignore"):
        scale = 10.0 ** (np.floor(np.log10(np.abs(exact))) - (_SHORT - 1))
        off = np.abs(np.rint(exact / scale) * scale - exact)
        # Subnormal values have fewer digits than the spacing of the others says.
        spacing = np.maximum(np.abs(exact) * np.finfo(values.dtype).eps, np.finfo(values.dtype).smallest_subnormal)
    return ~(off > 4 * spacing)


def quote(value: Any, limit: int = _QUOTED_BYTES) -> str:
    """A value of json_reader.py as an error text quotes it.

    It ends behind the token that passes `limit` bytes, and in front of a NaN or an infinity.
    """
    quoted = _Quotation(limit)
    with contextlib.suppress(_Full):
        quoted.add(value, "", 0)
    return "".join(quoted.parts)


class _Full(Exception):  # noqa: N818 - no error: it ends a walk
    """Nothing more is quoted."""


class _Quotation:
    """The quoted text so far. Each level of a value takes a byte, so that the limit bounds the recursion too."""

    def __init__(self, limit: int):
        self.parts: list[str] = []
        self._left = limit

    def add(self, value: Any, prefix: str, level: int) -> None:
        """Writes a value behind its prefix; `level` containers are around it."""
        if isinstance(value, dict):
            self._add_object(value, prefix, level)
        elif isinstance(value, list):
            self._put(prefix + "[")
            for index, element in enumerate(value):
                self.add(element, ", " if index else "", level + 1)
            self._put("]")
        elif isinstance(value, float) and not math.isfinite(value):
            self._put(prefix)
            raise _Full
        else:
            self._put(prefix + _scalar(value))

    def _add_object(self, value: dict[str, Any], prefix: str, level: int) -> None:
        self._put(prefix + "{")
        members = value.members if isinstance(value, Repeated) else list(value.items())
        for index, (key, member) in enumerate(members):
            self._put(f"{',' if index else ''}\n{_INDENT * (level + 1)}{string(key)}")
            self.add(member, ": ", level + 1)
        self._put(f"\n{_INDENT * level}}}" if members else "}")

    def _put(self, text: str) -> None:
        if self._left <= 0:
            raise _Full
        self.parts.append(text)
        self._left -= len(encode(text))


def _scalar(value: str | float | bool | None) -> str:
    if isinstance(value, str):
        return string(value)
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and _INT64_MIN <= value <= _UINT64_MAX:
        return str(value)
    return _double(float(value))


def _double(value: float) -> str:
    """A double in the fewest digits, with an exponent only where RapidJSON has one: from 1e21, and below 1e-6."""
    sign, digits, power = decimal.Decimal(repr(value)).normalize().as_tuple()
    text = "".join(map(str, digits))
    point = len(text) + power  # digits in front of the decimal point
    if value == 0:
        text = "0.0"
    elif power >= 0 and point <= 21:
        text += "0" * power + ".0"
    elif 0 < point <= 21:
        text = f"{text[:point]}.{text[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{text}"
    else:
        text = f"{text[0]}{'.' * (len(text) > 1)}{text[1:]}e{point - 1}"
    return "-" * sign + text
