"""The parameters' tree by names, whatever makes it or stores it.

Under the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from jax.experimental import multihost_utils

Params = dict[str, Any]


def name_of(path: tuple[Any, ...]) -> str:
    """The name of a leaf at a path of the tree: "image/blocks/query/kernel"."""
    return "/".join(str(key.key) for key in path)


def leaves(params: Mapping[str, Any]) -> dict[str, Any]:
    """The tree as {"image/blocks/query/kernel": leaf, ...}, in the tree's own order."""
    paths, _ = jax.tree_util.tree_flatten_with_path(params)
    return {name_of(path): leaf for path, leaf in paths}


def is_stacked(name: str) -> bool:
    """Whether a leaf's first axis is the layers, by its name."""
    return "blocks" in name.split("/")


def map_leaves(function: Callable[[str, Any], Any], params: Mapping[str, Any]) -> Params:
    """The tree with every leaf replaced by the function of its name and itself."""
    found: Params = jax.tree_util.tree_map_with_path(lambda path, leaf: function(name_of(path), leaf), params)
    return found


def divided(params: Mapping[str, Any], chosen: Callable[[str], bool]) -> tuple[Params, Params]:
    """The leaves whose names are chosen, and all others, each as a tree; `merged` makes one of them again."""
    parts: tuple[Params, Params] = {}, {}
    for name, leaf in leaves(params).items():
        *path, last = name.split("/")
        branch = parts[0] if chosen(name) else parts[1]
        for key in path:
            branch = branch.setdefault(key, {})
        branch[last] = leaf
    return parts


def merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> Params:
    """Two trees as one; where both have a leaf of one name, it is the second's."""
    found = dict(one)
    for name, value in other.items():
        both = isinstance(value, Mapping) and isinstance(found.get(name), Mapping)
        found[name] = merged(found[name], value) if both else value
    return found


def parameter_count(params: Mapping[str, Any]) -> int:
    """Number of parameters of a tree of arrays or of their shapes."""
    return sum(math.prod(leaf.shape) for leaf in leaves(params).values())


def digest(params: Mapping[str, Any]) -> str:
    """16 hex digits of a SHA-256 over names, shapes and values; where several processes hold parts, all must ask."""
    found = hashlib.sha256()
    for name, leaf in sorted(leaves(params).items()):
        found.update(f"{name} {leaf.shape}".encode())
        found.update(np.ascontiguousarray(whole(leaf)).tobytes())
    return found.hexdigest()[:16]


def whole(leaf: Any) -> npt.NDArray[Any]:
    """A leaf in the memory of this process; where several processes hold parts of it, all of them must ask."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)
