"""The stability signals of every layer, by which a divergence is seen coming.

Beside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. The
gradient's come with every step. Those of the forward pass (Dehghani et al. 2023, section 2 and figure 1) come from a
probe of their own, vit22b.stack.observe, so that no step is slower for them.
"""

import jax
import jax.numpy as jnp

from vit22b.tree import Params, leaves

STACK = "/blocks/"


def gradient_norms(gradients: Params) -> dict[str, jax.Array]:
    """{"layer_grad_norm": [L]}, the norm over all of a layer's parameters; nothing for a model without a stack."""
    stacked = [leaf for name, leaf in leaves(gradients).items() if STACK in name]
    if not stacked:
        return {}
    squares = [jnp.square(leaf.astype(jnp.float32)).sum(axis=range(1, leaf.ndim)) for leaf in stacked]
    return {"layer_grad_norm": jnp.sqrt(sum(squares[1:], squares[0]))}
