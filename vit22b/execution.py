"""How a model runs: its compute dtype, what the backward pass recomputes, and how a mesh shares the work.

Inside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. None
of it changes what a model computes beyond rounding, nor the tree of its parameters: a checkpoint may be exported, or
with the same dtype continued, with another execution than it was trained with.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vit22b.sharding import activation_spec

Remat = Literal["none", "dots", "full", "offload"]
Parallel = Literal["gspmd", "ring"]
Split = Literal["images", "features"]

# The operations whose outputs are dear to compute again. All else in a layer is elementwise, and XLA makes it part of
# whatever reads it; a scan that keeps it writes each intermediate of a GELU to memory, six times the hidden units.
_DEAR = frozenset({"dot_general", "exp", "reduce_max", "reduce_sum", "rsqrt"})


@dataclasses.dataclass(frozen=True)
class Execution:
    """How a model runs.

    Attributes:
        dtype: of activations and matmuls; parameters are cast to it, norms, softmax and losses stay float32.
        remat: what the backward pass computes again instead of keeping it. none: nothing but elementwise arithmetic
            (with ring as dots); dots: all but the outputs of the linear layers; full: everything but each block's
            input; offload: as dots, with those outputs in the host's memory meanwhile.
        parallel: who partitions the linear layers of the image tower over the mesh. gspmd: XLA, from constraints;
            ring: the asynchronous parallel layers of vit22b/parallel.py.
        split: what the mesh axis `model` divides of the activations between blocks: features (the paper's layout), or
            images, for rings the same bytes on the links with larger matmuls. XLA by itself makes little of images.
        mesh: the mesh; None for one device and no constraints.
    """

    dtype: DTypeLike = jnp.float32
    remat: Remat = "none"
    parallel: Parallel = "gspmd"
    split: Split = "features"
    mesh: Mesh | None = None

    def __post_init__(self) -> None:
        for name, known in (("remat", Remat), ("parallel", Parallel), ("split", Split)):
            if getattr(self, name) not in get_args(known):
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(get_args(known))}")
        if self.parallel == "ring" and self.mesh is None:
            raise ValueError("the asynchronous parallel layers (ring) need a mesh; give one, or take gspmd")
        if self.parallel == "ring" and self.remat == "offload":
            raise ValueError("remat offload is of gspmd; with ring take full, dots or none")

    @property
    def residual_spec(self) -> PartitionSpec:
        """The mesh axes of the tokens [B, N, D] between blocks."""
        return activation_spec(f"residual_by_{self.split}")

    def residual(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        """Tokens between blocks, laid out as `split` says."""
        return self._constrain(x, self.residual_spec)

    def heads(self, x: Float[Array, "B N H K"]) -> Float[Array, "B N H K"]:
        """Queries, keys or values, their heads over `model`."""
        return self._constrain(x, activation_spec("heads"))

    def hidden(self, x: Float[Array, "B N F"]) -> Float[Array, "B N F"]:
        """The MLP's hidden units, split over `model`."""
        return self._constrain(x, activation_spec("hidden"))

    def rematerialised(self, layer: Callable[..., Any]) -> Callable[..., Any]:
        """A layer whose backward pass keeps what `remat` says."""
        policies = jax.checkpoint_policies
        policy = {
            "none": _is_dear,
            "full": policies.nothing_saveable,
            "dots": policies.dots_with_no_batch_dims_saveable,
            "offload": policies.offload_dot_with_no_batch_dims("device", "pinned_host"),
        }
        # A scan's body is compiled once and its iterations are apart, so nothing can be merged with the forward pass.
        return jax.checkpoint(layer, policy=policy[self.remat], prevent_cse=False)

    def _constrain(self, x: Float[Array, "..."], spec: PartitionSpec) -> Float[Array, "..."]:
        if self.mesh is None or self.mesh.size == 1:
            return x
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))


def _is_dear(primitive: Primitive, *_: Any, **__: Any) -> bool:
    """A policy of jax.checkpoint: whether the backward pass keeps what this operation made."""
    return primitive.name in _DEAR
