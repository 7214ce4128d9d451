"""The ViT-22B block and its parts, shared by the image tower and the text tower.

Between batch and train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server ->
client. Follows Dehghani et al. 2023, section 2: attention and MLP read one norm and add to one residual, queries and
keys are normalised, and there is no bias but on MLP-in and one on the joint output. Each part is a parameter of its
own, whatever a mesh or a fusion makes of them.

The letters of the shapes are declared in vit22b/model.py. Activations carry the compute dtype and kernels are cast to
it; norms and softmax are computed in float32.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vit22b.config import TextConfig, ViTConfig
from vit22b.execution import Execution

BlockConfig = ViTConfig | TextConfig

EPSILON = 1e-6


class Norm(nnx.Module):
    """Root mean square normalisation over the last axis: a scale, no bias, no centring."""

    def __init__(self, size: int) -> None:
        self.scale = nnx.Param(jnp.ones(size))

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        return rms_norm(x, self.scale[...])


class Linear(nnx.Module):
    """One linear map as an einsum, with a bias where the architecture has one."""

    def __init__(self, equation: str, shape: tuple[int, ...], rngs: nnx.Rngs, bias: bool = False) -> None:
        """Makes the parameters.

        Args:
            equation: of the einsum of the input and the kernel, for instance "BND,DHK->BNHK".
            shape: of the kernel.
            rngs: source of the initial kernel, a truncated normal of variance 1 / fan-in.
            bias: whether a bias, zero at first, is added over the output's last axis.
        """
        self.equation = equation
        operands, output = equation.split("->")
        letters = operands.split(",")[1]
        inputs = [i for i, letter in enumerate(letters) if letter not in output]
        outputs = [i for i, letter in enumerate(letters) if letter in output]
        init = nnx.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", in_axis=inputs, out_axis=outputs)
        self.kernel = nnx.Param(init(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(shape[-1])) if bias else None

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        y = jnp.einsum(self.equation, x, self.kernel[...].astype(x.dtype))
        return y if self.bias is None else y + over_last(self.bias[...], y)


class Bias(nnx.Module):
    """The bias of a sum of several maps."""

    def __init__(self, size: int) -> None:
        self.bias = nnx.Param(jnp.zeros(size))

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        return x + over_last(self.bias[...], x)


def rms_norm(x: Float[Array, "*B D"], scale: Float[Array, " D"]) -> Float[Array, "*B D"]:
    """Divides by the root mean square over the last axis and multiplies by a scale, in float32."""
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + EPSILON)
    return (x32 * over_last(scale, x32)).astype(x.dtype)


def over_last(vector: Float[Array, " D"], x: Float[Array, "*B D"]) -> Float[Array, "*ones D"]:
    """A vector in the rank and dtype of x, to be broadcast over all but the last axis; ranks are never promoted."""
    return vector.astype(x.dtype).reshape((1,) * (x.ndim - 1) + vector.shape)


def attention_logits(q: Float[Array, "B N H K"], k: Float[Array, "B M H K"]) -> Float[Array, "B H N M"]:
    """Scaled dot products of queries and keys in float32; the scale 1 / sqrt(K) stays under QK normalisation."""
    return jnp.einsum("BNHK,BMHK->BHNM", q, k, preferred_element_type=jnp.float32) / q.shape[-1] ** 0.5


def attend(
    q: Float[Array, "B N H K"], k: Float[Array, "B M H K"], v: Float[Array, "B M H K"]
) -> Float[Array, "B N H K"]:
    """Attention of N queries over M keys, every head by itself.

    The softmax is divided by its sum behind the matmul with the values, N x K divisions in place of N x M.
    """
    logits = attention_logits(q, k)
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)))
    sums = weights.sum(axis=-1, keepdims=True)
    out = jnp.einsum("BHNM,BMHK->BHNK", weights.astype(v.dtype), v, preferred_element_type=jnp.float32) / sums
    return out.swapaxes(1, 2).astype(v.dtype)


class Block(nnx.Module):
    """out = x + Attention(y) + MLP(y) with y = Norm(x): the parallel layers of the paper's equation 1."""

    def __init__(self, config: BlockConfig, rngs: nnx.Rngs) -> None:
        d, f, h, k = config.width, config.mlp_dim, config.heads, config.head_dim
        self.norm = Norm(d)
        self.query = Linear("BND,DHK->BNHK", (d, h, k), rngs)
        self.key = Linear("BND,DHK->BNHK", (d, h, k), rngs)
        self.value = Linear("BND,DHK->BNHK", (d, h, k), rngs)
        self.query_norm = Norm(k) if config.qk_norm else None
        self.key_norm = Norm(k) if config.qk_norm else None
        self.attention_out = Linear("BNHK,HKD->BND", (h, k, d), rngs)
        self.mlp_in = Linear("BND,DF->BNF", (d, f), rngs, bias=True)
        self.mlp_out = Linear("BNF,FD->BND", (f, d), rngs)
        self.out = Bias(d)

    def queries_and_keys(self, y: Float[Array, "B N D"]) -> tuple[Float[Array, "B N H K"], Float[Array, "B N H K"]]:
        """Queries and keys of normed tokens, each normalised per head, which no sharding of heads makes dearer."""
        q, k = self.query(y), self.key(y)
        if self.query_norm is not None and self.key_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        return q, k

    def __call__(self, x: Float[Array, "B N D"], execution: Execution = Execution()) -> Float[Array, "B N D"]:
        y = self.norm(x)
        q, k = self.queries_and_keys(y)
        attended = attend(execution.heads(q), execution.heads(k), execution.heads(self.value(y)))
        hidden = jax.nn.gelu(execution.hidden(self.mlp_in(y)), approximate=True)
        return execution.residual(x + self.out(self.attention_out(attended) + self.mlp_out(hidden)))
