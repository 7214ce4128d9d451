"""The requests that clients/bench.py sends, made before the first of them is sent, and how one is sent.

At the client's end of the walk SavedModel -> server -> client. Requests and answers are bytes here: on a machine that
is both ends, what the client takes is missing at the server.
"""

import dataclasses
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import grpc
import numpy as np
from PIL import Image

from clients.arguments import Server
from vit22b import signature
from vit22b.channel import Addresses, ChannelOptions, open_channel
from vit22b.described import Description
from vit22b.folder import Record
from vit22b.tensors import predict_request
from vit22b.transport import PREDICT

Kind = Literal["images", "pixels", "texts"]

_DIFFERENT = 64  # requests at most, which come again and again
_QUALITY = 90  # of synthetic JPEG files
_WORDS = ("a photo of", "a drawing of", "a red", "a large", "two", "cat", "ship", "mountain", "on a table", "at night")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is to be sent.

    Attributes:
        kind: encoded images, decoded pixels, or texts.
        rows: in each request.
        records: images to send; made ones if there are none.
        side: of a made image, in pixels.
    """

    kind: Kind
    rows: int
    records: Sequence[Record]
    side: int


def make_requests(wanted: Wanted, model: str, about: Description) -> list[bytes]:
    """Requests of Predict for one version of a model, as they go over the wire; up to 64 different ones.

    Raises:
        ValueError: more rows than the model takes at once, or texts for a model without a text tower.
        OSError: an image cannot be read.
    """
    largest = about.manifest.batch_sizes[-1]
    if not 1 <= wanted.rows <= largest:
        raise ValueError(f"rows is {wanted.rows}; expected 1 to {largest}, the model's largest batch")
    name, column, values = _inputs(wanted, about)
    chosen = itertools.cycle(values)
    requests = []
    for _ in range(max(1, min(_DIFFERENT, len(values)))):
        rows = list(itertools.islice(chosen, wanted.rows))
        inputs: Any = {column: rows if isinstance(rows[0], bytes) else np.stack(rows)}
        requests.append(predict_request(model, name, inputs, version=about.version).SerializeToString())
    return requests


def _inputs(wanted: Wanted, about: Description) -> tuple[str, str, Sequence[Any]]:
    """The signature, its input, and different rows for it."""
    random = np.random.default_rng(0)
    if wanted.kind == "texts":
        if about.tokenizer is None:
            raise ValueError(
                "the model has no text tower; send images, or ask for a model that was tuned with captions"
            )
        texts = [" ".join(random.choice(_WORDS, 4)) for _ in range(_DIFFERENT)]
        return signature.EMBED_TEXT, signature.TOKEN_IDS, list(about.tokenizer.encode(texts))
    if wanted.kind == "pixels":
        side = about.manifest.preprocess.resolution
        return signature.EMBED_PIXELS, signature.PIXELS, list(random.integers(0, 256, (8, side, side, 3), np.uint8))
    files = [record.path.read_bytes() for record in wanted.records[:_DIFFERENT]]
    return signature.EMBED_IMAGE, signature.IMAGE_BYTES, files or [_photograph(random, wanted.side) for _ in range(8)]


def _photograph(random: np.random.Generator, side: int) -> bytes:
    """A JPEG file of about the size and the cost of a photograph's: smooth colours, and some noise."""
    coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    noisy = np.asarray(coarse, np.int16) + random.integers(-12, 13, (side, side, 3), np.int16)
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


class Sender:
    """Sends requests in turn, without retries; threads may share it."""

    def __init__(self, server: Server, requests: Sequence[bytes]) -> None:
        """Takes where to, and what; it connects at the first request."""
        connection = server.connection()
        addresses = Addresses.of(server.address)
        self._timeout: float = connection["timeout"]
        key = connection["api_key"]
        self._metadata = (("authorization", f"Bearer {key}"),) if key else None
        self._channel = open_channel(addresses, ChannelOptions(connection["tls"], balance=len(addresses) > 1))
        self._predict = self._channel.unary_unary(PREDICT)
        self._requests: Iterator[bytes] = itertools.cycle(requests)

    def call(self) -> str:
        """Sends one and waits; "" for an answer, or the code of a failure."""
        try:
            self._predict(next(self._requests), timeout=self._timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            return str(error.code().name)
        return ""

    def send(self, done: Callable[[str], None]) -> None:
        """Sends one and returns; `done` is told "" or the code once it is answered or has failed."""
        call = self._predict.future(next(self._requests), timeout=self._timeout, metadata=self._metadata)
        call.add_done_callback(lambda ended: done("" if ended.code() is grpc.StatusCode.OK else ended.code().name))

    def close(self) -> None:
        """Ends the connection, and the calls on it."""
        self._channel.close()
