"""The inputs of a client's requests: images named and read, rows cut into batches that the server takes.

Between the user's arguments and the wire. A request holds at most the model's largest batch, and of encoded images no
more bytes than can be held a few times over, since a few requests are under way at once.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path

import numpy as np

from vit22b.errors import Failure
from vit22b.signature import Tensor
from vit22b.tensors import Array

Image = bytes | str | PathLike[str]
Inputs = Mapping[str, Array | Sequence[bytes]]

MAX_BYTES = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class NamedImage:
    """An image as the user gave it: a path, read only when its batch is made, or encoded bytes."""

    index: int
    name: str
    source: Image

    def failure(self, reason: str) -> Failure:
        """What to report of it."""
        return Failure(self.index, self.name, reason)


@dataclasses.dataclass(frozen=True)
class Batch:
    """Images of one request and their encoded bytes."""

    images: tuple[NamedImage, ...]
    encoded: tuple[bytes, ...]


def named_images(images: Iterable[Image]) -> list[NamedImage]:
    """Numbers and names images; nothing is read.

    Raises:
        ValueError: one image in place of several, or something that is neither a path nor bytes.
    """
    if isinstance(images, str | bytes | PathLike):
        raise ValueError("images is a single path or image; expected several, for instance [image]")
    named = []
    for index, image in enumerate(images):
        if not isinstance(image, str | bytes | PathLike):
            kind = type(image).__name__
            raise ValueError(f"image {index} is a {kind}; expected a path or bytes (pixels go to embed_pixels)")
        name = f"image {index}" if isinstance(image, bytes) else fspath(image)
        named.append(NamedImage(index, name, image))
    return named


def image_batches(images: Iterable[NamedImage], size: int, failures: list[Failure]) -> Iterator[Batch]:
    """Reads images, in order, into batches of at most `size` and, unless it is a single image, MAX_BYTES.

    A file that cannot be read is in no batch; it is added to `failures`.
    """
    waiting: list[tuple[NamedImage, bytes]] = []
    total = 0
    for image in images:
        try:
            encoded = image.source if isinstance(image.source, bytes) else Path(image.source).read_bytes()
        except OSError as error:
            failures.append(image.failure(f"cannot be read: {error.strerror}"))
            continue
        if waiting and (len(waiting) == size or total + len(encoded) > MAX_BYTES):
            yield _batch(waiting)
            waiting, total = [], 0
        waiting.append((image, encoded))
        total += len(encoded)
    if waiting:
        yield _batch(waiting)


def check_inputs(name: str, inputs: Inputs, expected: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless the inputs of the signature `name` have the names, dtypes and shapes of the contract."""
    if inputs.keys() != expected.keys():
        raise ValueError(f"{name} was given the inputs {sorted(inputs)}; expected {sorted(expected)}")
    for alias, tensor in expected.items():
        dtype, shape = _dtype_and_shape(alias, inputs[alias])
        if dtype != tensor.dtype or len(shape) != len(tensor.shape) or shape[1:] != tensor.shape[1:]:
            rest = "".join(f", {size}" for size in tensor.shape[1:])
            raise ValueError(f"{alias} is {dtype} {list(shape)}; expected {tensor.dtype} [n{rest}]")


def row_batches(inputs: Inputs, size: int) -> Iterator[Inputs]:
    """Cuts inputs along their first axis into batches of at most `size` rows.

    Raises:
        ValueError: no inputs, no rows, or inputs of different lengths.
    """
    shapes = {name: _dtype_and_shape(name, values)[1] for name, values in inputs.items()}
    lengths = {name: shape[0] if shape else 0 for name, shape in shapes.items()}
    rows = max(lengths.values(), default=0)
    if rows == 0 or set(lengths.values()) != {rows}:
        raise ValueError(f"the inputs' numbers of rows are {lengths}; expected inputs of one length, at least 1")
    for start in range(0, rows, size):
        yield {name: values[start : start + size] for name, values in inputs.items()}


def _dtype_and_shape(name: str, values: Array | Sequence[bytes]) -> tuple[str, tuple[int, ...]]:
    """The dtype by the contract's name, and the shape, of an input; ValueError for neither numbers nor bytes."""
    if isinstance(values, np.ndarray) and values.dtype != object:
        return values.dtype.name, values.shape
    # numpy is not asked for the shape of a list: it would first make every row as long as the longest.
    rows = values.ravel().tolist() if isinstance(values, np.ndarray) else values
    if isinstance(rows, bytes | str) or not isinstance(rows, Sequence):
        raise ValueError(f"{name} is a {type(values).__name__}; expected an array, or a list of bytes")
    for index, row in enumerate(rows):
        if not isinstance(row, bytes):
            kind = type(row).__name__
            raise ValueError(f"{name} has a {kind} in row {index}; expected bytes in every row, or an array of numbers")
    return "string", values.shape if isinstance(values, np.ndarray) else (len(rows),)


def _batch(pairs: Sequence[tuple[NamedImage, bytes]]) -> Batch:
    images, encoded = zip(*pairs, strict=True)
    return Batch(images, encoded)
