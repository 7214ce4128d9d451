"""Which parameters a fine-tuning moves, and how far: patterns of names that stand still, rates that fall with depth.

Inside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import difflib
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from train.signals import STACK
from vit22b.tree import leaves, map_leaves

# What an image is before the first block; all else that is not a block comes behind the last.
_FIRST = ("patch_projection", "position_embedding", "class_token", "registers", "pre_norm")
_SHOWN = 12


def frozen(patterns: Sequence[str], params: Mapping[str, Any]) -> Callable[[str], bool]:
    """Whether a parameter, by its name, stands still.

    Args:
        patterns: of names, as fnmatch has them; `*` goes over slashes too: "image/blocks/*".
        params: the tree.

    Raises:
        ValueError: a pattern matches nothing, or together they leave nothing to train; the message has names.
    """
    names = list(leaves(params))
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ValueError(
                f"--freeze {pattern!r} matches no parameter; expected names such as {_near(pattern, names)}"
            )

    def still(name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    if names and all(map(still, names)):
        raise ValueError(f"--freeze {' '.join(patterns)} matches every parameter; leave some to train, such as head/*")
    return still


def is_behind(name: str) -> bool:
    """Whether a parameter of the image tower or the head comes behind the last block."""
    return STACK not in name and name.split("/")[1] not in _FIRST


def layer_scales(params: Mapping[str, Any], decay: float, depth: int) -> Any:
    """The part of the learning rate that each parameter has, by its depth (Bao et al. 2022, BEiT).

    Args:
        params: the tree, or the part of it that is trained.
        decay: d, in (0, 1].
        depth: L, of the image tower.

    Returns:
        The tree of float32 arrays that multiply updates: of block i, counted from 0, d^(L - i), [L, 1, ...] for a leaf
        that is stacked; d^(L + 1) for what stands before the first block: the patches' projection, positions, class
        token, registers and the norm behind them; 1 for what comes after the last: final norm, pooling, head.
    """
    by_block = np.float32(decay) ** np.arange(depth, 0, -1, dtype=np.float32)

    def scale(name: str, leaf: Any) -> np.ndarray:
        if STACK in name:
            return by_block.reshape(-1, *[1] * (len(leaf.shape) - 1))
        return np.asarray(1.0 if is_behind(name) else decay ** (depth + 1), np.float32)

    return map_leaves(scale, params)


def scaled(optimizer: optax.GradientTransformation, decay: float, depth: int) -> optax.GradientTransformation:
    """An optimizer whose whole updates, weight decay included, fall with depth; see layer_scales.

    Raises:
        ValueError: no such decay.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"--layer_decay is {decay}; expected a factor in (0, 1], such as 0.75, or 1 for none")
    if decay == 1:
        return optimizer

    def scale(updates: Any, _: Any) -> Any:
        return jax.tree.map(lambda update, by: update * jnp.broadcast_to(by, update.shape), updates, scales(updates))

    def scales(updates: Any) -> Any:
        return layer_scales(updates, decay, depth)

    return optax.chain(optimizer, optax.stateless(scale))


def _near(pattern: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4)
    some = [*near, *(name for name in names if name not in near)][:_SHOWN]
    return ", ".join(some) + (f" and {len(names) - len(some)} more" if len(some) < len(names) else "")
