"""How many FLOPs of matmuls a traced program executes, recomputation included.

Beside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. XLA's
own count takes the body of a loop once, whatever its trips, and there is none before a program is compiled; the traced
program has the length of every scan. What a model needs, whatever a program recomputes, is in vit22b/flops.py.
"""

import math
from collections.abc import Iterator
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr


def matmul_flops(jaxpr: Jaxpr) -> int:
    """FLOPs of all dot products of a program on all devices together; of branches, the dearest.

    Raises:
        ValueError: the program has convolutions or loops without a length, which no step here has.
    """
    return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        lengths = [equation.invars[0].aval.shape[axis] for axis in contracted]
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(lengths)
    if name in ("conv_general_dilated", "while"):
        raise ValueError(f"the FLOPs of {name} are not counted; train/arithmetic.py has to learn it")
    inner = [matmul_flops(jaxpr) for jaxpr in _inner(params.values())]
    if name == "cond":
        return max(inner)
    if name == "scan":
        return params["length"] * sum(inner)
    if name == "shard_map":
        return sum(inner) * math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
    if name == "pallas_call":
        return sum(inner) * math.prod(params["grid_mapping"].grid)
    return sum(inner)


def _inner(values: Any) -> Iterator[Jaxpr]:
    for value in values:
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
        elif isinstance(value, tuple | list):
            yield from _inner(value)
