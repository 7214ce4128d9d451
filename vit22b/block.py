"""The block and its parts, shared by the image tower and the text tower.

Between batch and train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server ->
client. ParallelBlock follows Dehghani et al. 2023, section 2: attention and MLP read one norm and add to one residual,
queries and keys are normalised, and there is no bias but on MLP-in and one on the joint output. SequentialBlock is the
usual transformer's, for the weights of others. Each part is a parameter of its own, whatever a mesh or a fusion makes
of them.

The letters of the shapes are declared in vit22b/model.py. Activations carry the compute dtype and kernels are cast to
it; norms and softmax are computed in float32.
"""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vit22b.block_config import Activation, BlockConfig
from vit22b.execution import Execution

ACTIVATIONS: Mapping[Activation, Callable[[jax.Array], jax.Array]] = {
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}


class Norm(nnx.Module):
    """Normalisation over the last axis, of a configuration's kind: root mean square, or centred with a bias."""

    def __init__(self, size: int, config: BlockConfig) -> None:
        self.epsilon = config.norm_epsilon
        self.scale = nnx.Param(jnp.ones(size))
        self.bias = nnx.Param(jnp.zeros(size)) if config.norm == "layer" else None

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        if self.bias is None:
            return rms_norm(x, self.scale[...], self.epsilon)
        return layer_norm(x, self.scale[...], self.bias[...], self.epsilon)


class Linear(nnx.Module):
    """One linear map as an einsum, with a bias where the architecture has one."""

    def __init__(self, equation: str, shape: tuple[int, ...], rngs: nnx.Rngs, bias: bool = False) -> None:
        """Makes the parameters.

        Args:
            equation: of the einsum of the input and the kernel, for instance "BND,DHK->BNHK".
            shape: of the kernel.
            rngs: source of the initial kernel, a truncated normal of variance 1 / fan-in.
            bias: whether a bias, zero at first, is added, of the axes that the kernel gives to the output.
        """
        self.equation = equation
        inputs = contracted(equation)
        outputs = [axis for axis in range(-len(shape), 0) if axis not in inputs]
        init = nnx.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", in_axis=inputs, out_axis=outputs)
        self.kernel = nnx.Param(init(rngs.params(), shape))
        self.kernel_scale: nnx.Param[jax.Array] | None = None  # where the kernel is int8; see vit22b/quantised.py
        self.bias = nnx.Param(jnp.zeros([shape[i] for i in outputs])) if bias else None

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        kernel = self.kernel[...].astype(x.dtype)
        if self.kernel_scale is None:
            y = jnp.einsum(self.equation, x, kernel)
        else:
            y = jnp.einsum(self.equation, x, kernel, preferred_element_type=jnp.float32)
            y = (y * over_last(self.kernel_scale[...], y)).astype(x.dtype)
        return y if self.bias is None else y + over_last(self.bias[...], y)


class Bias(nnx.Module):
    """The bias of a sum of several maps."""

    def __init__(self, size: int) -> None:
        self.bias = nnx.Param(jnp.zeros(size))

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        return x + over_last(self.bias[...], x)


class Scale(nnx.Module):
    """A learned factor of every feature, 1 at the start: LayerScale (Touvron et al. 2021)."""

    def __init__(self, size: int) -> None:
        self.scale = nnx.Param(jnp.ones(size))

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        return x * over_last(self.scale[...], x)


def contracted(equation: str) -> tuple[int, ...]:
    """The axes of a kernel that an einsum "BND,DHK->BNHK" sums over, counted from the end, as a stack needs them."""
    operands, output = equation.split("->")
    letters = operands.split(",")[1]
    return tuple(i - len(letters) for i, letter in enumerate(letters) if letter not in output)


def rms_norm(x: Float[Array, "*B D"], scale: Float[Array, " D"], epsilon: float) -> Float[Array, "*B D"]:
    """Divides by the root mean square over the last axis and multiplies by a scale, in float32."""
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + epsilon)
    return (x32 * over_last(scale, x32)).astype(x.dtype)


def layer_norm(
    x: Float[Array, "*B D"], scale: Float[Array, " D"], bias: Float[Array, " D"], epsilon: float
) -> Float[Array, "*B D"]:
    """As rms_norm of x less its mean over the last axis, plus a bias, in float32."""
    x32 = x.astype(jnp.float32)
    x32 = rms_norm(x32 - x32.mean(axis=-1, keepdims=True), scale, epsilon)
    return (x32 + over_last(bias, x32)).astype(x.dtype)


def over_last(vector: Float[Array, "*D"], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """A parameter in the rank and dtype of x, to be broadcast over all but its own axes; ranks are never promoted."""
    return vector.astype(x.dtype).reshape((1,) * (x.ndim - vector.ndim) + vector.shape)


def attention_logits(q: Float[Array, "B N H K"], k: Float[Array, "B M H K"]) -> Float[Array, "B H N M"]:
    """Scaled dot products of queries and keys in float32; the scale 1 / sqrt(K) stays under QK normalisation."""
    return jnp.einsum("BNHK,BMHK->BHNM", q, k, preferred_element_type=jnp.float32) / q.shape[-1] ** 0.5


def attend(
    q: Float[Array, "B N H K"], k: Float[Array, "B M H K"], v: Float[Array, "B M H K"], causal: bool = False
) -> Float[Array, "B N H K"]:
    """Attention of N queries over M keys, every head by itself; causal: each over the keys up to its own position.

    The softmax is divided by its sum behind the matmul with the values, N x K divisions in place of N x M.
    """
    logits = attention_logits(q, k)
    if causal:
        seen = jnp.tri(q.shape[1], k.shape[1], dtype=bool)
        logits = jnp.where(seen[None, None], logits, -jnp.inf)
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)))
    sums = weights.sum(axis=-1, keepdims=True)
    out = jnp.einsum("BHNM,BMHK->BHNK", weights.astype(v.dtype), v, preferred_element_type=jnp.float32) / sums
    return out.swapaxes(1, 2).astype(v.dtype)


class Block(nnx.Module):
    """What both arrangements have: attention, an MLP, and a norm before the first.

    Called with tokens [B, N, D] and how to run, a block gives the tokens of the next.
    """

    def __init__(self, config: BlockConfig, rngs: nnx.Rngs, causal: bool = False) -> None:
        d, f, h, k = config.width, config.mlp_dim, config.heads, config.head_dim
        own_biases = config.block == "sequential"
        self.config = config
        self.causal = causal
        self.norm = Norm(d, config)
        self.query = Linear("BND,DHK->BNHK", (d, h, k), rngs, config.attention_bias)
        self.key = Linear("BND,DHK->BNHK", (d, h, k), rngs, config.attention_bias)
        self.value = Linear("BND,DHK->BNHK", (d, h, k), rngs, config.attention_bias)
        self.query_norm = Norm(k, config) if config.qk_norm else None
        self.key_norm = Norm(k, config) if config.qk_norm else None
        self.attention_out = Linear("BNHK,HKD->BND", (h, k, d), rngs, own_biases)
        self.mlp_in = Linear("BND,DF->BNF", (d, f), rngs, bias=True)
        self.mlp_out = Linear("BNF,FD->BND", (f, d), rngs, own_biases)

    def queries_and_keys(self, y: Float[Array, "B N D"]) -> tuple[Float[Array, "B N H K"], Float[Array, "B N H K"]]:
        """Queries and keys of normed tokens, each normalised per head, which no sharding of heads makes dearer."""
        q, k = self.query(y), self.key(y)
        if self.query_norm is not None and self.key_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        return q, k

    def attended(self, y: Float[Array, "B N D"], execution: Execution) -> Float[Array, "B N H K"]:
        """Attention of normed tokens over themselves, before the output map."""
        q, k = self.queries_and_keys(y)
        return attend(execution.heads(q), execution.heads(k), execution.heads(self.value(y)), self.causal)

    def hidden(self, y: Float[Array, "B N D"], execution: Execution) -> Float[Array, "B N F"]:
        """The MLP's hidden units of normed tokens, before the output map."""
        return ACTIVATIONS[self.config.activation](execution.hidden(self.mlp_in(y)))


class ParallelBlock(Block):
    """out = x + Attention(y) + MLP(y) with y = Norm(x): the parallel layers of the paper's equation 1."""

    def __init__(self, config: BlockConfig, rngs: nnx.Rngs, causal: bool = False) -> None:
        super().__init__(config, rngs, causal)
        self.out = Bias(config.width)

    def __call__(self, x: Float[Array, "B N D"], execution: Execution = Execution()) -> Float[Array, "B N D"]:
        y = self.norm(x)
        attended, hidden = self.attended(y, execution), self.hidden(y, execution)
        return execution.residual(x + self.out(self.attention_out(attended) + self.mlp_out(hidden)))


class SequentialBlock(Block):
    """out = h + MLP(Norm(h)) with h = x + Attention(Norm(x)), each addend scaled where there is LayerScale."""

    def __init__(self, config: BlockConfig, rngs: nnx.Rngs, causal: bool = False) -> None:
        super().__init__(config, rngs, causal)
        self.mlp_norm = Norm(config.width, config)
        self.attention_scale = Scale(config.width) if config.layer_scale else None
        self.mlp_scale = Scale(config.width) if config.layer_scale else None

    def __call__(self, x: Float[Array, "B N D"], execution: Execution = Execution()) -> Float[Array, "B N D"]:
        attention = self.attention_out(self.attended(self.norm(x), execution))
        if self.attention_scale is not None:
            attention = self.attention_scale(attention)
        h = execution.residual(x + attention)
        mlp = self.mlp_out(self.hidden(self.mlp_norm(h), execution))
        return execution.residual(h + (mlp if self.mlp_scale is None else self.mlp_scale(mlp)))


def make_block(config: BlockConfig, rngs: nnx.Rngs, causal: bool = False) -> ParallelBlock | SequentialBlock:
    """A block as a configuration says; causal: each token sees itself and those before it alone."""
    kind = ParallelBlock if config.block == "parallel" else SequentialBlock
    return kind(config, rngs, causal)
