"""The mesh, and the rules that lay parameters and batches out on it, in the manner of Mesh TensorFlow.

Beside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Every
parameter has logical axes, found by its name; one table maps logical axes to the mesh axes `data` and `model`. The
stored tree never depends on the mesh, only where its pieces lie does.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vit22b.tree import leaves

DATA, MODEL = "data", "model"

# Logical axis -> mesh axis. `embed` of a kernel is split over data, gathered before use; what is small stays whole.
RULES: dict[str, str | None] = {
    "batch": DATA,
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

# Name of a parameter below `image`, `text` or the top -> its logical axes, without the leading `layers` of a stack.
_AXES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"(query|key|value)/kernel", ("embed", "heads", "head_dim")),
    (r"attention_out/kernel", ("heads", "head_dim", "embed")),
    (r"mlp_in/kernel", ("embed", "mlp")),
    (r"mlp_in/bias", ("mlp",)),
    (r"mlp_out/kernel", ("mlp", "embed")),
    (r"(query_norm|key_norm)/scale", ("head_dim",)),
    (r"(norm|final_norm)/scale", ("features",)),
    (r"out/bias", ("features",)),
    (r"patch_projection/kernel", ("patch", "embed")),
    (r"patch_projection/bias", ("features",)),
    (r"probe", ("features",)),
    (r"position_embedding", ("positions", "embed")),
    (r"token_embedding", ("vocabulary", "embed")),
    (r"projection/kernel", ("features", "embed")),
    (r"head/kernel", ("embed", "classes")),
    (r"head/bias", ("classes",)),
    (r"logit_scale", ()),
)


def make_mesh(data: int = 1, model: int = 1) -> Mesh:
    """A mesh of data x model devices, the first of those there are.

    Raises:
        ValueError: there are fewer devices.
    """
    if data < 1 or model < 1:
        raise ValueError(f"a mesh of {data}x{model} has no devices; data and model are 1 or more")
    devices = jax.devices()
    if data * model > len(devices):
        raise ValueError(
            f"a mesh of {data}x{model} needs {data * model} devices, there are {len(devices)}; "
            f"take a mesh whose product is at most {len(devices)}, or set XLA_FLAGS="
            f"--xla_force_host_platform_device_count={data * model} to try it on a CPU"
        )
    auto = (AxisType.Auto,) * 2
    return jax.make_mesh((data, model), (DATA, MODEL), axis_types=auto, devices=devices[: data * model])


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


def named_sharding(name: str, shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """Where a parameter lies on a mesh.

    Raises:
        ValueError: no rule knows the parameter, its rank is another, or the mesh does not divide a dimension.
    """
    axes = logical_axes(name)
    if len(axes) != len(shape):
        raise ValueError(f"{name} has shape {shape}, its rule has the axes {axes}")
    spec = [RULES[axis] for axis in axes]
    for axis, size, mesh_axis in zip(axes, shape, spec, strict=True):
        parts = mesh.shape[mesh_axis] if mesh_axis else 1
        if size % parts:
            nearest = max(n for n in range(1, parts) if size % n == 0)
            raise ValueError(
                f"{name} has shape {shape}; its axis {axis!r} of {size} does not divide over {parts} devices of the "
                f"mesh axis {mesh_axis!r}; the nearest that does is {nearest}"
            )
    return NamedSharding(mesh, PartitionSpec(*spec))


def param_shardings(params: Mapping[str, Any], mesh: Mesh) -> Any:
    """The tree of shardings of a tree of parameters or of their shapes."""
    names = iter(leaves(params))
    return jax.tree.map(lambda leaf: named_sharding(next(names), leaf.shape, mesh), params)


def with_shardings(tree: Any, shardings: Any) -> Any:
    """A tree of arrays or shapes as one of jax.ShapeDtypeStruct with these shardings: a target to restore onto."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree, shardings
    )


def optimizer_shardings(
    optimizer: optax.GradientTransformation, opt_state: Any, params: Mapping[str, Any], mesh: Mesh
) -> Any:
    """Shardings of an optimizer's state: a moment lies where its parameter lies, everything smaller on every device.

    Args:
        optimizer: whose state it is.
        opt_state: the state's shapes, from jax.eval_shape(optimizer.init, params).
        params: the parameters' shapes.
        mesh: the mesh.
    """
    whole = replicated(mesh)

    def moment(leaf: Any, param: Any, sharding: NamedSharding) -> NamedSharding:
        return sharding if leaf.shape == param.shape else whole

    return optax.tree.map_params(
        optimizer,
        moment,
        opt_state,
        params,
        param_shardings(params, mesh),
        transform_non_params=lambda _: whole,
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """A batch is split over `data` on its first axis."""
    return NamedSharding(mesh, PartitionSpec(RULES["batch"]))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())
