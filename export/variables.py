"""A checkpoint's parameters as tf.Variables: what the exported graph reads and the SavedModel stores.

Between checkpoint and SavedModel on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server ->
client. The variables are the only copy of the weights in the process: each layer of each leaf is read, hashed, cast and
written to its place in the variable before the next one is read.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from vit22b.description import Description
from vit22b.quantised import Quantiser, WeightType, abstract
from vit22b.space import Space
from vit22b.stored_layers import Layers
from vit22b.tree import Params, leaves, map_leaves


@dataclasses.dataclass(frozen=True)
class Variables:
    """The weights of one export.

    Attributes:
        tree: the parameters' tree as the exported program takes it, of tf.Variables.
        space_id: of the vectors that a model with these weights makes.
        float32_space_id: of the same model's with its float32 weights; equal where these are.
        weights: the type that the weights are stored in.
    """

    tree: Params
    space_id: str
    float32_space_id: str
    weights: WeightType = "float32"


def stream(layers: Layers, weights: WeightType = "float32") -> Variables:
    """The variables of a checkpoint, with little more memory than they take.

    Args:
        layers: of the checkpoint.
        weights: the type to store them in.
    """
    return _fill(layers.description, leaves(layers.shapes), layers.read, weights)


def from_params(params: Mapping[str, Any], description: Description, weights: WeightType = "float32") -> Variables:
    """The variables of parameters that are in memory.

    Args:
        params: the tree; float32 arrays of any kind.
        description: of the model.
        weights: the type to store them in.
    """
    named = leaves(params)
    return _fill(description, named, lambda name: iter([np.asarray(named[name])]), weights)


def _fill(
    description: Description,
    source: Mapping[str, Any],
    read: Callable[[str], Iterator[npt.NDArray[Any]]],
    weights: WeightType,
) -> Variables:
    """Makes the variables and the names of their space in one pass, in the order that the names are made in."""
    config = description.config
    spaces = {kind: _space(description, kind) for kind in ("float32", weights)}
    quantise = Quantiser(config, weights)
    _, stored = abstract(config, weights)
    made = {name: _Filling(name, leaf) for name, leaf in leaves(stored).items()}
    for name in sorted(source):
        for space in spaces.values():
            space.begin(name, source[name])
        for values in read(name):
            for space in spaces.values():
                space.add(values)
            for part, cast in quantise(name, values).items():
                made[part].add(cast)
    tree = map_leaves(lambda name, _: made[name].variable, stored)
    return Variables(tree, spaces[weights].id, spaces["float32"].id, weights)


def _space(description: Description, weights: WeightType) -> Space:
    of = description
    return Space(of.preprocess, of.config, of.tokenizer, weights)


class _Filling:
    """A variable that is written in consecutive parts of its first axis."""

    def __init__(self, name: str, leaf: jax.ShapeDtypeStruct) -> None:
        self.variable = tf.Variable(tf.zeros(leaf.shape, leaf.dtype), trainable=False, name=name)
        self._filled = 0

    def add(self, values: npt.NDArray[Any]) -> None:
        if values.shape == self.variable.shape:
            self.variable.assign(values)
            return
        # The raw op, since variable[a:b].assign reads the variable first, and with two references to its memory the
        # write would make a copy of the whole.
        begin, self._filled = self._filled, self._filled + len(values)
        tf.raw_ops.ResourceStridedSliceAssign(
            ref=self.variable.handle, begin=[begin], end=[self._filled], strides=[1], value=values
        )
