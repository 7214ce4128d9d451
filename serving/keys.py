"""API keys in a file: a name and the hash of a key in each line.

make_key.py writes such lines, guard.py asks for the holder of a key, on the way SavedModel -> server -> client. A key
is 32 random bytes, so that SHA-256 is enough: there is nothing to guess, and what a slow hash would cost at every
request would slow down the server alone. The file may be changed while the server runs.
"""

import hashlib
import hmac
import logging
import os
import re
import secrets
import threading
import time
from pathlib import Path

PREFIX = "vit_"
_LINE = re.compile(r"([A-Za-z0-9_.@-]+)\s+sha256:([0-9a-f]{64})")
_LOOK = 1.0  # seconds between two looks at whether the file has changed

logger = logging.getLogger(__name__)


def make_key() -> str:
    """A new key of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def line(name: str, key: str) -> str:
    """The line of a key in the file.

    Raises:
        ValueError: the name has characters that a line cannot hold.
    """
    written = f"{name} sha256:{_digest(key).hex()}"
    if not _LINE.fullmatch(written):
        raise ValueError(f"{name!r} is no name of a key; expected letters, digits and any of _ . @ -")
    return written


class KeyFile:
    """The keys of one file, read again when it changes.

    A file that cannot be read any more leaves the keys as they were, with an error in the log; a key is taken back by
    removing its line.
    """

    def __init__(self, path: str | os.PathLike[str]):
        """Reads the file.

        Raises:
            OSError: it cannot be read.
            ValueError: a line is no key's.
        """
        self._path = Path(path)
        self._lock = threading.Lock()
        self._seen = self._mark()
        self._keys = self._read()
        self._looked = time.monotonic()

    def holder(self, key: str) -> str | None:
        """Whose key it is; None for nobody's. It takes the same time whichever of the keys it is."""
        with self._lock:
            self._follow()
            keys = self._keys
        digest = _digest(key)
        found = None
        for name, known in keys:
            if hmac.compare_digest(digest, known):
                found = name
        return found

    def _follow(self) -> None:
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        self._looked = now
        mark = self._mark()
        if mark == self._seen:
            return
        self._seen = mark
        try:
            self._keys = self._read()
        except (OSError, ValueError) as error:
            logger.error("The keys stay as they were: %s", error)
        else:
            logger.info("Read %d keys from %s", len(self._keys), self._path)

    def _mark(self) -> tuple[int, int, int] | None:
        """What tells one content of the file from another; None for a file that is not there."""
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size

    def _read(self) -> list[tuple[str, bytes]]:
        keys = []
        for number, text in enumerate(self._path.read_text(encoding="utf-8").splitlines(), start=1):
            written = text.partition("#")[0].strip()
            if not written:
                continue
            match = _LINE.fullmatch(written)
            if match is None:
                # Not the line itself: it may be a key that somebody forgot to hash.
                raise ValueError(
                    f"{self._path}, line {number}: expected 'NAME sha256:HEX'; serving/make_key.py writes such a line"
                )
            keys.append((match[1], bytes.fromhex(match[2])))
        if not keys:
            logger.warning("%s has no keys: every request that needs one is refused", self._path)
        return keys


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
