"""The model: image tower, head and text tower, as Flax NNX modules whose calls return a dict of intermediates.

Between batch and train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server ->
client. Follows Dehghani et al. 2023: no class token, a learned position embedding, parallel blocks, attention pooling
(MAP), sigmoid head.

The letters of shapes, here and in einsum, throughout the project:
    B batch   N tokens   P patch   C channels   D width   H heads   K head dimension   F MLP   L layers
    T text tokens   W text width   Y classes   R resolution   M keys of an attention

The parameters form one tree with the top level `image`, `head`, `text`, `logit_scale`; blocks are stacked over L.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, UInt8

from vit22b.block import Bias, Linear, Norm, attend, over_last
from vit22b.config import ModelConfig, Preprocess, ViTConfig
from vit22b.execution import Execution
from vit22b.stack import observe, run, stack
from vit22b.text import TextTower, unit
from vit22b.tree import Params

HEAD_BIAS = -10.0  # the paper's: with 29,593 classes, of which few apply, the loss starts near its prior
LOGIT_SCALE = math.log(10.0)  # LiT's start for the learned temperature, as a logarithm


class AttentionPool(nnx.Module):
    """The MAP head: one learned probe attends over the tokens, then a residual norm and MLP (Zhai et al. 2022)."""

    def __init__(self, config: ViTConfig, rngs: nnx.Rngs) -> None:
        d, f, h, k = config.width, config.mlp_dim, config.heads, config.head_dim
        self.probe = nnx.Param(nnx.initializers.normal(d**-0.5)(rngs.params(), (d,)))
        self.query = Linear("BND,DHK->BNHK", (d, h, k), rngs)
        self.key = Linear("BND,DHK->BNHK", (d, h, k), rngs)
        self.value = Linear("BND,DHK->BNHK", (d, h, k), rngs)
        self.attention_out = Linear("BNHK,HKD->BND", (h, k, d), rngs)
        self.norm = Norm(d)
        self.mlp_in = Linear("BND,DF->BNF", (d, f), rngs, bias=True)
        self.mlp_out = Linear("BNF,FD->BND", (f, d), rngs)
        self.out = Bias(d)

    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B D"]:
        probe = self.probe[...].astype(tokens.dtype)[None, None]
        q = jnp.broadcast_to(self.query(probe), (tokens.shape[0], 1, *self.query.kernel.shape[1:]))
        x = self.attention_out(attend(q, self.key(tokens), self.value(tokens)))
        mlp = self.mlp_out(jax.nn.gelu(self.mlp_in(self.norm(x)), approximate=True))
        return (x + self.out(mlp))[:, 0]


class ImageTower(nnx.Module):
    """Images to tokens and one pooled vector."""

    def __init__(self, config: ViTConfig, rngs: nnx.Rngs) -> None:
        d = config.width
        self.patch = config.patch
        self.depth = config.depth
        self.patch_projection = Linear("BNP,PD->BND", (config.patch**2 * 3, d), rngs, bias=True)
        self.position_embedding = nnx.Param(nnx.initializers.normal(d**-0.5)(rngs.params(), (config.tokens, d)))
        self.blocks = stack(config, rngs)
        self.final_norm = Norm(d)
        self.pool = AttentionPool(config, rngs) if config.pooling == "map" else None

    def embed_patches(self, images: Float[Array, "B R R C"]) -> Float[Array, "B N D"]:
        """The tokens that the first block takes: projected patches with their positions."""
        x = self.patch_projection(patches(images, self.patch))
        return x + resize_positions(self.position_embedding[...], x.shape[1]).astype(x.dtype)[None]

    def __call__(
        self, images: Float[Array, "B R R C"], layers: Sequence[int] = (), execution: Execution = Execution()
    ) -> dict[str, Float[Array, "..."]]:
        """Runs the tower.

        Args:
            images: values in the range of the model's preprocessing; their dtype is the activations'. Another
                resolution than the configuration's resizes the position embedding in 2D.
            layers: 0-based blocks whose output is wanted too.
            execution: how to run it; its dtype is that of the images.

        Returns:
            tokens [B, N, D] behind the final norm, pooled [B, D], embedding [B, D] of unit length in float32, and for
            each i of layers tokens_i [B, N, D], the output of block i.

        Raises:
            ValueError: the resolution is no multiple of the patch, or a layer does not exist.
        """
        out_of_range = [i for i in layers if not 0 <= i < self.depth]
        if out_of_range:
            raise ValueError(f"no layer {out_of_range}; this tower has layers 0 to {self.depth - 1}")
        x = self.embed_patches(images)
        outputs = {}
        start = 0
        for layer in sorted(set(layers)):  # segments, since XLA keeps a scan's unused outputs
            x = run(self.blocks, x, start, layer + 1, execution)
            outputs[f"tokens_{layer}"] = x
            start = layer + 1
        if start < self.depth:
            x = run(self.blocks, x, start, execution=execution)
        tokens = self.final_norm(x)
        pooled = tokens.mean(axis=1) if self.pool is None else self.pool(tokens)
        return {**outputs, "tokens": tokens, "pooled": pooled, "embedding": unit(pooled)}


class Head(nnx.Module):
    """The classification head: a zero kernel and a low bias, so that the loss starts at its prior."""

    def __init__(self, width: int, classes: int, bias: float) -> None:
        self.kernel = nnx.Param(jnp.zeros((width, classes)))
        self.bias = nnx.Param(jnp.full(classes, bias, jnp.float32))

    def __call__(self, pooled: Float[Array, "B D"]) -> Float[Array, "B Y"]:
        logits = pooled.astype(jnp.float32) @ self.kernel[...]
        return logits + over_last(self.bias[...], logits)


class Model(nnx.Module):
    """An image tower with, where the configuration says so, a head and a text tower."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs, head_bias: float = HEAD_BIAS) -> None:
        self.image = ImageTower(config.image, rngs)
        self.head = Head(config.image.width, config.classes, head_bias) if config.classes else None
        self.text = TextTower(config.text, rngs) if config.text else None
        self.logit_scale = nnx.Param(jnp.asarray(LOGIT_SCALE, jnp.float32)) if config.text else None

    def embed_image(
        self, images: Float[Array, "B R R C"], layers: Sequence[int] = (), execution: Execution = Execution()
    ) -> dict[str, Float[Array, "..."]]:
        """The image tower's dict (see there) and, with a head, logits [B, Y] in float32."""
        out = self.image(images, layers, execution)
        return out if self.head is None else {**out, "logits": self.head(out["pooled"])}

    def observe(
        self, images: Float[Array, "B R R C"], execution: Execution = Execution()
    ) -> dict[str, Float[Array, " L"]]:
        """The image tower's stability signals by layer; see vit22b.stack.observe."""
        return observe(self.image.blocks, self.image.embed_patches(images), execution)

    def embed_text(
        self, token_ids: Int[Array, "B T"], execution: Execution = Execution()
    ) -> dict[str, Float[Array, "..."]]:
        """The text tower's dict (see TextTower).

        Raises:
            ValueError: the model has no text tower.
        """
        if self.text is None:
            raise ValueError("this model has no text tower; train one with train/lit.py")
        return self.text(token_ids, execution)


def normalise(
    pixels: UInt8[Array, "B R R C"], preprocess: Preprocess, dtype: DTypeLike = jnp.float32
) -> Float[Array, "B R R C"]:
    """Pixels 0..255 mapped to the preprocessing's value range; the one step of it that runs beside the tower."""
    low, high = preprocess.value_range
    return (pixels.astype(jnp.float32) * ((high - low) / 255.0) + low).astype(dtype)


def patches(images: Float[Array, "B R S C"], patch: int) -> Float[Array, "B N P"]:
    """Cuts images into squares of patch x patch, row by row; each is flattened as (row, column, channel)."""
    b, height, width, c = images.shape
    if height % patch or width % patch:
        raise ValueError(f"an image of {height}x{width} does not divide into patches of {patch}x{patch}")
    x = images.reshape(b, height // patch, patch, width // patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, patch * patch * c)


def resize_positions(embedding: Float[Array, "N D"], tokens: int) -> Float[Array, "M D"]:
    """The learned positions of a square grid, interpolated in 2D for a square grid of another number of tokens."""
    if tokens == embedding.shape[0]:
        return embedding
    old, new = math.isqrt(embedding.shape[0]), math.isqrt(tokens)
    if new * new != tokens:
        raise ValueError(f"{tokens} tokens do not form a square; images must be square")
    grid = embedding.reshape(old, old, -1)
    return jax.image.resize(grid, (new, new, grid.shape[-1]), "bilinear").reshape(tokens, -1)


def abstract(config: ModelConfig) -> tuple[nnx.GraphDef[Model], Params]:
    """The model's structure and its parameters' shapes, with nothing allocated, whatever its size."""
    graph, state = nnx.split(nnx.eval_shape(lambda: Model(config, nnx.Rngs(0))))
    return graph, nnx.to_pure_dict(state)


def init(config: ModelConfig, key: jax.Array, head_bias: float = HEAD_BIAS) -> Params:
    """Initial parameters as a nested dict of float32 arrays; jit it with out_shardings to make them in place."""
    return nnx.to_pure_dict(nnx.state(Model(config, nnx.Rngs(params=key), head_bias)))
