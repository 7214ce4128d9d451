"""The accelerators that a run is planned for or measured on: peaks, memory, clocks, links, compiler options.

Beside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client: the
loop takes the peak from here for its MFU, train/plan.py the rest. Standard library only.

Sources: the vendors' data sheets for peaks; the TPU compiler's own limit for the memory of a TPU (it refuses a program
that needs more). Links and clocks are assumptions: Google's sheets give a link of v4 50 GB/s in each direction and one
of v5p 100, of which a tenth is taken off, and the others are taken to be like these; the clock is the one that the
compiler's cycle estimates are taken to count in.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Protocol

GIB = 2**30

# XLA gathers the weights over `data` and scatters their gradients; these make it do so beside the matmuls.
_LATENCY_HIDING = {"xla_tpu_enable_latency_hiding_scheduler": "true"}
_ASYNC_GATHER = {
    "xla_tpu_enable_async_collective_fusion": "true",
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
    "xla_tpu_enable_async_collective_fusion_multiple_steps": "true",
    "xla_tpu_overlap_compute_collective_tc": "true",
    "xla_enable_async_all_gather": "true",
}
_ASYNC_REDUCE = {
    "xla_tpu_enable_async_collective_fusion_fuse_all_reduce": "true",
    "xla_enable_async_all_reduce": "true",
}
_SPARSE_CORE_SCATTER = {"xla_tpu_enable_sparse_core_collective_offload_reduce_scatter": "true"}


class Device(Protocol):
    """What a jax.Device says of itself."""

    @property
    def device_kind(self) -> str: ...


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator, as one JAX device.

    Attributes:
        name: as in a topology, for instance "v5p"; for a GPU its model.
        kinds: regular expression that the whole of jax.Device.device_kind matches.
        peak_flops: dense bfloat16 FLOP/s.
        hbm_bytes: memory that a program can use; 0 for a chip that no run is planned for.
        clock_hz: of the compiler's estimated cycles, assumed; None where it estimates none.
        link_bytes_per_second: of one link of the torus in one direction, assumed; None where there is no torus.
        torus: dimensions of the torus of links; 0 for none.
        config_name: of the topology's description, where the chip has more than one.
        compiler_options: for jax.stages.Lowered.compile, by name, as strings.
    """

    name: str
    kinds: str
    peak_flops: float
    hbm_bytes: int = 0
    clock_hz: float | None = None
    link_bytes_per_second: float | None = None
    torus: int = 0
    config_name: str | None = None
    compiler_options: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)


_TPUS = (
    Chip(
        "v4",
        r"TPU v4",
        peak_flops=275e12,
        hbm_bytes=int(30.75 * GIB),
        clock_hz=1.05e9,
        link_bytes_per_second=45e9,
        torus=3,
        config_name="megacore",  # both cores of a chip as one device
        compiler_options={**_LATENCY_HIDING, **_ASYNC_GATHER},
    ),
    Chip(
        "v5e",
        r"TPU v5( lite|e)",
        peak_flops=197e12,
        hbm_bytes=int(15.75 * GIB),
        clock_hz=1.5e9,
        link_bytes_per_second=45e9,
        torus=2,
        compiler_options={**_LATENCY_HIDING, **_ASYNC_GATHER, **_ASYNC_REDUCE},
    ),
    Chip(
        "v5p",
        r"TPU v5p?",
        peak_flops=459e12,
        hbm_bytes=int(95.74 * GIB),
        clock_hz=1.75e9,
        link_bytes_per_second=90e9,
        torus=3,
        compiler_options={**_LATENCY_HIDING, **_ASYNC_GATHER, **_ASYNC_REDUCE, **_SPARSE_CORE_SCATTER},
    ),
    Chip(
        "v6e",
        r"TPU v6( lite|e)",
        peak_flops=918e12,
        hbm_bytes=int(31.25 * GIB),
        clock_hz=1.75e9,
        link_bytes_per_second=90e9,
        torus=2,
        compiler_options={**_LATENCY_HIDING, **_ASYNC_GATHER, **_ASYNC_REDUCE},
    ),
)
_GPUS = (
    Chip("A100", r"(NVIDIA )?A100.*", peak_flops=312e12),
    Chip("H100 PCIe", r"(NVIDIA )?H100 (PCIe|NVL).*", peak_flops=756e12),
    Chip("H100", r"(NVIDIA )?H100.*", peak_flops=989e12),
)
CHIPS: dict[str, Chip] = {chip.name: chip for chip in (*_TPUS, *_GPUS)}


def chip_of(device: Device) -> Chip | None:
    """The chip that a device is, by its kind; None for one that the table does not know, a CPU for instance."""
    return next((chip for chip in CHIPS.values() if re.fullmatch(chip.kinds, device.device_kind)), None)


def tpu(name: str) -> Chip:
    """The TPU of a topology's name, for instance "v5p".

    Raises:
        ValueError: the table has no such TPU; the message lists those it has.
    """
    known = [chip.name for chip in _TPUS]
    if name not in known:
        raise ValueError(f"no TPU {name!r}; expected one of {', '.join(known)}")
    return CHIPS[name]
