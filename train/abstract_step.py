"""The train step of a run that is only planned: pretraining's own step, traced for chips that need not be there.

Beside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. What
train/plan.py compiles is made here of the functions that train/pretrain.py runs, so that the two cannot differ.
"""

import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from train.compute import Compute
from train.optimizer import Optimizer, make
from train.pretrain import sigmoid_loss
from train.state import Step, TrainState, abstract_state, make_step
from train.topology import abstract_mesh, parse_topology
from vit22b import model
from vit22b.config import ModelConfig, Preprocess, vit
from vit22b.sharding import batch_sharding

_STEPS = 177_000  # the schedule is part of the program, its length is not


@dataclasses.dataclass(frozen=True)
class Planned:
    """A run to plan."""

    size: str = "22b"
    """Name of the size: mu, Ti, S, M, B, L, So400m, H, g, G, e, 22b."""
    topology: str = "v5p:4x4x4"
    """CHIP:AxBxC, the chips and their torus: v4:8x8x16, v5p:4x4x4, v5e:16x16, v6e:16x16."""
    batch: int = 65_536
    """Images a step."""
    classes: int = 29_593
    """Outputs of the head; the paper's by default."""
    compute: Compute = dataclasses.field(default_factory=lambda: Compute(mesh="16x4", remat="full", dtype="bfloat16"))
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)

    def __post_init__(self) -> None:
        chips, (data, model_axis) = self.chips, self.shape
        if data * model_axis != chips:
            raise ValueError(
                f"--mesh {self.compute.mesh} has {data * model_axis} devices, {self.topology} has {chips}; take a mesh "
                f"of {chips}, such as {max(chips // 4, 1)}x{min(chips, 4)}"
            )
        parts = chips * self.compute.accumulate
        if self.batch < 1 or self.batch % parts:
            raise ValueError(
                f"--batch {self.batch} does not divide over {chips} chips in --accumulate {self.compute.accumulate} "
                f"parts; take a multiple of {parts}"
            )

    @property
    def chips(self) -> int:
        """How many chips the topology has."""
        return math.prod(parse_topology(self.topology)[1])

    @property
    def shape(self) -> tuple[int, int]:
        """The mesh, data and model.

        Raises:
            ValueError: the mesh is not two numbers.
        """
        found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", self.compute.mesh)
        if not found:
            raise ValueError(f"--mesh is {self.compute.mesh!r}; expected DATAxMODEL, such as 16x4")
        return int(found[1]), int(found[2])

    @property
    def images_per_chip(self) -> int:
        """Of a step."""
        return self.batch // self.chips

    @property
    def config(self) -> ModelConfig:
        """The model."""
        return ModelConfig(vit(self.size), classes=self.classes)

    def with_compute(self, **changes: Any) -> "Planned":
        """The same run, computed otherwise."""
        return dataclasses.replace(self, compute=dataclasses.replace(self.compute, **changes))


def abstract_arguments(run: Planned, mesh: Mesh | AbstractMesh | None = None) -> tuple[TrainState, dict[str, Any]]:
    """The state and the batch of a step as shapes with shardings.

    Args:
        run: the run.
        mesh: where they lie; a mesh without devices if not given.

    Raises:
        ValueError: the mesh does not divide a parameter.
    """
    mesh = mesh or abstract_mesh(*run.shape)
    target = abstract_state(
        lambda key: model.init(run.config, key), make(run.optimizer, _STEPS), mesh, run.optimizer.ema > 0
    )
    place, side = batch_sharding(mesh), run.config.image.resolution
    batch = {
        "pixels": jax.ShapeDtypeStruct((run.batch, side, side, 3), jnp.uint8, sharding=place),
        "targets": jax.ShapeDtypeStruct((run.batch, run.classes), jnp.float32, sharding=place),
    }
    return target, batch


def trace_step(run: Planned, mesh: Mesh) -> jax.stages.Traced:
    """The step, traced for a mesh.

    Raises:
        ValueError: the mesh does not divide what it has to.
    """
    target, batch = abstract_arguments(run, mesh)
    graph, _ = model.abstract(run.config)
    loss = sigmoid_loss(graph, Preprocess(run.config.image.resolution), run.compute.execution(mesh))
    step: Step = make_step(loss, make(run.optimizer, _STEPS), target, run.compute.accumulate, run.optimizer.ema)
    return step.trace(target, batch)
