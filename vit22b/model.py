"""The model: image tower, head and text tower, as Flax NNX modules whose calls return a dict of intermediates.

Between batch and train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server ->
client. The defaults follow Dehghani et al. 2023: no class token, a learned position embedding, parallel blocks,
attention pooling (MAP), sigmoid head. The configuration has what other families differ in.

The letters of shapes, here and in einsum, throughout the project:
    B batch   N tokens   P patch   C channels   D width   H heads   K head dimension   F MLP   L layers
    S sequence of an image: class token, registers and N patches      E embedding, D where nothing projects
    T text tokens   W text width   Y classes   R resolution   M keys of an attention

The parameters form one tree with the top level `image`, `head`, `text`, `logit_scale`, `logit_bias`; blocks are stacked
over L.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, UInt8

from vit22b.block import Linear, Norm, over_last
from vit22b.config import ModelConfig, ViTConfig
from vit22b.execution import Execution
from vit22b.pooling import AttentionPool
from vit22b.preprocess import Preprocess
from vit22b.stack import observe, run, stack
from vit22b.text import TextTower, unit
from vit22b.tree import Params

HEAD_BIAS = -10.0  # the paper's: with 29,593 classes, of which few apply, the loss starts near its prior
LOGIT_SCALE = math.log(10.0)  # LiT's start for the learned temperature, as a logarithm
LOGIT_BIAS = -10.0  # SigLIP's start (Zhai et al. 2023, section 3.2)


class ImageTower(nnx.Module):
    """Images to tokens, one pooled vector and the embedding."""

    def __init__(self, config: ViTConfig, rngs: nnx.Rngs) -> None:
        d = config.width
        self.config = config
        normal = nnx.initializers.normal(d**-0.5)
        self.patch_projection = Linear("BNP,PD->BND", (config.patch**2 * 3, d), rngs, config.patch_bias)
        rows = config.tokens + config.class_position
        self.position_embedding = nnx.Param(normal(rngs.params(), (rows, d)))
        self.blocks = stack(config, rngs)
        self.final_norm = Norm(d, config)
        self.pool = AttentionPool(config, rngs) if config.pooling == "map" else None
        self.pre_norm = Norm(d, config) if config.pre_norm else None
        self.class_token = nnx.Param(normal(rngs.params(), (d,))) if config.class_token else None
        self.registers = nnx.Param(normal(rngs.params(), (config.registers, d))) if config.registers else None
        self.projection = Linear("BD,DE->BE", (d, config.projection), rngs) if config.projection else None

    def embed_patches(self, images: Float[Array, "B R R C"]) -> Float[Array, "B S D"]:
        """The tokens that the first block takes: class token, registers, and projected patches with their positions."""
        x = self.patch_projection(patches(images, self.config.patch))
        positions = self.position_embedding[...]
        own = self.config.class_position  # the class token's row of the table, in front of the grid's
        x = x + resize_positions(positions[own:], x.shape[1]).astype(x.dtype)[None]
        leading = []
        if self.class_token is not None:
            leading.append(self.class_token[...][None] + positions[:1] if own else self.class_token[...][None])
        if self.registers is not None:
            leading.append(self.registers[...])
        rows = [jnp.broadcast_to(row.astype(x.dtype)[None], (x.shape[0], *row.shape)) for row in leading]
        x = jnp.concatenate([*rows, x], axis=1) if rows else x
        return x if self.pre_norm is None else self.pre_norm(x)

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
            tokens [B, N, D] of the patches behind the final norm, pooled [B, D], embedding [B, E] of unit length in
            float32, and for each i of layers tokens_i [B, N, D], the output of block i for the patches. Where the
            norm is on the pooled vector, tokens are as the last block leaves them.

        Raises:
            ValueError: the resolution is no multiple of the patch, or a layer does not exist.
        """
        depth = self.config.depth
        out_of_range = [i for i in layers if not 0 <= i < depth]
        if out_of_range:
            raise ValueError(f"no layer {out_of_range}; this tower has layers 0 to {depth - 1}")
        x = self.embed_patches(images)
        outputs = {}
        start = 0
        for layer in sorted(set(layers)):  # segments, since XLA keeps a scan's unused outputs
            x = run(self.blocks, x, start, layer + 1, execution)
            outputs[f"tokens_{layer}"] = self._patches_of(x)
            start = layer + 1
        if start < depth:
            x = run(self.blocks, x, start, execution=execution)
        x = x if self.config.norm_pooled else self.final_norm(x)
        pooled = self._pooled(x)
        embedding = unit(pooled if self.projection is None else self.projection(pooled))
        return {**outputs, "tokens": self._patches_of(x), "pooled": pooled, "embedding": embedding}

    def _pooled(self, x: Float[Array, "B S D"]) -> Float[Array, "B D"]:
        if self.config.pooling == "class":
            pooled = x[:, 0]
        else:
            tokens = self._patches_of(x)
            pooled = tokens.mean(axis=1) if self.pool is None else self.pool(tokens)
        return self.final_norm(pooled) if self.config.norm_pooled else pooled

    def _patches_of(self, x: Float[Array, "B S D"]) -> Float[Array, "B N D"]:
        leading = self.config.class_token + self.config.registers
        return x[:, leading:] if leading else x


class Head(nnx.Module):
    """The classification head: a zero kernel and a low bias, so that the loss starts at its prior."""

    equation = "BD,DY->BY"

    def __init__(self, width: int, classes: int, bias: float) -> None:
        self.kernel = nnx.Param(jnp.zeros((width, classes)))
        self.kernel_scale: nnx.Param[jax.Array] | None = None  # where the kernel is int8; see vit22b/quantised.py
        self.bias = nnx.Param(jnp.full(classes, bias, jnp.float32))

    def __call__(self, pooled: Float[Array, "B D"]) -> Float[Array, "B Y"]:
        kernel = self.kernel[...]
        # A float32 kernel makes float32 logits whatever the compute dtype is; a smaller one is not made larger.
        x = pooled.astype(jnp.float32) if kernel.dtype == jnp.float32 else pooled
        logits = jnp.einsum(self.equation, x, kernel.astype(x.dtype), preferred_element_type=jnp.float32)
        if self.kernel_scale is not None:
            logits = logits * over_last(self.kernel_scale[...], logits)
        return logits + over_last(self.bias[...], logits)


class Model(nnx.Module):
    """An image tower with, where the configuration says so, a head and a text tower."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs, head_bias: float = HEAD_BIAS) -> None:
        self.image = ImageTower(config.image, rngs)
        self.head = Head(config.image.width, config.classes, head_bias) if config.classes else None
        self.text = TextTower(config.text, rngs) if config.text else None
        self.logit_scale = nnx.Param(jnp.asarray(LOGIT_SCALE, jnp.float32)) if config.text else None
        biased = config.text and config.similarity == "sigmoid"
        self.logit_bias = nnx.Param(jnp.asarray(LOGIT_BIAS, jnp.float32)) if biased else None

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

    def similarity(self, images: Float[Array, "B E"], texts: Float[Array, "M E"]) -> Float[Array, "B M"]:
        """The logits of embeddings of images and of texts: what the softmax, or the sigmoid, was trained on.

        Raises:
            ValueError: the model has no text tower.
        """
        if self.logit_scale is None:
            raise ValueError("this model has no text tower; train one with train/lit.py")
        logits = jnp.exp(self.logit_scale[...]) * images @ texts.T
        return logits if self.logit_bias is None else logits + self.logit_bias[...]


def normalise(
    pixels: UInt8[Array, "B R R C"], preprocess: Preprocess, dtype: DTypeLike = jnp.float32
) -> Float[Array, "B R R C"]:
    """Pixels 0..255 as the tower takes them; the one step of the preprocessing that runs beside the tower."""
    x = pixels.astype(jnp.float32)
    if preprocess.mean is None or preprocess.std is None:
        low, high = preprocess.value_range
        return (x * ((high - low) / 255.0) + low).astype(dtype)
    mean, std = (jnp.asarray(values, jnp.float32) for values in (preprocess.mean, preprocess.std))
    return (x * over_last(1.0 / (255.0 * std), x) - over_last(mean / std, x)).astype(dtype)


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
