"""An image from an address on the web, bounded in bytes and in time.

Beside the walk image -> ... -> server -> client, for sources.py, which loads it for the first address. Whoever lets
strangers name addresses lets them ask what this machine can reach: the client fetches none unless it is told.
"""

import http.client
import time
import urllib.error
import urllib.request
from typing import BinaryIO

_TIMEOUT = 20.0  # seconds without a byte
_BYTES = 64 * 2**20
_TOTAL = 60.0  # seconds, for an answer that drips


def fetch(address: str) -> bytes:
    """What an address answers.

    Raises:
        OSError: no answer, one with an error status, more than 64 MiB, or more than a minute.
    """
    try:
        with urllib.request.urlopen(address, timeout=_TIMEOUT) as answer:
            return _read(answer)
    except (urllib.error.URLError, http.client.HTTPException, ValueError) as error:
        raise OSError(None, f"{error}") from error


def _read(answer: BinaryIO) -> bytes:
    parts, size, end = [], 0, time.monotonic() + _TOTAL
    while part := answer.read(2**16):
        parts.append(part)
        size += len(part)
        if size > _BYTES:
            raise OSError(None, f"it has more than {_BYTES} bytes")
        if time.monotonic() > end:
            raise OSError(None, f"it takes longer than {_TOTAL:g} s")
    return b"".join(parts)
