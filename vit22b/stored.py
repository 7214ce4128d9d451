"""Trees as Orbax stores them: saved in chunks, compared by name and shape, read whole or layer after layer.

Under the checkpoint on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
import orbax.checkpoint as ocp
import tensorstore

from vit22b.tree import is_stacked

# One chunk of a leaf on disk. Orbax's own choice is the whole leaf, all L layers, which no reader can take in slices.
CHUNK_BYTES = 64 * 2**20


def to_save(tree: Any) -> ocp.args.PyTreeSave:
    """A tree to save, its leaves in chunks that a reader can take one by one.

    A chunk of a stacked leaf that has several is of one layer. A small leaf is one chunk, whatever it holds: a file
    system has more to do with many small ones.
    """

    def in_chunks(path: tuple[Any, ...], leaf: Any) -> ocp.SaveArgs:
        several = is_stacked(_name(path)) and math.prod(leaf.shape) * leaf.dtype.itemsize > CHUNK_BYTES
        return ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES, shard_axes=(0,) if several else ())

    return ocp.args.PyTreeSave(tree, save_args=jax.tree_util.tree_map_with_path(in_chunks, tree))


def differences(saved: Any, target: Any) -> list[str]:
    """In what a stored tree (Orbax's metadata) is not the target: a line for each leaf, by name."""
    there, wanted = _shapes(saved), _shapes(target)
    return [
        *(f"  missing in the checkpoint: {name} {wanted[name]}" for name in sorted(wanted.keys() - there.keys())),
        *(f"  only in the checkpoint: {name} {there[name]}" for name in sorted(there.keys() - wanted.keys())),
        *(
            f"  {name}: {there[name]} in the checkpoint, {wanted[name]} in the model"
            for name in sorted(there.keys() & wanted.keys())
            if there[name] != wanted[name]
        ),
    ]


def read(folder: Path, saved: Any, target: Any) -> Any:
    """Reads a tree, or the part of it that the target has.

    Args:
        folder: of the item.
        saved: what is stored, as Orbax's metadata.
        target: tree of jax.ShapeDtypeStruct, with shardings or, for the first device, without.
    """
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=getattr(s, "sharding", None) or one), target
    )
    handler = ocp.PyTreeCheckpointHandler(restore_concurrent_gb=_bytes_in_flight(saved, target) / 1e9)
    with ocp.Checkpointer(handler) as reader:
        restore_args = ocp.checkpoint_utils.construct_restore_args(target)
        return reader.restore(
            folder, args=ocp.args.PyTreeRestore(target, restore_args=restore_args, partial_restore=True)
        )


def slabs(folder: Path, saved: Any, name: str) -> Iterator[npt.NDArray[Any]]:
    """Reads one leaf in slabs along its first axis, one after the other, each in the memory that it takes.

    Args:
        folder: of the item.
        saved: what is stored, as Orbax's metadata.
        name: of the leaf, "image/blocks/query/kernel".

    Yields:
        Consecutive parts [k, ...] that make up the leaf; the whole leaf where it is not stacked over layers. k is 1,
        or where one chunk on disk holds several layers (a small leaf, or an older checkpoint), that many.
    """
    leaf = _named(saved)[name]
    array = tensorstore.open(
        {
            "driver": "auto",
            "kvstore": {"driver": "ocdbt", "base": f"file://{folder}/", "path": f"{name.replace('/', '.')}/"},
        },
        open=True,
        read=True,
    ).result()
    if not is_stacked(name):
        yield np.asarray(array.read().result())
        return
    chunk = (leaf.storage and leaf.storage.chunk_shape) or leaf.shape
    for start in range(0, leaf.shape[0], chunk[0]):
        yield np.asarray(array[start : min(start + chunk[0], leaf.shape[0])].read().result())


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """{"a/b/0": shape} of a tree of whatever containers; what has no shape is a placeholder of Orbax's, not a leaf."""
    return {name: tuple(leaf.shape) for name, leaf in _named(tree).items() if getattr(leaf, "shape", None) is not None}


def _named(tree: Any) -> dict[str, Any]:
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): leaf for path, leaf in paths}


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def _bytes_in_flight(saved: Any, target: Any) -> int:
    """How much may be read at once: a tenth of what this host keeps, but the largest single read in any case.

    Orbax's own bound is a constant of 96 GB. A shard is read in whole chunks, so that many small shards of one chunk
    need more than they are.
    """
    there, largest, kept = _named(saved), 0, 0
    for name, leaf in _named(target).items():
        shard = leaf.sharding.shard_shape(leaf.shape)
        kept += math.prod(shard) * leaf.dtype.itemsize * len(leaf.sharding.addressable_devices)
        storage = there[name].storage
        chunks = (storage and storage.chunk_shape) or leaf.shape
        aligned = map(_whole_chunks, leaf.shape, shard, chunks)
        largest = max(largest, math.prod(aligned) * leaf.dtype.itemsize)
    return max(largest, kept // 10) + 1024


def _whole_chunks(size: int, part: int, chunk: int) -> int:
    """The most that a part of an axis takes when it is read in whole chunks."""
    return max(-(-(start + part) // chunk) * chunk - start // chunk * chunk for start in range(0, size, part or 1))
