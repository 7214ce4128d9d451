"""What a run is computed with: the mesh, who partitions the layers, what is recomputed, the compute dtype.

Beside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. A run
may be continued with other values of these but the dtype: what it learns is the same to rounding, and its checkpoints
do not depend on them. Another dtype rounds otherwise by orders of magnitude, and is another run.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from vit22b import asynchronous
from vit22b.config import ModelConfig
from vit22b.execution import Execution, Parallel, Remat, Split
from vit22b.program import table_console
from vit22b.sharding import DATA, MODEL, Rules, make_mesh, parse_mesh, table
from vit22b.tree import Params


@dataclasses.dataclass(frozen=True)
class Compute:
    """What a run is computed with."""

    mesh: str = "one"
    """DATAxMODEL, devices along the axes data and model, such as 16x4; or one: a single device; data: all devices, each
    with all parameters; fsdp: all devices, parameters split over them; 2d: as fsdp, with 4 devices along model."""
    parallel: Parallel = "gspmd"
    """gspmd: XLA partitions the linear layers. ring: the asynchronous parallel layers, which overlap every hop."""
    split: Split | None = None
    """What the mesh axis model divides of the activations between blocks: features, the paper's layout, or images. If
    not given, what is faster: images for ring, features for gspmd."""
    remat: Remat = "none"
    """What the backward pass computes again: none, all but the linear layers' outputs (dots), everything (full);
    offload keeps those outputs in the host's memory."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Of activations and matmuls; the weights are float32. auto: bfloat16, and float32 on a CPU."""
    accumulate: int = 1
    """Parts that a batch is computed in, one after the other; the gradient is that of the whole batch."""
    print_sharding: bool = False
    """Print where every parameter lies, and exit."""

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise ValueError(f"--accumulate is {self.accumulate}; expected 1 or more")
        if self.parallel == "ring" and self.mesh == "data":
            raise ValueError(
                "--parallel ring splits the parameters that --mesh data keeps whole on every device; take --mesh fsdp, "
                "or --parallel gspmd"
            )

    def make_mesh(self) -> Mesh:
        """The mesh.

        Raises:
            ValueError: the mesh is none, or there are not as many devices.
        """
        data, model, _ = parse_mesh(self.mesh, jax.device_count())
        mesh = make_mesh(data, model)
        if jax.process_count() > 1 and mesh.size < jax.device_count():
            raise ValueError(
                f"--mesh {self.mesh} has {mesh.size} devices, the {jax.process_count()} processes have "
                f"{jax.device_count()}; give a mesh of them all, such as --mesh fsdp"
            )
        return mesh

    def check_batch(self, batch: int, mesh: Mesh) -> None:
        """Checks that every device gets as many rows of a batch as any other, in every part of it.

        Raises:
            ValueError: it does not divide; the message has what does.
        """
        axes = (DATA, MODEL) if self.residual_split == "images" else (DATA,)
        shards = math.prod(mesh.shape[axis] for axis in axes)
        if batch % (shards * self.accumulate):
            parts = f" in --accumulate {self.accumulate} parts each" if self.accumulate > 1 else ""
            raise ValueError(
                f"--batch {batch} does not divide over the {shards} devices that --mesh {self.mesh} splits images over"
                f"{parts}; take a multiple of {shards * self.accumulate}"
            )

    def check_model(self, config: ModelConfig) -> None:
        """Checks that the layers that are asked for can run a model's image tower.

        Raises:
            ValueError: they cannot; the message has what of the tower they do not know.
        """
        if self.parallel == "ring":
            asynchronous.check(config.image)

    @property
    def residual_split(self) -> Split:
        """What is asked for, or else what is faster; read late, since flags may replace `parallel` of a default."""
        return self.split or ("images" if self.parallel == "ring" else "features")

    @property
    def rules(self) -> Rules:
        """How parameters are laid out on the mesh."""
        return parse_mesh(self.mesh, jax.device_count())[2]

    def shows_sharding(self, params: Params, mesh: Mesh) -> bool:
        """Prints where every parameter lies, if that is all that was asked for."""
        if self.print_sharding:
            table_console().print(table(params, mesh, self.rules))
        return self.print_sharding

    def execution(self, mesh: Mesh) -> Execution:
        """How a model runs on this mesh."""
        dtype = jnp.dtype(self.dtype if self.dtype != "auto" else _native(mesh))
        return Execution(dtype=dtype, remat=self.remat, parallel=self.parallel, split=self.residual_split, mesh=mesh)


def _native(mesh: Mesh) -> str:
    device: jax.Device = mesh.devices.flat[0]
    return "float32" if device.platform == "cpu" else "bfloat16"
