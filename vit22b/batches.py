"""The inputs of a client's requests: images read, rows cut into batches that the server takes.

Between the user's arguments and the wire. A request holds at most the model's largest batch, and of encoded images no
more bytes than can be held a few times over, since a few requests are under way at once.
"""

import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence

import numpy as np

from vit22b.errors import Failure
from vit22b.signature import Tensor
from vit22b.sources import NamedImage
from vit22b.tensors import Array
from vit22b.waits import Waits

Inputs = Mapping[str, Array | Sequence[bytes]]

MAX_BYTES = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class Batch:
    """Images of one request.

    Attributes:
        images: all of them, in the input's order.
        encoded: the bytes of those that could be read.
        unreadable: the others, by index.
    """

    images: tuple[NamedImage, ...]
    encoded: tuple[bytes, ...]
    unreadable: Mapping[int, Failure]

    def readable(self) -> list[NamedImage]:
        """The images that `encoded` is of."""
        return [image for image in self.images if image.index not in self.unreadable]


async def image_batches(images: AsyncIterator[NamedImage], size: int, waits: Waits) -> AsyncGenerator[Batch, None]:
    """Reads images, in order, into batches of at most `size` and, unless it is a single image, MAX_BYTES."""
    batch = _Filling()
    async for image in images:
        try:
            encoded = await waits.work(image.read)
        except OSError as error:
            batch.leave_out(image, f"cannot be read: {error.strerror or error}")
        except ValueError as error:
            batch.leave_out(image, str(error))
        else:
            if batch.encoded and batch.total + len(encoded) > MAX_BYTES:
                yield batch.done()
                batch = _Filling()
            batch.add(image, encoded)
        if len(batch.images) == size:
            yield batch.done()
            batch = _Filling()
    if batch.images:
        yield batch.done()


class _Filling:
    """A batch that is being filled."""

    def __init__(self) -> None:
        self.images: list[NamedImage] = []
        self.encoded: list[bytes] = []
        self.total = 0
        self._unreadable: dict[int, Failure] = {}

    def add(self, image: NamedImage, encoded: bytes) -> None:
        self.images.append(image)
        self.encoded.append(encoded)
        self.total += len(encoded)

    def leave_out(self, image: NamedImage, reason: str) -> None:
        self.images.append(image)
        self._unreadable[image.index] = image.failure(reason)

    def done(self) -> Batch:
        return Batch(tuple(self.images), tuple(self.encoded), self._unreadable)


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
