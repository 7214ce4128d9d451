"""How many floating-point operations a tower needs: the model's, whatever a program recomputes.

Beside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. MFU
(model FLOPs utilisation) is what these say a run needs, divided by what its chips can do. Counted are the blocks'
kernels and attention, which is the definition by which Dehghani et al. 2023, section 4, report 54.9%; not counted are
patches, pooling, projection, head and recomputation. Parallel and sequential blocks need the same; a causal attention
is counted as if it saw everything.
"""

from vit22b.block_config import BlockConfig


def kernel_parameters(config: BlockConfig) -> int:
    """Parameters of the blocks' kernels, of all layers: 4 D^2 L of attention and 2 D F L of the MLP."""
    return config.depth * (4 * config.width**2 + 2 * config.width * config.mlp_dim)


def forward(config: BlockConfig, tokens: int) -> int:
    """FLOPs of one forward pass over a sequence of N tokens, of an image ViTConfig.sequence.

    Two a parameter and token, and 4 D N a layer and token for queries with keys and weights with values.
    """
    return tokens * (2 * kernel_parameters(config) + 4 * config.depth * config.width * tokens)


def train(config: BlockConfig, tokens: int) -> int:
    """FLOPs of a forward and a backward pass, which is twice the forward."""
    return 3 * forward(config, tokens)
