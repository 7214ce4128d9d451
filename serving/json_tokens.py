"""The tokens of JSON as RapidJSON reads them: strings, numbers and words, with the error texts and their offsets.

Below json_reader.py, which knows what goes together, on the way client -> server -> SavedModel.
"""

import math
import re

_BOM = b"\xef\xbb\xbf"
END = ("", "\0")  # what stands behind the last token; a zero is the end to RapidJSON
_WORDS = {"n": ("null", None), "t": ("true", True), "f": ("false", False)}
_BLANK = re.compile(r"[ \t\n\r]*")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_ESCAPES = {'"': '"', "/": "/", "\\": "\\", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_HEX = re.compile(r"[0-9a-fA-F]{4}")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(?:(\.)([0-9]*))?(?:([eE])([+-]?)([0-9]*))?")
_MAX_OVER_TEN = 1.7976931348623157e307
_INT64_MIN, _UINT64_MAX = -(2**63), 2**64 - 1


class JsonError(ValueError):
    """A text that is no JSON; the message is RapidJSON's, with the offset in bytes."""


def decode(content: bytes) -> str:
    """Text of bytes that may be no UTF-8."""
    return content.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """The bytes that a string of a document stands for."""
    return text.encode("utf-8", "surrogateescape")


class Tokens:
    """A text, and the place to which it has been read.

    Attributes:
        text: without the byte order mark.
        at: index of what comes next.
    """

    def __init__(self, content: bytes):
        self._skipped = 0  # bytes
        for byte in _BOM:  # each of the three is left out by itself
            self._skipped += content[self._skipped : self._skipped + 1] == bytes([byte])
        self.text = decode(content[self._skipped :])
        self.at = 0

    def skip_blank(self) -> None:
        """Goes on to the next token."""
        self.at = _BLANK.match(self.text, self.at).end()

    def peek(self) -> str:
        """The next character; one of END if there is none."""
        return self.text[self.at : self.at + 1]

    def scalar(self) -> str | int | float | bool | None:
        """Takes a value that is no object and no array.

        Raises:
            JsonError: there is none.
        """
        token = self.peek()
        if token == '"':
            return self.string()
        if token in _WORDS:
            word, value = _WORDS[token]
            self._spell(word)
            return value
        return self._number()

    def _spell(self, word: str) -> None:
        """Takes a word, or as much of it as is there."""
        for letter in word:
            if self.peek() != letter:
                raise self.error("Invalid value.")
            self.at += 1

    def string(self) -> str:
        """Takes a string.

        Raises:
            JsonError: it is none.
        """
        self.at += 1
        parts = []
        while True:
            plain = _PLAIN.match(self.text, self.at)
            parts.append(plain.group())
            self.at = plain.end()
            token = self.peek()
            if token == '"':
                self.at += 1
                return "".join(parts)
            if token in END:
                raise self.error("Missing a closing quotation mark in string.")
            if token != "\\":
                raise self.error("Invalid escape character in string.")
            parts.append(self._escape())

    def _escape(self) -> str:
        start = self.at
        self.at += 2
        letter = self.text[start + 1 : start + 2]
        if letter in _ESCAPES:
            return _ESCAPES[letter]
        if letter != "u":
            raise self.error("Invalid escape character in string.", start)
        code = self._hexadecimal(start)
        if 0xD800 <= code <= 0xDBFF:
            if self.text[self.at : self.at + 2] != "\\u":
                raise self.error("The surrogate pair in string is invalid.", start)
            self.at += 2
            low = self._hexadecimal(start)
            if not 0xDC00 <= low <= 0xDFFF:
                raise self.error("The surrogate pair in string is invalid.", start)
            code = 0x10000 + (code - 0xD800 << 10) + low - 0xDC00
        return decode(chr(code).encode("utf-8", "surrogatepass"))

    def _hexadecimal(self, start: int) -> int:
        digits = _HEX.match(self.text, self.at)
        if digits is None:
            raise self.error("Incorrect hex digit after \\u escape in string.", start)
        self.at += 4
        return int(digits.group(), 16)

    def _number(self) -> int | float:
        start = self.at
        number = _NUMBER.match(self.text, start)
        if number is None:
            return self._named_number()
        self.at = number.end()
        integer, point, fraction, exponent, sign, power = number.groups()
        if point and not fraction:
            raise self.error("Miss fraction part in number.", number.end(2))
        if exponent and not power:
            raise self.error("Miss exponent in number.")
        if len(integer) > 308 and float(integer[:-1]) >= _MAX_OVER_TEN:
            raise self.error("Number too big to be stored in double.", start)
        if exponent and sign != "-" and float(power) > 308 + len(fraction or ""):
            raise self.error("Number too big to be stored in double.", start)
        if point or exponent or len(integer) > 20:
            return float(number.group())
        value = int(number.group())
        return value if _INT64_MIN <= value <= _UINT64_MAX else float(value)

    def _named_number(self) -> float:
        """NaN, Inf and Infinity."""
        negative = self.peek() == "-"
        self.at += negative
        if self.peek() == "N":
            self._spell("NaN")
            return math.nan
        self._spell("Inf")
        if self.peek() == "i":
            self._spell("inity")
        return -math.inf if negative else math.inf

    def error(self, text: str, at: int | None = None) -> JsonError:
        """An error at the next token, or at an index."""
        offset = self._skipped + len(encode(self.text[: self.at if at is None else at]))
        return JsonError(f"{text} at offset: {offset}")
