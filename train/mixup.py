"""Mixup: training images that are two images laid over each other (Zhang et al. 2018), a function of (seed, position).

Between image bytes and batch on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
Neighbours of a batch are mixed, the first with the second, the third with the fourth, so that a host needs no rows but
its own, and a run gives the same on any number of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_STREAM = 0x6D6978  # keeps these numbers apart from what else is drawn of a seed and a position


def shares(positions: npt.NDArray[np.int64], seed: int, alpha: float) -> npt.NDArray[np.float32]:
    """Of each place in the run, the share [b] of its own image, Beta(alpha, alpha)."""
    found = [np.random.default_rng((seed % 2**63, int(at), _STREAM)).beta(alpha, alpha) for at in positions]
    return np.asarray(found, np.float32)


def check_rows(rows: npt.NDArray[np.int64], batch: int) -> None:
    """Checks that a host reads both of every pair.

    Raises:
        ValueError: it does not.
    """
    if len(rows) % 2 or (rows[::2] % 2).any() or (rows[1::2] != rows[::2] + 1).any():
        raise ValueError(
            f"--batch {batch} puts an odd number of images on a device, and mixup takes neighbours: take twice as many "
            "as there are devices along data, or a multiple of that; or --mixup 0"
        )


def mixed(
    batch: Mapping[str, npt.NDArray[Any]], names: Sequence[str], share: npt.NDArray[np.float32]
) -> dict[str, npt.NDArray[Any]]:
    """A batch whose named arrays are mixed, row by row with the neighbour.

    Args:
        batch: arrays [b, ...], b even; uint8 is rounded to uint8 again, which is what a teacher on a server can take.
        names: of the arrays that are mixed, all by the same shares.
        share: of its own in each row, [b].
    """
    partner = np.arange(len(share)) ^ 1

    def mix(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        own = share.reshape(-1, *[1] * (array.ndim - 1))
        found = array * own + array[partner] * (1 - own)
        return np.rint(found).astype(array.dtype) if array.dtype == np.uint8 else found.astype(array.dtype)

    return {name: mix(array) if name in names else array for name, array in batch.items()}
