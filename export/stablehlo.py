"""The second format: a jax.export artefact for each tower, and the weights as a safetensors file.

    .venv/bin/python export/to_savedmodel.py --checkpoint build/lit --output build/jax/digits --format stablehlo

For programs in JAX, on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client in the
place of SavedModel and server. A version is

    <tower>.stablehlo        jax.export.deserialize reads it: (parts of the weights, input) -> outputs, any batch
    weights.safetensors      the weights by name, as "image/blocks/query/kernel"
    tokenizer.json           where there is a text tower
    assets.extra/vit22b.json the manifest of the other format
    assets.extra/README.md   the model card

docs/stablehlo.md has a loader. The weights are arguments of the programs: what is in a program is copied by whoever
loads it, and counts against the 2 GB of its format.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

import jax
import numpy as np
from jax import export
from jax.sharding import AbstractMesh

from export.towers import Tower, towers
from vit22b import quantised, signature, topology
from vit22b.description import Description
from vit22b.quantised import SCALE, WeightType
from vit22b.sharding import DATA, MODEL, batch_sharding, named_sharding, replicated
from vit22b.tree import Params, leaves, map_leaves

WEIGHTS_FILE = "weights.safetensors"
SUFFIX = ".stablehlo"
# The signature of the contract that each tower answers: the manifest's names of the files.
SIGNATURES = {
    "embed": signature.EMBED_PIXELS,
    "features": signature.FEATURES,
    "logits": signature.LOGITS_PIXELS,
    "text": signature.EMBED_TEXT,
}
KERNEL_SCALE = f"kernel{SCALE}"
SLAB_BYTES = 64 * 2**20
# Names in the format (huggingface.co/docs/safetensors), which is little-endian and in C order.
_NAMES = {"float32": "F32", "bfloat16": "BF16", "int8": "I8"}


@dataclasses.dataclass(frozen=True)
class Format:
    """How a version is written."""

    format: Literal["savedmodel", "stablehlo"] = "savedmodel"
    """savedmodel: for servers. stablehlo: for programs in JAX, a jax.export artefact for each tower and the weights as
    safetensors."""
    mesh: str | None = None
    """With --format stablehlo: DATAxMODEL devices that share one run of a tower, where the weights are too large for
    one, such as 1x8."""

    def __post_init__(self) -> None:
        if self.mesh is None:
            return
        if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", self.mesh):
            raise ValueError(f"--mesh is {self.mesh!r}; expected DATAxMODEL, such as 1x8")
        if self.format != "stablehlo":
            raise ValueError(
                f"--mesh {self.mesh} cannot be served from a SavedModel: TensorFlow runs a tower on one device with "
                "all weights there, whatever its program says of a mesh. Add --format stablehlo, for JAX programs with "
                "as many devices; or take weights that fit one, --weights bfloat16 or int8"
            )

    @property
    def axes(self) -> dict[str, int] | None:
        """The mesh as the manifest has it."""
        return None if self.mesh is None else dict(zip((DATA, MODEL), map(int, self.mesh.split("x")), strict=True))

    @property
    def abstract_mesh(self) -> AbstractMesh | None:
        """The mesh without devices: the exporting host needs none of them."""
        return None if self.axes is None else topology.abstract_mesh(*self.axes.values())


def programs(
    description: Description,
    weights: WeightType,
    platforms: tuple[str, ...],
    feature_layers: tuple[int, ...] = (),
    mesh: AbstractMesh | None = None,
) -> dict[str, export.Exported]:
    """The towers, lowered.

    Args:
        description: of the checkpoint.
        weights: the type that the weights are stored in.
        platforms: what to lower for.
        feature_layers: blocks whose tokens `features` answers too.
        mesh: devices that share a run; the program is theirs then, and asks for as many wherever it is called.

    Raises:
        ValueError: the mesh does not divide a parameter.
    """
    _, shapes = quantised.abstract(description.config, weights)
    found = towers(description, weights, feature_layers, mesh)
    return {name: _lower(tower, shapes, platforms, mesh) for name, tower in found.items()}


def _lower(tower: Tower, shapes: Params, platforms: tuple[str, ...], mesh: AbstractMesh | None) -> export.Exported:
    params = {part: shapes[part] for part in tower.parts}
    (spec,) = tower.contract.inputs.values()
    rows = 1 if mesh is None else mesh.shape[DATA]
    # Every device along `data` has as many rows.
    (batch,) = export.symbolic_shape("b", constraints=() if rows == 1 else (f"mod(b, {rows}) == 0",))
    x = jax.ShapeDtypeStruct((batch, *spec.shape[1:]), spec.dtype)
    if mesh is None:
        return export.export(jax.jit(tower.function), platforms=platforms)(params, x)
    places = _places(params, mesh)
    compiled = jax.jit(tower.function, in_shardings=(places, batch_sharding(mesh)), out_shardings=replicated(mesh))
    return export.export(compiled, platforms=platforms)(params, x)


def _places(params: Params, mesh: AbstractMesh) -> Params:
    """Where the weights lie: by the rules of training, and int8's scales, a thousandth of them, on every device."""
    shapes = {name: leaf.shape for name, leaf in leaves(params).items() if not name.endswith(KERNEL_SCALE)}
    return map_leaves(
        lambda name, leaf: named_sharding(name, leaf.shape, mesh, among=shapes) if name in shapes else replicated(mesh),
        params,
    )


def write(folder: Path, exported: Mapping[str, export.Exported], tree: Params, tokenizer: str | None) -> None:
    """Writes the programs, the weights and the tokenizer into a folder.

    Args:
        folder: to write into; it exists.
        exported: by tower.
        tree: the weights, of tf.Variables or arrays.
        tokenizer: its JSON text.
    """
    for name, program in exported.items():
        (folder / f"{name}{SUFFIX}").write_bytes(program.serialize())
    with (folder / WEIGHTS_FILE).open("wb") as file:
        write_weights(file, leaves(tree))
    if tokenizer:
        (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")


def write_weights(file: BinaryIO, tensors: Mapping[str, Any]) -> None:
    """Writes tensors in the format of safetensors, a slab at a time.

    The library's own writer takes all of them as bytes in memory, which is a second copy of the model.

    Args:
        file: to write to.
        tensors: by name; anything with a shape and a dtype that can be sliced along its first axis.
    """
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        dtype = _dtype(tensor)
        begin, end = end, end + math.prod(tensor.shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype.name], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors begin at a multiple of 8
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        for slab in _slabs(tensor):
            file.write(np.asarray(slab).tobytes())


def _slabs(tensor: Any) -> Iterator[Any]:
    """A tensor in consecutive parts of its first axis, of about SLAB_BYTES each."""
    if len(tensor.shape) == 0:
        yield tensor
        return
    row = math.prod(tensor.shape[1:]) * _dtype(tensor).itemsize
    rows = max(1, SLAB_BYTES // max(row, 1))
    for begin in range(0, tensor.shape[0], rows):
        yield tensor[begin : begin + rows]


def _dtype(tensor: Any) -> np.dtype[Any]:
    return np.dtype(getattr(tensor.dtype, "as_numpy_dtype", tensor.dtype))  # TensorFlow has dtypes of its own
