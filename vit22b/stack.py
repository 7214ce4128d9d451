"""The stack of blocks: L blocks with stacked parameters, run as one scan.

Between batch and train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server ->
client; the image tower and the text tower are each one stack with something before and behind it.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vit22b import asynchronous
from vit22b.block import ParallelBlock, SequentialBlock, attention_logits, make_block
from vit22b.block_config import BlockConfig
from vit22b.execution import Execution

Block = ParallelBlock | SequentialBlock


def stack(config: BlockConfig, rngs: nnx.Rngs, causal: bool = False) -> Block:
    """L blocks as one module, every parameter with a leading axis L; causal: see vit22b.block.make_block."""

    @nnx.split_rngs(splits=config.depth)
    @nnx.vmap
    def make(rngs: nnx.Rngs) -> Block:
        return make_block(config, rngs, causal)

    return make(rngs)


def run(
    blocks: Block, x: Float[Array, "B N D"], start: int = 0, stop: int | None = None, execution: Execution = Execution()
) -> Float[Array, "B N D"]:
    """Runs the layers start..stop of a stack (all by default) as one scan, compiled once whatever the depth."""
    graph, state = nnx.split(blocks)
    layers = range(blocks.config.depth)[start:stop]
    if execution.parallel == "ring":
        asynchronous.check(blocks.config)
        state = jax.tree.map(lambda leaf: leaf[start:stop], state)
        return asynchronous.run(nnx.to_pure_dict(state), x, execution)

    @execution.rematerialised
    def layer(x: Float[Array, "B N D"], state: Any) -> Float[Array, "B N D"]:
        return nnx.merge(graph, state)(x, execution)

    def indexed(x: Float[Array, "B N D"], index: jax.Array) -> tuple[Float[Array, "B N D"], None]:
        part = jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), state)
        return layer(x, part), None

    if len(layers) < blocks.config.depth:  # a scan over a part of the stack would first make a copy of it
        x, _ = jax.lax.scan(indexed, execution.residual(x), jnp.arange(layers.start, layers.stop))
    else:
        x, _ = jax.lax.scan(lambda x, state: (layer(x, state), None), execution.residual(x), state)
    return x


def observe(
    blocks: Block, x: Float[Array, "B N D"], execution: Execution = Execution()
) -> dict[str, Float[Array, " L"]]:
    """What foretells a divergence, layer by layer (Dehghani et al. 2023, section 2 and figure 1).

    Returns:
        max_logit: the largest attention logit; entropy: of the attention's weights in nats, the mean over images,
        heads and queries (log N where it is uniform, 0 where one token gets all); activation_norm: root mean square of
        the block's output.
    """
    graph, state = nnx.split(blocks)

    def layer(x: Float[Array, "B N D"], state: Any) -> tuple[Float[Array, "B N D"], dict[str, jax.Array]]:
        block = nnx.merge(graph, state)
        q, k = block.queries_and_keys(block.norm(x))
        logits = attention_logits(execution.heads(q), execution.heads(k))
        log_weights = jax.nn.log_softmax(logits)
        out = block(x, execution)
        return out, {
            "max_logit": logits.max(),
            "entropy": -(jnp.exp(log_weights) * log_weights).sum(axis=-1).mean(),
            "activation_norm": jnp.sqrt(jnp.square(out.astype(jnp.float32)).mean()),
        }

    _, signals = jax.lax.scan(layer, execution.residual(x), state)
    return signals
