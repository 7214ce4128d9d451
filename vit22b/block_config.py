"""The configuration of a block: its sizes, and in what it may differ from the paper's.

First on the walk config -> image -> batch -> train state -> checkpoint -> SavedModel -> server -> client, under
vit22b/config.py. Standard library only. The defaults are the paper's block; the rest is what makes the blocks of ViT,
DINOv2, CLIP, SigLIP and their like.
"""

import dataclasses
from typing import Any, Literal

from vit22b.fields import require, require_choice, variations

Arrangement = Literal["parallel", "sequential"]
NormKind = Literal["rms", "layer"]
Activation = Literal["gelu_tanh", "gelu", "quick_gelu"]


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """Sizes and form of a tower's blocks; the towers' configurations add what is before and behind them.

    Attributes:
        width: D, the size of a token.
        depth: L, the number of blocks.
        mlp_dim: F, the hidden size of the MLP.
        heads: H, the number of attention heads; K = D / H is the size of one.
        block: "parallel", the paper's: attention and MLP read one norm and add to one residual, with one bias.
            "sequential": attention, then the MLP, each with a norm, a residual and an output bias of its own.
        norm: "rms", the paper's: root mean square, a scale alone. "layer": centred, with a bias.
        norm_epsilon: what a norm adds to the mean square.
        attention_bias: whether queries, keys and values have biases.
        activation: of the MLP. "gelu_tanh": GELU in its tanh approximation; "gelu": exact; "quick_gelu":
            x sigmoid(1.702 x).
        layer_scale: whether what attention and MLP add to the residual is scaled by learned vectors first (LayerScale,
            Touvron et al. 2021). They are 1 at the start.
        qk_norm: normalise queries and keys, each head by itself. Off only to show what the paper saw without it, and
            for the families that have none.
    """

    width: int
    depth: int
    mlp_dim: int
    heads: int
    _: dataclasses.KW_ONLY
    block: Arrangement = "parallel"
    norm: NormKind = "rms"
    norm_epsilon: float = 1e-6
    attention_bias: bool = False
    activation: Activation = "gelu_tanh"
    layer_scale: bool = False
    qk_norm: bool = True

    def __post_init__(self) -> None:
        for name in ("width", "depth", "mlp_dim", "heads"):
            require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}; expected a positive number")
        divisors = [h for h in range(1, self.width + 1) if self.width % h == 0]
        nearest = min(divisors, key=lambda h: abs(h - self.heads))
        require(
            self.width % self.heads == 0,
            f"width {self.width} is not divisible by {self.heads} heads; take {nearest} heads",
        )
        require_choice("block", self.block, Arrangement)
        require_choice("norm", self.norm, NormKind)
        require_choice("activation", self.activation, Activation)
        require(self.norm_epsilon > 0, f"norm_epsilon is {self.norm_epsilon}; expected a small positive number")
        require(
            not (self.layer_scale and self.block == "parallel"),
            "layer_scale scales what attention and MLP add each by itself; take block 'sequential', or leave it out",
        )

    @property
    def head_dim(self) -> int:
        """K, the size of one attention head."""
        return self.width // self.heads

    @property
    def form(self) -> dict[str, Any]:
        """In what the block is not the paper's: the values of those fields by name."""
        own = {field.name for field in dataclasses.fields(BlockConfig)}
        return {name: value for name, value in variations(self).items() if name in own}
