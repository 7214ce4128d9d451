"""What a text tower makes of a set's classes.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

from train.evaluation_sets.reading import EvaluationSet
from train.suite.context import Context
from train.suite.outcome import CannotRun
from train.tower import Floats
from vit22b.prompts import embedded, find_templates


def class_bank(context: Context, described: EvaluationSet) -> Floats:
    """A vector for each class of a set, of its templates: float32 [k, E].

    Raises:
        CannotRun: the model has no text tower.
    """
    require_texts(context)
    return embedded(described.classes, find_templates(described.templates), context.tower.texts)


def require_texts(context: Context) -> None:
    """Raises CannotRun where the model has no text tower."""
    if context.tower.config.text is None:
        raise CannotRun("the model has no text tower; train/lit.py trains one for a checkpoint")
