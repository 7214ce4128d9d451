"""The text tower: the image tower's block over token ids, pooled at the last position, projected to D.

Stands where vit22b/model.py stands, for the other half of a zero-shot model. Texts are exactly T tokens long (the
tokenizer pads and cuts), so the last position is there in every text and learns to gather it, as a class token would
(Zhai et al. 2022, LiT).
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from vit22b.block import Linear, Norm
from vit22b.config import TextConfig
from vit22b.execution import Execution
from vit22b.stack import run, stack


class TextTower(nnx.Module):
    """Token ids to embeddings of the image tower's width."""

    def __init__(self, config: TextConfig, rngs: nnx.Rngs) -> None:
        normal = nnx.initializers.normal(config.width**-0.5)
        self.token_embedding = nnx.Param(normal(rngs.params(), (config.vocabulary, config.width)))
        self.position_embedding = nnx.Param(normal(rngs.params(), (config.length, config.width)))
        self.blocks = stack(config, rngs)
        self.final_norm = Norm(config.width)
        self.projection = Linear("BW,WD->BD", (config.width, config.projection), rngs)

    def __call__(
        self, token_ids: Int[Array, "B T"], execution: Execution = Execution()
    ) -> dict[str, Float[Array, "..."]]:
        """Embeds texts.

        Args:
            token_ids: as the checkpoint's tokenizer gives them, each text T long.
            execution: how to run it; the asynchronous parallel layers are the image tower's alone.

        Returns:
            tokens [B, T, W], pooled [B, D], and embedding [B, D] of unit length in float32.
        """
        execution = dataclasses.replace(execution, parallel="gspmd")
        x = jnp.take(self.token_embedding[...], token_ids, axis=0).astype(execution.dtype)
        x = x + self.position_embedding[...].astype(execution.dtype)[None]
        tokens = self.final_norm(run(self.blocks, x, execution=execution))
        pooled = self.projection(tokens[:, -1])
        return {"tokens": tokens, "pooled": pooled, "embedding": unit(pooled)}


def unit(x: Float[Array, "B D"]) -> Float[Array, "B D"]:
    """Rows scaled to length 1, in float32; a row of zeros stays one."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-24))
