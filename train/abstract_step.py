"""The train step of a run that is only planned: pretraining's own step, traced for chips that need not be there.

Beside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. What
train/plan.py compiles is made here of the functions that train/pretrain.py runs, so that the two cannot differ.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from train.classifier import sigmoid_loss
from train.compute import Compute
from train.optimizer import Optimizer, make
from train.state import Step, TrainState, abstract_state, make_step
from vit22b import model
from vit22b.config import ModelConfig, vit
from vit22b.preprocess import Preprocess
from vit22b.sharding import batch_sharding, parse_mesh
from vit22b.topology import abstract_mesh, parse_topology

_STEPS = 177_000  # the schedule is part of the program, its length is not


@dataclasses.dataclass(frozen=True)
class Planned:
    """A run to plan."""

    size: str = "22b"
    """Name of the size: mu, Ti, S, M, B, L, So400m, H, g, G, e, 22b."""
    topology: str = "v5p:4x4x4"
    """CHIP:AxBxC, the chips and their torus: v4:8x8x16, v5p:4x4x4, v5e:16x16, v6e:16x16."""
    batch: int = 2048
    """Images a step."""
    classes: int = 29_593
    """Outputs of the head; the paper's by default."""
    compute: Compute = dataclasses.field(default_factory=lambda: Compute(mesh="16x4", remat="full", dtype="bfloat16"))
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)

    def __post_init__(self) -> None:
        chips, (data, model_axis) = self.chips, self.shape
        if data * model_axis != chips:
            likely, few, _ = parse_mesh("2d", chips)
            raise ValueError(
                f"--mesh {self.compute.mesh} has {data * model_axis} devices, {self.topology} has {chips}; take a mesh "
                f"of {chips}, such as {likely}x{few}"
            )
        if (self.compute.parallel, self.compute.remat) == ("ring", "offload"):
            raise ValueError("--remat offload is of --parallel gspmd; with ring take full, dots or none")
        if self.batch < 1:
            raise ValueError(f"--batch is {self.batch}; expected 1 or more")
        self.compute.check_batch(self.batch, abstract_mesh(data, model_axis))

    @property
    def chips(self) -> int:
        """How many chips the topology has."""
        return math.prod(parse_topology(self.topology)[1])

    @property
    def shape(self) -> tuple[int, int]:
        """The mesh, data and model.

        Raises:
            ValueError: the mesh is none.
        """
        data, model_axis, _ = parse_mesh(self.compute.mesh, self.chips)
        return data, model_axis

    @property
    def images_per_chip(self) -> int | float:
        """Of a step; chips along the mesh axis model may share one."""
        whole, rest = divmod(self.batch, self.chips)
        return self.batch / self.chips if rest else whole

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
        lambda key: model.init(run.config, key),
        make(run.optimizer, _STEPS),
        mesh,
        run.optimizer.ema > 0,
        run.compute.rules,
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
