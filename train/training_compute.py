"""What a checkpoint cost to train, in the model's own floating-point operations.

Beside the checkpoint on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Counted
is what vit22b/flops.py counts, so recomputation is not; a run's steps are taken at the batch that it ended with. What a
checkpoint was made from counts as well, as far back as its sources are still there.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vit22b import flops
from vit22b.checkpoint import Checkpoints
from vit22b.description import Description, find_step, read_description


def training_flops(checkpoint: Path) -> float | None:
    """FLOPs from the first random weights to a checkpoint.

    Args:
        checkpoint: a work directory (its latest step is taken), or one step in it.

    Returns:
        None where it cannot be known: imported weights, or a source that is no longer there.

    Raises:
        ValueError: there is no such checkpoint.
    """
    workdir, step = find_step(checkpoint)
    description = read_description(checkpoint)
    with Checkpoints(workdir) as checkpoints:
        data = checkpoints.data(step)
    own = _own(description, data)
    if own is None or not _continues(data["recipe"]):
        return own
    before = _source(description)
    return None if before is None else own + before


def _own(description: Description, data: Mapping[str, Any]) -> float | None:
    """Of the run that wrote the checkpoint alone."""
    recipe = data.get("recipe")
    if not recipe:  # imported
        return None
    image, text = description.config.image, description.config.text
    seen = data["step"] * data["batch"]
    if "vocabulary" in recipe:  # locked-image tuning: every image is embedded once, and the text tower trained
        assert text is not None
        embedded = data["examples"] * flops.forward(image, image.sequence)
        return float(embedded + seen * flops.train(text, text.length))
    return float(seen * flops.train(image, image.sequence))


def _continues(recipe: Mapping[str, Any]) -> bool:
    """Whether a run began with trained weights: only one that chose its own size did not."""
    return "size" not in recipe


def _source(description: Description) -> float | None:
    """Of the checkpoint that a run began with; None where it is not there, or is another one by now."""
    path = (description.source or {}).get("checkpoint")
    if path is None or not (Path(path) / "model" / "model.json").is_file():
        return None
    found = read_description(path).config.image
    here = description.config.image
    if (found.width, found.depth, found.patch) != (here.width, here.depth, here.patch):
        return None
    return training_flops(Path(path))
