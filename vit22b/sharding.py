"""The mesh, and the rules that lay parameters and activations out on it, in the manner of Mesh TensorFlow.

Beside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Every
parameter has logical axes, found by its name, and so has every named activation; one table maps logical axes to the
mesh axes `data` and `model`. The stored tree never depends on the mesh, only where its pieces lie does.
"""

import math
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
import optax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from rich.table import Table

from vit22b.tree import leaves, name_of

DATA, MODEL = "data", "model"

Shape = tuple[int, ...]
Rules = Mapping[str, str | tuple[str, ...] | None]

# Logical axis -> mesh axis. `embed` of a kernel is split over data, gathered before use; what is small stays whole.
RULES: Rules = MappingProxyType(
    {
        "batch": DATA,
        "images": (DATA, MODEL),
        "tokens": None,
        "width": MODEL,
        "heads": MODEL,
        "mlp": MODEL,
        "embed": DATA,
        "layers": None,
        "head_dim": None,
        "patch": None,
        "positions": None,
        "vocabulary": None,
        "classes": None,
        "features": None,
    }
)
# Data parallelism alone: every device has all parameters.
REPLICATED: Rules = MappingProxyType({**RULES, "embed": None})

# Name of an activation -> its logical axes. Tokens between blocks are split over `model` in one of two ways.
ACTIVATIONS: Mapping[str, tuple[str, ...]] = {
    "pixels": ("batch",),
    "residual_by_images": ("images", "tokens", "features"),
    "residual_by_features": ("batch", "tokens", "width"),
    "heads": ("batch", "tokens", "heads", "head_dim"),
    "hidden": ("batch", "tokens", "mlp"),
}

# Name of a parameter below `image`, `text` or the top -> its logical axes, without the leading `layers` of a stack.
_AXES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"(query|key|value)/kernel", ("embed", "heads", "head_dim")),
    (r"(query|key|value)/bias", ("heads", "head_dim")),
    (r"attention_out/kernel", ("heads", "head_dim", "embed")),
    (r"mlp_in/kernel", ("embed", "mlp")),
    (r"mlp_in/bias", ("mlp",)),
    (r"mlp_out/kernel", ("mlp", "embed")),
    (r"(out|attention_out|mlp_out)/bias", ("features",)),
    (r"(query_norm|key_norm)/(scale|bias)", ("head_dim",)),
    (r"(norm|mlp_norm|pre_norm|final_norm)/(scale|bias)", ("features",)),
    (r"(attention_scale|mlp_scale)/scale", ("features",)),
    (r"patch_projection/kernel", ("patch", "embed")),
    (r"patch_projection/bias", ("features",)),
    (r"(probe|class_token)", ("features",)),
    (r"registers", ("positions", "features")),
    (r"position_embedding", ("positions", "embed")),
    (r"token_embedding", ("vocabulary", "embed")),
    (r"projection/kernel", ("features", "embed")),
    (r"projection/bias", ("features",)),
    (r"head/kernel", ("embed", "classes")),
    (r"head/bias", ("classes",)),
    (r"(logit_scale|logit_bias)", ()),
)


def make_mesh(data: int = 1, model: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of data x model devices, laid out so that neighbours on an axis are neighbours on a TPU's torus.

    Args:
        data: devices along the axis data.
        model: devices along the axis model.
        devices: to take the first of; all that there are by default.

    Raises:
        ValueError: there are fewer devices, or the mesh does not tile their torus.
    """
    if data < 1 or model < 1:
        raise ValueError(f"a mesh of {data}x{model} has no devices; data and model are 1 or more")
    devices = jax.devices() if devices is None else devices
    if data * model > len(devices):
        raise ValueError(
            f"a mesh of {data}x{model} needs {data * model} devices, there are {len(devices)}; "
            f"take a mesh whose product is at most {len(devices)}, or set XLA_FLAGS="
            f"--xla_force_host_platform_device_count={data * model} to try it on a CPU"
        )
    laid_out = _on_torus((data, model), devices[: data * model])
    return Mesh(laid_out, (DATA, MODEL), axis_types=(AxisType.Auto,) * 2)


def parse_mesh(text: str, devices: int) -> tuple[int, int, Rules]:
    """What a mesh's name stands for.

    Args:
        text: "16x4" for data x model; or one: a single device; data: all devices hold all parameters; fsdp: parameters
            split over all devices; 2d: as fsdp, with 4 devices (or 2) along model where they divide.
        devices: how many there are.

    Returns:
        Devices along data, devices along model, and the rules.

    Raises:
        ValueError: none of these.
    """
    few = next(size for size in (4, 2, 1) if devices % size == 0)  # the least traffic is where model is small
    presets = {"one": (1, 1, RULES), "data": (devices, 1, REPLICATED), "fsdp": (devices, 1, RULES)}
    presets["2d"] = (devices // few, few, RULES)
    if text in presets:
        return presets[text]
    data, _, model = text.partition("x")
    if not (data.isdigit() and model.isdigit()):
        raise ValueError(f"a mesh {text!r}; expected {', '.join(presets)}, or DATAxMODEL such as 16x4")
    return int(data), int(model), RULES


def logical_axes(name: str) -> tuple[str, ...]:
    """The logical axes of a parameter.

    Args:
        name: path in the tree, for instance "image/blocks/query/kernel".

    Raises:
        ValueError: no rule knows the parameter.
    """
    for pattern, axes in _AXES:
        if re.search(rf"(^|/){pattern}$", name):
            return ("layers", *axes) if "/blocks/" in name else axes
    raise ValueError(f"no sharding rule for the parameter {name!r}; add its logical axes to vit22b/sharding.py")


def activation_spec(name: str) -> PartitionSpec:
    """The mesh axes of a named activation's axes."""
    return PartitionSpec(*(RULES[axis] for axis in ACTIVATIONS[name]))


def named_sharding(
    name: str, shape: Shape, mesh: Mesh, rules: Rules = RULES, among: Mapping[str, Shape] | None = None
) -> NamedSharding:
    """Where a parameter lies on a mesh.

    Args:
        name: path in the tree.
        shape: of the parameter.
        mesh: the mesh.
        rules: mesh axes by logical axis.
        among: shapes by name of the tree that it is in; a mesh that an error proposes divides them all.

    Raises:
        ValueError: no rule knows the parameter, its rank is another, or the mesh does not divide a dimension; the
            message has the parameter, the rule and the nearest mesh that would do.
    """
    axes = logical_axes(name)
    if len(axes) != len(shape):
        raise ValueError(f"{name} has shape {shape}, its rule has the axes {axes}")
    if bad := _undivided(axes, shape, mesh.shape, rules):
        axis, size, mesh_axis = bad
        data, model = _nearest(among or {name: shape}, mesh, rules)
        raise ValueError(
            f"{name} has shape {shape}; its axis {axis!r} of {size} does not divide over {mesh.shape[mesh_axis]} "
            f"devices of the mesh axis {mesh_axis!r} (rule: {axis} -> {mesh_axis}); "
            f"the nearest mesh that does is {data}x{model}"
        )
    return NamedSharding(mesh, PartitionSpec(*(rules[axis] for axis in axes)))


def param_shardings(params: Mapping[str, Any], mesh: Mesh, rules: Rules = RULES) -> Any:
    """The tree of shardings of a tree of parameters or of their shapes."""
    among = {name: leaf.shape for name, leaf in leaves(params).items()}
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: named_sharding(name_of(path), leaf.shape, mesh, rules, among), params
    )


def table(params: Mapping[str, Any], mesh: Mesh, rules: Rules = RULES) -> Table:
    """Where every parameter lies, for the terminal: shape, logical axes, mesh axes, bytes on a chip."""
    shown = Table(title=f"mesh {mesh.shape[DATA]}x{mesh.shape[MODEL]} ({DATA} x {MODEL})")
    for column in ("parameter", "shape", "logical axes", "mesh axes"):
        shown.add_column(column)
    shown.add_column("bytes a chip", justify="right")
    total = 0
    for name, leaf in leaves(params).items():
        place = named_sharding(name, leaf.shape, mesh, rules)
        size = math.prod(place.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        total += size
        spec = " ".join(str(axis or "-") for axis in place.spec)
        shown.add_row(name, "x".join(map(str, leaf.shape)), " ".join(logical_axes(name)), spec, f"{size:,}")
    shown.add_section()
    shown.add_row("all", "", "", "", f"{total:,}")
    return shown


def with_shardings(tree: Any, shardings: Any) -> Any:
    """A tree of arrays or shapes as one of jax.ShapeDtypeStruct with these shardings: a target to restore onto."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree, shardings
    )


def optimizer_shardings(
    optimizer: optax.GradientTransformation,
    opt_state: Any,
    params: Mapping[str, Any],
    mesh: Mesh,
    rules: Rules = RULES,
) -> Any:
    """Shardings of an optimizer's state: a moment lies where its parameter lies, everything smaller on every device.

    Args:
        optimizer: whose state it is.
        opt_state: the state's shapes, from jax.eval_shape(optimizer.init, params).
        params: the parameters' shapes.
        mesh: the mesh.
        rules: the parameters'.
    """
    whole = replicated(mesh)

    def moment(leaf: Any, param: Any, sharding: NamedSharding) -> NamedSharding:
        return sharding if leaf.shape == param.shape else whole

    return optax.tree.map_params(
        optimizer,
        moment,
        opt_state,
        params,
        param_shardings(params, mesh, rules),
        transform_non_params=lambda _: whole,
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """A batch is split over `data` on its first axis."""
    return NamedSharding(mesh, activation_spec("pixels"))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def _undivided(
    axes: tuple[str, ...], shape: Shape, sizes: Mapping[str, int], rules: Rules
) -> tuple[str, int, str] | None:
    """The first axis that does not divide over its mesh axis: its name, its size, the mesh axis."""
    for axis, size in zip(axes, shape, strict=True):
        mesh_axis = rules[axis]
        if isinstance(mesh_axis, str) and size % sizes[mesh_axis]:
            return axis, size, mesh_axis
    return None


def _nearest(shapes: Mapping[str, Shape], mesh: Mesh, rules: Rules) -> tuple[int, int]:
    """The mesh that divides parameters, has the most devices of those there are, and is nearest in its proportions."""
    data, model = mesh.shape[DATA], mesh.shape[MODEL]
    fitting = [
        (d, m)
        for m in range(1, mesh.size + 1)
        for d in range(1, mesh.size // m + 1)
        if not any(_undivided(logical_axes(k), shape, {DATA: d, MODEL: m}, rules) for k, shape in shapes.items())
    ]
    return min(fitting, key=lambda size: (-size[0] * size[1], abs(math.log(size[0] / data / size[1] * model))))


def _on_torus(shape: tuple[int, int], devices: Sequence[jax.Device]) -> np.ndarray[Any, Any]:
    try:
        return mesh_utils.create_device_mesh(shape, devices)
    except (NotImplementedError, AssertionError):
        pass  # an axis of the mesh is a part of a dimension of the torus
    try:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    except (NotImplementedError, AssertionError, ValueError) as error:
        raise ValueError(
            f"a mesh of {shape[0]}x{shape[1]} does not tile the torus of these devices: {error}; "
            "train/plan.py --search tries those that do"
        ) from error
