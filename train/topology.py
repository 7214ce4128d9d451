"""A slice of TPUs that is not there: its devices and meshes, for which libtpu compiles on any machine.

Beside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client:
train/plan.py compiles the step for these devices. libtpu comes with `pip install 'jax[tpu]'`.
"""

import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, topologies
from jax.sharding import AbstractMesh, AxisType, Mesh

from vit22b.chips import Chip, tpu
from vit22b.sharding import DATA, MODEL

# libtpu looks for a TPU and its neighbours when it is loaded; these keep it from asking, and from locking a TPU.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5p-8",  # any valid one
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_AXES = (DATA, MODEL)
_AUTO = (AxisType.Auto,) * 2


def has_compiler() -> bool:
    """Whether libtpu is installed."""
    return importlib.util.find_spec("libtpu") is not None


def parse_topology(topology: str) -> tuple[Chip, tuple[int, ...]]:
    """The chip and the torus of a topology's name, such as v5p:4x4x4.

    Raises:
        ValueError: no such chip, or a torus that it cannot form.
    """
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", topology)
    if not found:
        raise ValueError(f"--topology is {topology!r}; expected CHIP:AxBxC, such as v5p:4x4x4 or v5e:16x16")
    chip, torus = tpu(found[1]), tuple(int(size) for size in found[2].split("x"))
    if len(torus) != chip.torus or min(torus) < 1:
        raise ValueError(
            f"--topology is {topology!r}; a {chip.name} has a torus of {chip.torus} dimensions of 1 or more"
        )
    return chip, torus


def devices(topology: str) -> Sequence[jax.Device]:
    """The devices of a topology, described by libtpu.

    Raises:
        ValueError: libtpu knows no such topology.
    """
    chip, _ = parse_topology(topology)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    options: dict[str, Any] = {"chip_config_name": chip.config_name} if chip.config_name else {}
    try:
        return topologies.get_topology_desc(topology, platform="tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"libtpu describes no topology {topology!r}: {str(error).splitlines()[0]}") from error


def mesh_of(chips: Sequence[jax.Device], data: int, model: int) -> Mesh:
    """A mesh of all the chips, laid out so that neighbours on an axis are neighbours on the torus where that can be.

    Raises:
        ValueError: the mesh has another number of devices, or does not tile the torus.
    """
    if data * model != len(chips):
        raise ValueError(f"a mesh of {data}x{model} has {data * model} devices, the topology {len(chips)}")
    try:
        laid_out = mesh_utils.create_device_mesh((data, model), chips)
    except (NotImplementedError, AssertionError):
        laid_out = _split_torus((data, model), chips)
    return Mesh(laid_out, _AXES, axis_types=_AUTO)


def _split_torus(shape: tuple[int, int], chips: Sequence[jax.Device]) -> np.ndarray:
    """A mesh for which a dimension of the torus has to be cut in two."""
    try:
        return mesh_utils.create_device_mesh(shape, chips, allow_split_physical_axes=True)
    except (NotImplementedError, AssertionError, ValueError) as error:
        raise ValueError(f"a mesh of {shape[0]}x{shape[1]} does not tile this topology: {error}") from error


def abstract_mesh(data: int, model: int) -> AbstractMesh:
    """A mesh of no devices at all, for what is asked of shapes alone."""
    return AbstractMesh((data, model), _AXES, axis_types=_AUTO)


def meshes(topology: str) -> list[tuple[int, int]]:
    """All (data, model) of a topology's chips, with model a power of two up to 32."""
    chips = math.prod(parse_topology(topology)[1])
    return [(chips // model, model) for model in (1, 2, 4, 8, 16, 32) if chips % model == 0]
