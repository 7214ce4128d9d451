"""The TPU compiler's answer to a planned step: the program and its memory, or how much memory it lacks.

Beside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. A step
of 22B takes the compiler minutes and gigabytes, so that answers are kept by what was asked: the program's own text, the
chips and their order in the mesh, the compiler's options and version.
"""

import dataclasses
import gzip
import hashlib
import importlib.metadata
import json
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import jax

from train.abstract_step import Planned, trace_step
from train.arithmetic import matmul_flops
from vit22b import topology
from vit22b.chips import Chip
from vit22b.sharding import make_mesh
from vit22b.whole_file import write_whole


@dataclasses.dataclass(frozen=True)
class Program:
    """What the compiler made of a step.

    Attributes:
        flops: of the matmuls of all chips in one step, as traced.
        seconds: that it took.
        arguments: bytes a chip; None where it does not fit.
        temporaries: bytes a chip; None where it does not fit.
        text: the scheduled program of a chip; empty where it does not fit.
        refusal: the compiler's message where it does not fit, else empty.
        lines: axes of the mesh that have no way round on the torus; see vit22b.topology.open_axes.
    """

    flops: int
    seconds: float
    arguments: int | None
    temporaries: int | None
    text: str
    refusal: str
    lines: tuple[str, ...] = ()


def compile_step(run: Planned, cache: Path | None = None) -> Program:
    """Compiles a run's step for its topology, or takes what is in the cache.

    Args:
        run: the run.
        cache: folder for answers.

    Raises:
        ValueError: the topology, the mesh or the batch cannot be.
    """
    chip, _ = topology.parse_topology(run.topology)
    mesh = make_mesh(*run.shape, topology.devices(run.topology))
    traced = trace_step(run, mesh)
    lowered, flops = traced.lower(), matmul_flops(traced.jaxpr.jaxpr)
    order = [device.id for device in mesh.devices.flat]
    lines = tuple(sorted(topology.open_axes(run.topology, mesh)))
    path = cache and cache / f"{_key(lowered.as_text(), run.topology, chip, order)}.json.gz"
    if path and path.exists():
        # Counted anew is what is ours, not the compiler's.
        return Program(**{**json.loads(gzip.decompress(path.read_bytes())), "flops": flops, "lines": lines})
    program = dataclasses.replace(_compile(lowered, flops), lines=lines)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        packed = gzip.compress(json.dumps(dataclasses.asdict(program)).encode())
        write_whole(path, lambda file: file.write(packed))
    return program


def compile_apart(run: Planned, cache: Path | None = None) -> Program:
    """As compile_step, in a process of its own: the compiler does not give back the memory that it took."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, only_cpu) as pool:
        return pool.submit(compile_step, run, cache).result()


def only_cpu() -> None:
    """Keeps JAX from looking for a TPU, which libtpu would make it do."""
    jax.config.update("jax_platforms", "cpu")


def _compile(lowered: jax.stages.Lowered, flops: int) -> Program:
    begin = time.perf_counter()
    compiled = topology.compile_lowered(lowered)
    return Program(
        flops=flops,
        seconds=round(time.perf_counter() - begin, 1),
        arguments=compiled.arguments,
        temporaries=compiled.temporaries,
        text=compiled.text,
        refusal=compiled.refusal,
    )


def _key(text: str, topology_name: str, chip: Chip, order: Sequence[int]) -> str:
    """Of all that the compiler is given; a program's text does not say which device has which place in the mesh."""
    versions = jax.__version__, importlib.metadata.version("libtpu")
    asked = (text, topology_name, sorted(chip.compiler_options.items()), *versions, chip.config_name, list(order))
    return hashlib.sha256(repr(asked).encode()).hexdigest()[:24]
