"""The tensors of several requests as those of one, and its answer as theirs.

Under session_batching.py in the server. Checks and texts are TensorFlow Serving's.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from serving import tensors
from serving.status import internal, invalid, unmet

_MAX_RANK = 6  # beyond which TensorFlow pads nothing

Feeds = Mapping[str, np.ndarray]


def rows(feeds: Feeds) -> int:
    """How many rows a request brings: the first dimension of each of its inputs.

    Raises:
        tf.errors.InvalidArgumentError: there is no input, a scalar, or a different number; or there are no rows, for
            which TensorFlow Serving never answers.
    """
    if not feeds:
        raise invalid("Batching Run() must have at least one input tensor")
    if not all(array.ndim for array in feeds.values()):
        raise invalid("Batching Run() input tensors must have at least one dimension")
    counts = {len(array) for array in feeds.values()}
    if len(counts) > 1:
        raise invalid("Batching Run() input tensors must have equal 0th-dimension size")
    (count,) = counts
    if not count:
        raise invalid("Batching Run() input tensors must have at least one row; the 0th-dimension size is 0")
    return count


def join(requests: Sequence[Feeds], *, extra: int, pad_shapes: bool) -> dict[str, np.ndarray]:
    """The rows of all requests, one after the other.

    Args:
        requests: feeds of the same names, each with some rows.
        extra: how often to repeat the last request's first row at the end, as padding.
        pad_shapes: make inner dimensions that differ as large as the largest, filled with the request's first value.

    Raises:
        tf.errors.OpError: they do not go together.
    """
    columns = {name: [feeds[name] for feeds in requests] for name in requests[0]}
    for name, arrays in columns.items():
        if pad_shapes:
            columns[name] = _padded(name, arrays)
        elif len({array.shape[1:] for array in arrays}) > 1:
            raise unmet(
                f"Tensors with name '{name}' from different tasks have different shapes and padding is turned off. "
                "Set pad_variable_length_inputs to true, or ensure that all tensors with the same name have equal "
                "dimensions starting with the first dim.",
            )
    return {name: _concatenated(arrays, extra) for name, arrays in sorted(columns.items())}


def part(outputs: Mapping[str, np.ndarray], sizes: Sequence[int], total: int) -> list[dict[str, np.ndarray]]:
    """The rows of each request, as views of the whole.

    Args:
        outputs: of the run.
        sizes: rows of each request.
        total: rows of the run: with padding, more than theirs.

    Raises:
        tf.errors.FailedPreconditionError: an output has not one row for each that was fed.
    """
    for array in outputs.values():
        if not array.ndim:
            raise unmet("Batched output tensor has 0 dimensions")
        if len(array) != total:
            text = "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the "
            raise unmet(f"{text}input tensors")
    ends = np.cumsum(sizes).tolist()
    return [
        {name: array[end - size : end] for name, array in outputs.items()}
        for size, end in zip(sizes, ends, strict=True)
    ]


def _concatenated(arrays: list[np.ndarray], extra: int) -> np.ndarray:
    kinds = [tensors.dtype_of(array) for array in arrays]
    for kind in kinds:
        if kind != kinds[0]:
            raise internal(
                "Tensor concat operation failed: INVALID_ARGUMENT: Cannot concatenate tensors that have different data "
                f"types. Got {tensors.dtype_word(kinds[0])} and {tensors.dtype_word(kind)}.",
            )
    if len(arrays) == 1 and not extra:
        return arrays[0]
    return np.concatenate([*arrays, *[arrays[-1][:1]] * extra])


def _padded(name: str, arrays: list[np.ndarray]) -> list[np.ndarray]:
    ranks = {array.ndim for array in arrays}
    if len(ranks) > 1:
        raise invalid(f"Tensors with name '{name}' from different tasks have different ranks: {sorted(ranks)}")
    if max(ranks) > _MAX_RANK:
        raise invalid(f"Only tensors with rank from 1 to {_MAX_RANK} can be padded.")
    inner = tuple(max(sizes) for sizes in zip(*(array.shape[1:] for array in arrays), strict=True))
    return [_grown(array, (len(array), *inner)) for array in arrays]


def _grown(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if array.shape == shape:
        return array
    if not array.size:
        raise invalid("Got empty tensor in batch of non-empty tensors.")
    grown = np.full(shape, array.flat[0], dtype=array.dtype)
    grown[tuple(map(slice, array.shape))] = array
    return grown
