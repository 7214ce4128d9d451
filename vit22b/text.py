"""The text tower: blocks over token ids, pooled at one position, projected to the image tower's embedding.

Stands where vit22b/model.py stands, for the other half of a zero-shot model. Texts are exactly T tokens long (the
tokenizer pads and cuts), so the last position is there in every text and learns to gather it, as a class token would
(Zhai et al. 2022, LiT). CLIP's tower is causal and pooled where the text ends.
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
    """Token ids to embeddings of the image tower's size."""

    def __init__(self, config: TextConfig, rngs: nnx.Rngs) -> None:
        self.config = config
        normal = nnx.initializers.normal(config.width**-0.5)
        self.token_embedding = nnx.Param(normal(rngs.params(), (config.vocabulary, config.width)))
        self.position_embedding = nnx.Param(normal(rngs.params(), (config.length, config.width)))
        self.blocks = stack(config, rngs, config.causal)
        self.final_norm = Norm(config.width, config)
        self.projection = Linear("BW,WE->BE", (config.width, config.projection), rngs, config.projection_bias)

    def __call__(
        self, token_ids: Int[Array, "B T"], execution: Execution = Execution()
    ) -> dict[str, Float[Array, "..."]]:
        """Embeds texts.

        Args:
            token_ids: as the checkpoint's tokenizer gives them, each text T long.
            execution: how to run it; the asynchronous parallel layers are the image tower's alone.

        Returns:
            tokens [B, T, W], pooled [B, E], and embedding [B, E] of unit length in float32.
        """
        execution = dataclasses.replace(execution, parallel="gspmd")
        x = jnp.take(self.token_embedding[...], token_ids, axis=0).astype(execution.dtype)
        x = x + self.position_embedding[...].astype(execution.dtype)[None]
        tokens = self.final_norm(run(self.blocks, x, execution=execution))
        pooled = self.projection(self._at_end(tokens, token_ids))
        return {"tokens": tokens, "pooled": pooled, "embedding": unit(pooled)}

    def _at_end(self, tokens: Float[Array, "B T W"], token_ids: Int[Array, "B T"]) -> Float[Array, "B W"]:
        """The token that stands for the text; the last one of a text that has no end."""
        if self.config.pooling == "last":
            return tokens[:, -1]
        assert self.config.end_id is not None, "TextConfig checks that there is an end to pool at"
        ends = jnp.equal(token_ids, self.config.end_id)
        at = jnp.where(ends.any(axis=1), ends.argmax(axis=1), token_ids.shape[1] - 1)
        return jnp.take_along_axis(tokens, at[:, None, None], axis=1)[:, 0]


def unit(x: Float[Array, "B D"]) -> Float[Array, "B D"]:
    """Rows scaled to length 1, in float32; a row of zeros stays one."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-24))
