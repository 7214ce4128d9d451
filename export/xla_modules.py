"""The towers' lowered programs as a written version holds them: what its saved_model.pb says, and nothing else.

Behind SavedModel on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. The graph's
XlaCallModule ops carry a tower each, as StableHLO for all platforms and any batch. A compiler takes them from here, so
that what is compiled is the artefact and not another trace of the model that it came from.
"""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export
from jax.sharding import SingleDeviceSharding
from tensorflow.core.framework import function_pb2, node_def_pb2

from vit22b import version_window

_BATCH = "?"  # MLIR's word for a size that is not known
_DTYPES = {
    "f32": jnp.float32,
    "bf16": jnp.bfloat16,
    "i8": jnp.int8,
    "ui8": jnp.uint8,
    "i32": jnp.int32,
    "i1": jnp.bool_,
}
Type = tuple[tuple[str, ...], type]


@dataclasses.dataclass(frozen=True)
class XlaModule:
    """The program of one tower.

    Attributes:
        tower: its function alias, for instance "embed_tower".
        platforms: what it is lowered for, as JAX names them.
        version: of the calling convention, which is that of the XlaCallModule op.
        serialized: portable StableHLO.
    """

    tower: str
    platforms: tuple[str, ...]
    version: int
    serialized: bytes

    def lower(self, batch: int, device: jax.Device) -> jax.stages.Lowered:
        """The program for one device and a batch of known size, ready to be compiled.

        Args:
            batch: size of every leading dimension that the program leaves open.
            device: where it shall run; of a topology, for one that is not there.

        Raises:
            ValueError: the program is not lowered for the device's platform.
        """
        if device.platform not in self.platforms:
            raise ValueError(
                f"{self.tower} is lowered for {', '.join(self.platforms)} and not for {device.platform}; export the "
                f"model again with --platforms {' '.join((*self.platforms, device.platform))}"
            )
        place = SingleDeviceSharding(device)
        inputs, _ = self._types()
        known = [jax.ShapeDtypeStruct(_shape(dims, batch), dtype, sharding=place) for dims, dtype in inputs]
        return jax.jit(self._exported().call).lower(*known)

    def _exported(self) -> export.Exported:
        """The module as jax.export has it: that of a function with the same types, its program replaced."""
        inputs, outputs = self._types()
        (batch,) = export.symbolic_shape("b")

        def same_types(*_: jax.Array) -> list[jax.Array]:
            return [jnp.zeros(_shape(dims, batch), dtype) for dims, dtype in outputs]

        arguments = [jax.ShapeDtypeStruct(_shape(dims, batch), dtype) for dims, dtype in inputs]
        stub = export.export(jax.jit(same_types, keep_unused=True), platforms=self.platforms)(*arguments)
        return dataclasses.replace(
            stub, mlir_module_serialized=self.serialized, calling_convention_version=self.version
        )

    def _types(self) -> tuple[list[Type], list[Type]]:
        """Shapes and dtypes of what the program takes, without the index of the platform, and of what it answers."""
        anything = export.export(jax.jit(lambda: 0))()
        text = dataclasses.replace(anything, mlir_module_serialized=self.serialized).mlir_module()
        (head,) = (line for line in text.splitlines() if "func.func public @main(" in line)
        taken, answered = head.split(" -> ")
        inputs = re.findall(r"%arg\d+: tensor<([^>]*)>(?! \{jax\.global_constant)", taken)
        return list(map(_type, inputs)), list(map(_type, re.findall(r"tensor<([^>]*)>", answered)))


def aliases(version: Path) -> dict[str, str]:
    """The function of the graph by its alias, which is how a converter finds what to place on an accelerator.

    Raises:
        ValueError: see read.
    """
    graph = version_window.read(version)
    there = {function.signature.name for function in graph.graph_def.library.function}
    return {alias: name for name, alias in graph.meta_info_def.function_aliases.items() if name in there}


def read(version: Path) -> dict[str, XlaModule]:
    """The programs of a version, by function alias.

    Raises:
        ValueError: the folder is no version that vit22b exported.
    """
    functions = {one.signature.name: one for one in version_window.read(version).graph_def.library.function}
    found = {}
    for alias, name in sorted(aliases(version).items()):
        (node,) = _calls(functions, name)
        platforms = tuple(name.decode().lower() for name in node.attr["platforms"].list.s)
        found[alias] = XlaModule(alias, platforms, node.attr["version"].i, node.attr["module"].s)
    if not found:
        raise ValueError(f"{version} has no function aliases: vit22b did not export it")
    return found


def _calls(functions: dict[str, function_pb2.FunctionDef], name: str) -> Iterator[node_def_pb2.NodeDef]:
    """The XlaCallModule ops of a function and of those that it calls, by a batching op for instance."""
    for node in functions[name].node_def:
        if node.op == "XlaCallModule":
            yield node
        for attribute in node.attr.values():
            if attribute.func.name in functions:
                yield from _calls(functions, attribute.func.name)


def _type(text: str) -> Type:
    """The shape and dtype of MLIR's "?x28x28x3xui8"."""
    *dims, dtype = text.split("x")
    return tuple(dims), _DTYPES[dtype]


def _shape(dims: tuple[str, ...], batch: Any) -> tuple[Any, ...]:
    return tuple(batch if size == _BATCH else int(size) for size in dims)
