"""The requests that a server is timed with, as files of the bytes that go over the wire.

For benchmarks/serving.py, at the client's end of the walk SavedModel -> server -> [client].
"""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks.raw_client import predict_body, request
from vit22b import signature
from vit22b.tensors import predict_request

_PHOTOGRAPH = (500, 375)
_MANY = 4  # images, of which S/16 has 1.2 MB of tokens


@dataclasses.dataclass(frozen=True)
class Request:
    """A request of the benchmark: files with it as gRPC and as HTTP has it."""

    name: str
    rows: int
    grpc: str
    rest: str


def write_requests(folder: Path, model: str, side: int) -> dict[str, Request]:
    """Writes the requests, by name: an image's pixels, its file, and the features of several, tokens and all.

    Args:
        folder: to write to.
        model: that is asked.
        side: of the images that it takes, in pixels.
    """
    photograph = Image.fromarray(load_sample_images().images[0]).resize(_PHOTOGRAPH)
    file = io.BytesIO()
    photograph.save(file, "JPEG", quality=90)
    pixels = np.asarray(photograph.resize((side, side)))[None]
    names = signature.EMBED_PIXELS, signature.EMBED_IMAGE, signature.FEATURES
    inputs: tuple[dict[str, Any], ...] = (
        {signature.PIXELS: pixels},
        {signature.IMAGE_BYTES: np.array([file.getvalue()], object)},
        {signature.PIXELS: np.repeat(pixels, _MANY, axis=0)},
    )
    found = {}
    for name, asked, given in zip(("pixels", "image bytes", "features with tokens"), names, inputs, strict=True):
        grpc, rest = (folder / f"{asked}.{wire}" for wire in ("grpc", "http"))
        grpc.write_bytes(predict_request(model, asked, given).SerializeToString())
        body = json.dumps(predict_body(asked, given)).encode()
        rest.write_bytes(request("POST", f"/v1/models/{model}:predict", body))
        found[name] = Request(name, len(next(iter(given.values()))), str(grpc), str(rest))
    return found
