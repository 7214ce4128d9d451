"""Weights in fewer bits than they were trained in: bfloat16, and int8 with a scale for every output channel.

Between checkpoint and SavedModel on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server ->
client. An int8 kernel q has a leaf `kernel_scale` beside it, float32, with the axes that the kernel gives to the output
(and that of the layers): the map is (x @ q) * kernel_scale, computed in bfloat16 with float32 sums. Embeddings (token
and position) are bfloat16 then. What is left, scales, biases, probes, temperatures, is a thousandth of the parameters
and stays float32.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import numpy.typing as npt
from flax import nnx
from jax.typing import DTypeLike

from vit22b import model, signature
from vit22b.block import contracted
from vit22b.config import ModelConfig
from vit22b.tree import Params, leaves, map_leaves

WeightType = Literal["float32", "bfloat16", "int8"]

# Of golden answers: the greatest error of an output, as a part of the greatest value recorded for it. Two kinds of chip
# sum in other orders, and what is rounded to the 8 bits of bfloat16 after every layer then differs by several of them.
TOLERANCES: Mapping[WeightType, float] = MappingProxyType(
    {"float32": signature.TOLERANCE, "bfloat16": 2**-5, "int8": 2**-5}
)

SCALE = "_scale"
_LARGEST = 127  # -128 is not used: a kernel and its negative are the same but for the sign


def abstract(config: ModelConfig, weights: WeightType = "float32") -> tuple[nnx.GraphDef[model.Model], Params]:
    """vit22b.model.abstract with the parameters as they are stored in a type; int8 adds the scales.

    Args:
        config: of the model.
        weights: the type.
    """
    graph, shapes = model.abstract(config)
    if weights == "int8":
        network = nnx.merge(graph, shapes)
        for linear in _linear_maps(network).values():
            scale = _without(linear.kernel.shape, contracted(linear.equation))
            linear.kernel_scale = nnx.data(nnx.Param(jax.ShapeDtypeStruct(scale, jnp.float32)))
        graph, state = nnx.split(network)
        shapes = nnx.to_pure_dict(state)
    return graph, map_leaves(lambda name, leaf: jax.ShapeDtypeStruct(leaf.shape, _dtype(name, weights)), shapes)


def compute_dtype(weights: WeightType) -> DTypeLike:
    """The dtype of activations and matmuls that goes with a type of weights."""
    return jnp.float32 if weights == "float32" else jnp.bfloat16


def weight_bytes(config: ModelConfig, weights: WeightType) -> int:
    """What the parameters take in a type, in bytes."""
    _, shapes = abstract(config, weights)
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves(shapes).values())


class Quantiser:
    """Makes the stored leaves of one model out of its float32 ones, a part of a leaf at a time."""

    def __init__(self, config: ModelConfig, weights: WeightType) -> None:
        """Finds out which axes of each kernel are contracted."""
        self.weights = weights
        network = nnx.merge(*model.abstract(config))
        self._contracted = {
            f"{name}/kernel": contracted(linear.equation) for name, linear in _linear_maps(network).items()
        }

    def __call__(self, name: str, values: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """The stored parts of a leaf, by name.

        Args:
            name: of the leaf.
            values: float32; the whole leaf, or consecutive layers of a stacked one.

        Returns:
            The same values in the stored dtype under the same name, and under `<name>_scale` the scale of int8 ones.
        """
        if self.weights == "int8" and name in self._contracted:
            kernel, scale = quantise(values, self._contracted[name])
            return {name: kernel, name + SCALE: scale}
        return {name: values.astype(_dtype(name, self.weights), copy=False)}


def quantise(
    kernel: npt.NDArray[np.float32], axes: tuple[int, ...]
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Symmetric int8: the nearest multiples of a scale, which makes the largest value of a channel 127.

    Args:
        kernel: of one layer or of several.
        axes: those that a matmul contracts; every position of the others is a channel.

    Returns:
        q: int8, of the kernel's shape, and scale: float32, of that shape without the axes. The error of q * scale is at
        most half a scale. A channel of zeros has scale 1.
    """
    largest = np.abs(kernel).max(axis=axes, keepdims=True)
    scale = np.where(largest > 0, largest / _LARGEST, 1).astype(np.float32)
    return np.rint(kernel / scale).astype(np.int8), scale.squeeze(axes)


def _linear_maps(network: model.Model) -> Mapping[str, Any]:
    """The modules that have a kernel, by the name of their part of the tree."""
    return {"/".join(map(str, path)): part for path, part in nnx.iter_modules(network) if hasattr(part, "equation")}


def _without(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for i, size in enumerate(shape) if i - len(shape) not in axes)


def _dtype(name: str, weights: WeightType) -> np.dtype[Any]:
    kind = name.split("/")[-1]
    if weights == "float32" or not (kind == "kernel" or kind.endswith("_embedding")):
        return np.dtype(np.float32)
    return np.dtype(np.int8 if weights == "int8" and kind == "kernel" else ml_dtypes.bfloat16)
