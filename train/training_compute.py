"""What a checkpoint cost to train, in the model's own floating-point operations.

Beside the checkpoint on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Counted
is what vit22b/flops.py counts, so recomputation is not, and of distillation the student alone. A run's steps are taken
at the batch that it ended with; what it began with counts as well. What stood still has no gradient of its own: the
locked tower of LiT costs its forward pass, once an image; parts that --freeze names cost no gradient of their weights,
and none of their inputs where nothing up to the last block moved.
"""

from collections.abc import Callable
from pathlib import Path

from train.layer_rates import frozen, is_behind
from train.signals import STACK
from vit22b import flops, model
from vit22b.config import ModelConfig
from vit22b.lineage import TrainingRun, lineage
from vit22b.tree import Params, leaves, parameter_count


def training_flops(checkpoint: Path) -> float | None:
    """FLOPs from the first random weights to a checkpoint.

    Args:
        checkpoint: a work directory (its latest step is taken), or one step in it.

    Returns:
        None where it cannot be known: imported weights, or a checkpoint on the way that is no longer there.

    Raises:
        ValueError: there is no such checkpoint.
    """
    found = lineage(checkpoint)
    if found.missing is not None or not all(run.recipe for run in found.runs):
        return None
    return float(sum(map(_own, found.runs)))


def _own(run: TrainingRun) -> int:
    """Of one run alone."""
    config = run.description.config
    image, text = config.image, config.text
    seen = run.data["step"] * run.data["batch"]
    if not run.locked:
        _, shapes = model.abstract(config)
        return seen * image_flops(config, shapes, frozen(run.recipe.get("freeze", ()), shapes))
    assert text is not None  # it is what was trained
    # The tower is locked: every image is embedded once, beforehand.
    return run.data["examples"] * flops.forward(image, image.sequence) + seen * flops.train(text, text.length)


def image_flops(config: ModelConfig, shapes: Params, still: Callable[[str], bool]) -> int:
    """FLOPs of a step of training a head and its image tower, by image.

    Of the backward pass, half of what the kernels cost is the gradients of their inputs and half those of their
    weights. The former is taken as needed in every block or in none: the first of the blocks to move is not looked for.

    Args:
        config: of the model.
        shapes: of its parameters, as model.abstract has them.
        still: whether a parameter, by its name, is not trained.
    """
    image, tokens = config.image, config.image.sequence
    moved = {name: leaf for name, leaf in leaves({"image": shapes["image"]}).items() if not still(name)}
    forward = flops.forward(image, tokens)
    if all(map(is_behind, moved)):
        return forward
    kernels = {name: leaf for name, leaf in moved.items() if STACK in name and name.endswith("/kernel")}
    still_kernels = flops.kernel_parameters(image) - parameter_count(kernels)
    return flops.train(image, tokens) - 2 * tokens * still_kernels
