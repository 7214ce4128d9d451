"""The MAP head: the tokens of an image to one vector, by attention.

Between batch and train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server ->
client; the image tower's last part. The letters of the shapes are declared in vit22b/model.py.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vit22b.block import ACTIVATIONS, Bias, Linear, Norm, attend
from vit22b.config import ViTConfig


class AttentionPool(nnx.Module):
    """One learned probe attends over the tokens, then a residual norm and MLP (Zhai et al. 2022).

    Biases are where the tower's blocks have them: of a parallel block the one on the output, of a sequential block one
    on each map. Queries and keys are never normalised.
    """

    def __init__(self, config: ViTConfig, rngs: nnx.Rngs) -> None:
        d, f, h, k = config.width, config.mlp_dim, config.heads, config.head_dim
        own_biases = config.block == "sequential"
        self.activation = config.activation
        self.probe = nnx.Param(nnx.initializers.normal(d**-0.5)(rngs.params(), (d,)))
        self.query = Linear("BND,DHK->BNHK", (d, h, k), rngs, config.attention_bias)
        self.key = Linear("BND,DHK->BNHK", (d, h, k), rngs, config.attention_bias)
        self.value = Linear("BND,DHK->BNHK", (d, h, k), rngs, config.attention_bias)
        self.attention_out = Linear("BNHK,HKD->BND", (h, k, d), rngs, own_biases)
        self.norm = Norm(d, config)
        self.mlp_in = Linear("BND,DF->BNF", (d, f), rngs, bias=True)
        self.mlp_out = Linear("BNF,FD->BND", (f, d), rngs, own_biases)
        self.out = None if own_biases else Bias(d)

    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B D"]:
        probe = self.probe[...].astype(tokens.dtype)[None, None]
        q = jnp.broadcast_to(self.query(probe), (tokens.shape[0], 1, *self.query.kernel.shape[1:]))
        x = self.attention_out(attend(q, self.key(tokens), self.value(tokens)))
        mlp = self.mlp_out(ACTIVATIONS[self.activation](self.mlp_in(self.norm(x))))
        return (x + (mlp if self.out is None else self.out(mlp)))[:, 0]
