"""A slice of TPUs that is not there: its devices and their links, for which libtpu compiles on any machine.

Beside the train state and the SavedModel on the walk image -> batch -> train state -> checkpoint -> SavedModel ->
server -> client: train/plan.py compiles a step for these devices, export/tpu_memory.py the towers of a version. libtpu
comes with `pip install 'jax[tpu]'`.
"""

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
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


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What a TPU's compiler made of a program.

    Attributes:
        arguments: bytes a chip; None where the program does not fit.
        temporaries: bytes a chip; None where it does not fit.
        text: the scheduled program of a chip; empty where it does not fit.
        refusal: the compiler's message where it does not fit, else empty.
    """

    arguments: int | None
    temporaries: int | None
    text: str
    refusal: str


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
    chip, torus = parse_topology(topology)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    options: dict[str, Any] = {"chip_config_name": chip.config_name} if chip.config_name else {}
    if math.prod(torus) == 1:
        options["chips_per_host_bounds"] = [1, 1, 1]  # a host has 2x2x1 otherwise, which one chip does not fill
    try:
        return topologies.get_topology_desc(topology, platform="tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"libtpu describes no topology {topology!r}: {str(error).splitlines()[0]}") from error


def one_chip(chip: Chip) -> jax.Device:
    """A single chip by itself, as the device that a program is compiled for.

    Raises:
        ValueError: libtpu describes no such chip.
    """
    return devices(f"{chip.name}:" + "x".join("1" * chip.torus))[0]


def compile_lowered(lowered: jax.stages.Lowered) -> Compiled:
    """Compiles a program that was lowered for devices of a topology.

    Raises:
        jax.errors.JaxRuntimeError: the compiler failed, and not for want of memory.
    """
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Compiled(None, None, "", str(error))
    memory = compiled.memory_analysis()
    assert memory is not None
    return Compiled(memory.argument_size_in_bytes, memory.temp_size_in_bytes, compiled.as_text() or "", "")


def open_axes(topology: str, mesh: Mesh) -> frozenset[str]:
    """The axes of a mesh of a topology that have no way round: lines, and no rings.

    An axis goes round where it takes up whole dimensions of the torus, and these are closed by links from their end to
    their start: those of whole cubes of 4, of a plane's 16.
    """
    chip, torus = parse_topology(topology)
    coordinates = np.array([[device.coords for device in row] for row in mesh.devices])[..., : len(torus)]

    def goes_round(chips: np.ndarray[Any, Any]) -> bool:
        extents = [len(set(places)) for places in chips.T.tolist()]
        closed = [size % (4 if chip.torus == 3 else 16) == 0 for size in torus]
        return all(one == 1 or (one == size and ring) for one, size, ring in zip(extents, torus, closed, strict=True))

    along = {DATA: coordinates[:, 0], MODEL: coordinates[0]}
    return frozenset(axis for axis, chips in along.items() if not goes_round(chips))


def abstract_mesh(data: int, model: int) -> AbstractMesh:
    """A mesh of no devices at all, for what is asked of shapes alone."""
    return AbstractMesh((data, model), (DATA, MODEL), axis_types=(AxisType.Auto,) * 2)


def meshes(topology: str) -> list[tuple[int, int]]:
    """All (data, model) of a topology's chips, with model a power of two up to 32."""
    chips = math.prod(parse_topology(topology)[1])
    return [(chips // model, model) for model in (1, 2, 4, 8, 16, 32) if chips % model == 0]
