"""The rival of benchmarks/train_step.py: the same ViT and its step, written directly in Flax Linen.

As a user of Linen writes it: sequential pre-norm blocks, one module a layer, Linen's own layers and attention, and a
jitted step that donates its state. What decides the work is ours: shape, RMS norms, QK normalisation, which maps have a
bias, MAP head, sigmoid loss, optimizer. `parallel` makes the blocks parallel and changes nothing else.
"""

import functools
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState
from jaxtyping import Array, Float, UInt8

from vit22b.config import ViTConfig

Batch = Mapping[str, jax.Array]
Step = Callable[[TrainState, Batch], tuple[TrainState, jax.Array]]

_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
_Norm = functools.partial(nn.RMSNorm, epsilon=1e-6)


class Attention(nn.Module):
    """Multi-head attention; nn.MultiHeadDotProductAttention centres queries and keys besides scaling them."""

    heads: int
    qk_norm: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], memory: Float[Array, "B M D"]) -> Float[Array, "B N D"]:
        d = x.shape[-1]
        project = functools.partial(nn.DenseGeneral, (self.heads, d // self.heads), use_bias=False, kernel_init=_INIT)
        q, k, v = project(name="query")(x), project(name="key")(memory), project(name="value")(memory)
        if self.qk_norm:
            q, k = _Norm(name="query_norm")(q), _Norm(name="key_norm")(k)
        out = nn.DenseGeneral(d, axis=(-2, -1), use_bias=False, kernel_init=_INIT, name="out")
        return out(nn.dot_product_attention(q, k, v))


class Mlp(nn.Module):
    """Two dense layers with the GELU's tanh approximation between them."""

    mlp_dim: int

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        hidden = nn.gelu(nn.Dense(self.mlp_dim, kernel_init=_INIT, name="in")(x), approximate=True)
        return nn.Dense(x.shape[-1], kernel_init=_INIT, name="out")(hidden)


class Block(nn.Module):
    """A pre-norm block: attention, then MLP, each with a norm of its own; or both at once behind one norm."""

    config: ViTConfig
    parallel: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        attention = Attention(self.config.heads, self.config.qk_norm, name="attention")
        mlp = Mlp(self.config.mlp_dim, name="mlp")
        y = _Norm(name="norm")(x)
        if self.parallel:
            return x + attention(y, y) + mlp(y)
        x = x + attention(y, y)
        return x + mlp(_Norm(name="mlp_norm")(x))


class MapHead(nn.Module):
    """Attention pooling: a learned probe attends over the tokens, then a residual norm and MLP."""

    config: ViTConfig

    @nn.compact
    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B D"]:
        b, _, d = tokens.shape
        probe = self.param("probe", nn.initializers.normal(d**-0.5), (1, 1, d))
        x = Attention(self.config.heads, qk_norm=False, name="attention")(jnp.tile(probe, (b, 1, 1)), tokens)
        return (x + Mlp(self.config.mlp_dim, name="mlp")(_Norm(name="norm")(x)))[:, 0]


class ViT(nn.Module):
    """Images to the logits of all classes."""

    config: ViTConfig
    classes: int
    parallel: bool = False

    @nn.compact
    def __call__(self, images: Float[Array, "B R R C"]) -> Float[Array, "B Y"]:
        config, d = self.config, self.config.width
        side = (config.patch, config.patch)
        x = nn.Conv(d, side, strides=side, padding="VALID", kernel_init=_INIT, name="embedding")(images)
        x = x.reshape(x.shape[0], config.tokens, d)
        x = x + self.param("pos_embedding", nn.initializers.normal(d**-0.5), (1, config.tokens, d))
        for layer in range(config.depth):
            x = Block(config, self.parallel, name=f"block_{layer}")(x)
        x = MapHead(config, name="pool")(_Norm(name="norm")(x))
        prior = nn.initializers.constant(-10.0)
        return nn.Dense(self.classes, kernel_init=nn.initializers.zeros, bias_init=prior, name="head")(x)


def init_state(network: ViT, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The first state, on the first device."""

    @jax.jit
    def make(key: jax.Array) -> TrainState:
        images = jnp.zeros((1, network.config.resolution, network.config.resolution, 3))
        params = network.init(key, images)["params"]
        return TrainState.create(apply_fn=network.apply, params=params, tx=optimizer)

    return make(jax.random.key(seed))


@functools.partial(jax.jit, donate_argnums=0)
def step(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
    """One step on pixels [B, R, R, 3] in uint8 and targets [B, Y]; the state and the loss, a mean over images."""

    def loss(params: Mapping[str, jax.Array]) -> jax.Array:
        logits = state.apply_fn({"params": params}, _normalise(batch["pixels"]))
        return optax.sigmoid_binary_cross_entropy(logits, batch["targets"]).sum(axis=-1).mean()

    value, gradients = jax.value_and_grad(loss)(state.params)
    return state.apply_gradients(grads=gradients), value


def _normalise(pixels: UInt8[Array, "B R R C"]) -> Float[Array, "B R R C"]:
    return pixels.astype(jnp.float32) / 127.5 - 1.0
