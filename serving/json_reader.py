"""JSON as TensorFlow Serving reads it: RapidJSON's grammar, its error texts and its offsets.

The first hop of a REST request on the way client -> server -> SavedModel. A reader follows RapidJSON step by step, and
leaves to Python's own parser, in C, what both read alike: whole objects and arrays, of which the request is the first.
What that parser refuses, or might read otherwise, is taken apart: it may be an error, and then the reader knows where
and which.

Values are Python's: dict, list, str, int, float, bool, None. Bytes of a string that are no UTF-8 are kept, as
surrogates that `encode` turns back. An integer beyond 64 bits, a double to RapidJSON, may be an int or a float here.
"""

import bisect
import json
import re
from typing import Any

from serving.json_tokens import END, JsonError, Tokens

_BLOCK = 154  # digits; a run of 309, the first that may overflow a double, has an aligned block of them
_PECULIAR = re.compile(r"[eE]\+?[0-9]{3}|\\u[dD][89a-fA-F]")
_DEPTH_OF_C = 10  # containers; a text that is wrong further in is read by steps from there on


class Repeated(dict[str, Any]):
    """An object that has a key more than once: the first value counts.

    Attributes:
        members: every pair, in the order of the text.
    """

    def __init__(self, members: list[tuple[str, Any]]):
        super().__init__(reversed(members))
        self.members = members


def read(content: bytes) -> Any:
    """The first value of a text; what follows it is not looked at.

    Raises:
        JsonError: there is none.
    """
    if not content:
        raise JsonError("The document is empty")
    return _Reader(content).document()


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(members)
    return made if len(made) == len(members) else Repeated(members)


_DECODER = json.JSONDecoder(object_pairs_hook=_object)

# What is expected next. The names are those of the state that the last token led to.
_START, _OBJECT, _KEY, _COLON, _MEMBER, _OBJECT_COMMA, _ARRAY, _ELEMENT, _ARRAY_COMMA, _DONE = range(10)
_EXPECTED = {
    _START: "The document is empty.",
    _OBJECT: "Missing a name for object member.",
    _OBJECT_COMMA: "Missing a name for object member.",
    _KEY: "Missing a colon after a name of object member.",
    _COLON: "Invalid value.",
    _MEMBER: "Missing a comma or '}' after an object member.",
    _ARRAY: "Invalid value.",
    _ARRAY_COMMA: "Invalid value.",
    _ELEMENT: "Missing a comma or ']' after an array element.",
}
# Numbers that every parser reads alike, each with its comma: most of a large array, taken at once.
_NUMBERS = re.compile(r"(?:-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,20})?(?:[eE]-?[0-9]{1,2})?[ \n]*,[ \n]*)++")


class _Reader:
    """RapidJSON's iterative parser, with its flags for NaN, infinities, and stopping where the first value ends."""

    def __init__(self, content: bytes):
        self._tokens = Tokens(content)
        self._text = self._tokens.text
        self._peculiar = _peculiarities(self._text)
        self._open: list[list[Any]] = []  # the values of an array; the keys and values of an object, in turns
        self._states: list[int] = []  # of what is around each of them
        self._root: Any = None

    def document(self) -> Any:
        """The value.

        Raises:
            JsonError: see `read`.
        """
        state = _START
        while state != _DONE:
            self._tokens.skip_blank()
            state = self._step(state, self._tokens.peek())
        return self._root

    def _step(self, state: int, token: str) -> int:
        """The state behind the next token."""
        if state in (_START, _COLON, _ARRAY, _ARRAY_COMMA):
            if token == "]" and state == _ARRAY:
                return self._close([])
            if token not in (*END, "]", "}", ",", ":"):
                return self._value(state, token)
        elif state in (_OBJECT, _OBJECT_COMMA):
            if token == '"':
                self._open[-1].append(self._tokens.string())
                return _KEY
            if token == "}" and state == _OBJECT:
                return self._close({})
        else:
            return self._delimiter(state, token)
        raise self._tokens.error(_EXPECTED[state])

    def _delimiter(self, state: int, token: str) -> int:
        if state == _KEY and token == ":":
            self._tokens.at += 1
            return _COLON
        if state != _KEY and token == ",":
            self._tokens.at += 1
            return _OBJECT_COMMA if state == _MEMBER else _ARRAY_COMMA
        if state == _MEMBER and token == "}":
            flat = self._open[-1]
            return self._close(_object(list(zip(flat[::2], flat[1::2], strict=True))))
        if state == _ELEMENT and token == "]":
            return self._close(self._open[-1])
        raise self._tokens.error(_EXPECTED[state])

    def _value(self, state: int, token: str) -> int:
        if token in "{[":
            return self._container(state, token)
        if state in (_ARRAY, _ARRAY_COMMA) and (run := _NUMBERS.match(self._text, self._tokens.at)):
            self._tokens.at = run.end()
            self._open[-1].extend(json.loads("[" + run.group().rstrip(", \n") + "]"))
            return _ARRAY_COMMA
        return self._add(state, self._tokens.scalar())

    def _container(self, state: int, token: str) -> int:
        """Takes an object or an array whole, or opens it."""
        if len(self._open) < _DEPTH_OF_C:
            try:
                value, end = _DECODER.raw_decode(self._text, self._tokens.at)
            except (ValueError, RecursionError):
                pass  # what is wrong with it will be seen further in
            else:
                if bisect.bisect(self._peculiar, self._tokens.at) == bisect.bisect(self._peculiar, end):
                    self._tokens.at = end
                    return self._add(state, value)
        self._tokens.at += 1
        self._open.append([])
        self._states.append(state)
        return _OBJECT if token == "{" else _ARRAY

    def _close(self, value: Any) -> int:
        self._tokens.at += 1
        self._open.pop()
        return self._add(self._states.pop(), value)

    def _add(self, state: int, value: Any) -> int:
        if state == _START:
            self._root = value
            return _DONE
        self._open[-1].append(value)
        return _MEMBER if state == _COLON else _ELEMENT


def _peculiarities(text: str) -> list[int]:
    """Where there may be something that Python's parser takes and RapidJSON does not: huge numbers, half surrogates."""
    blocks = (start for start in range(0, len(text), _BLOCK) if text[start : start + _BLOCK].isdecimal())
    return sorted([*blocks, *(match.start() for match in _PECULIAR.finditer(text))])
