"""What the client programs share: which server, and which images.

Between the command line and vit22b.client, the last step of the walk.
"""

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vit22b.channel import Tls
from vit22b.client import Client
from vit22b.errors import Failure
from vit22b.folder import Record, read_folder
from vit22b.retry import Retry
from vit22b.transport import TIMEOUT

_API_KEY = "VIT22B_API_KEY"
_AT_FIRST = 4  # attempts at a server that has never answered: some seconds


@dataclasses.dataclass(frozen=True)
class Server:
    """A served model.

    Attributes:
        address: host:port of the server's gRPC port; several with commas between them.
        model: the name that the model is served under.
        version: a version of it; the latest if not given.
        timeout: seconds that a request may take, its retries included.
        retries: how often a request is sent again to a server that has too much to do, or is away after it was there.
        in_flight: requests under way at once.
        api_key_file: a file with the key that the server asks for. The environment's VIT22B_API_KEY does as well.
        tls: speak TLS, as with any of the next three.
        ca: PEM file of the certificates that the server's has to be signed by.
        client_key: PEM file of the client's key, for mutual TLS.
        client_cert: PEM file of the client's certificate.
    """

    address: str = "localhost:8500"
    model: str = "vit22b"
    version: int | None = None
    timeout: float = TIMEOUT
    retries: int = 20
    in_flight: int = 4
    api_key_file: Path | None = None
    tls: bool = False
    ca: Path | None = None
    client_key: Path | None = None
    client_cert: Path | None = None

    def client(self) -> Client:
        """A client of it; ValueError for arguments that cannot be right."""
        return Client(self.address, self.model, version=self.version, in_flight=self.in_flight, **self.connection())

    def connection(self) -> dict[str, Any]:
        """What Client and AsyncClient take besides the address, the model, the version and how much is under way."""
        files = (self.ca, self.client_key, self.client_cert)
        if self.retries < 0:
            raise ValueError(f"retries is {self.retries}; expected 0 or more")
        return {
            "timeout": self.timeout,
            "retry": Retry(attempts=self.retries + 1, first_attempts=min(self.retries + 1, _AT_FIRST)),
            "api_key": self._api_key(),
            "tls": Tls(*files) if self.tls or any(files) else None,
        }

    def _api_key(self) -> str | None:
        if self.api_key_file is None:
            return os.environ.get(_API_KEY, "").strip() or None
        key = self.api_key_file.read_text().strip()
        if not key:
            raise ValueError(f"{self.api_key_file} is empty; expected the key that serving/make_key.py printed")
        return key


def find_images(paths: Sequence[Path]) -> list[Record]:
    """The images that were named, in order; a folder stands for all that it holds, with labels where it has them.

    Raises:
        ValueError: nothing named, a folder without images or with broken metadata, or a missing path that has no suffix
            and so was meant as a folder. A file is not looked at before it is sent.
    """
    if not paths:
        raise ValueError("no image is given; name files, or folders of them, in front of flags that take several words")
    found: list[Record] = []
    for path in paths:
        folder = path.is_dir() or not (path.exists() or path.suffix)
        found.extend(read_folder(path, mixed=True).records if folder else [Record(path, str(path))])
    return found


def check_output(path: Path | None, suffix: str) -> None:
    """Raises ValueError, before any work is done, for a file that could not be written or is named as another kind."""
    if path is None:
        return
    if path.suffix.lower() != suffix:
        raise ValueError(f"the output is {path}; expected a name that ends in {suffix}")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"there is no folder {path.parent} to write {path.name} to; make it first")


def report_failures(failures: Sequence[Failure]) -> None:
    """Names on stderr each image that was left out, and why."""
    for failure in failures:
        print(f"error: {failure.name} (index {failure.index}): {failure.reason}", file=sys.stderr)
