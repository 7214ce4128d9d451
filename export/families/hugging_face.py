"""What a config.json of Hugging Face says of a tower that no tensor shows: its heads and its activation.

In front of the checkpoint on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client,
for all of Hugging Face's families.
"""

from collections.abc import Mapping
from typing import Any

from export.families.plan import Choices
from vit22b.block_config import Activation

_ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}


def activation_of(config: Mapping[str, Any], default: str) -> Activation:
    """Our name of the activation that a config.json of Hugging Face names.

    Raises:
        ValueError: one that no block here has.
    """
    name = config.get("hidden_act", default)
    if name not in _ACTIVATIONS:
        raise ValueError(f"hidden_act is {name!r}; expected one of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def heads_of(config: Mapping[str, Any], choices: Choices, default: int | None) -> int:
    """The number of attention heads: the user's, the config.json's or the family's default.

    Raises:
        ValueError: there is none of these, or the first two differ.
    """
    told = config.get("num_attention_heads")
    if choices.heads and told and choices.heads != told:
        raise ValueError(
            f"--heads is {choices.heads}, and config.json has num_attention_heads {told}; leave --heads out"
        )
    heads = choices.heads or told or default
    if heads is None:
        raise ValueError(
            "the number of attention heads stands in no tensor's shape and there is no config.json; give --heads"
        )
    return int(heads)
