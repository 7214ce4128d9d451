"""What a checkpoint cost to train, in the model's own floating-point operations.

Beside the checkpoint on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Counted
is what vit22b/flops.py counts, so recomputation is not, and of distillation the student alone. A run's steps are taken
at the batch that it ended with; what it began with counts as well.
"""

from pathlib import Path

from vit22b import flops
from vit22b.lineage import TrainingRun, lineage


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
    image, text = run.description.config.image, run.description.config.text
    seen = run.data["step"] * run.data["batch"]
    if not run.locked:
        return seen * flops.train(image, image.sequence)
    assert text is not None  # it is what was trained
    # The tower is locked: every image is embedded once, beforehand.
    return run.data["examples"] * flops.forward(image, image.sequence) + seen * flops.train(text, text.length)
