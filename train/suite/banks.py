"""What a text tower makes of classes.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from train.suite.context import Context
from train.suite.outcome import CannotRun
from train.tower import Floats
from vit22b.prompts import embedded, find_templates

_BANKS: WeakKeyDictionary[Context, dict[tuple[tuple[str, ...], tuple[str, ...]], Floats]] = WeakKeyDictionary()


def class_bank(context: Context, classes: Sequence[str], templates: Sequence[str]) -> Floats:
    """A vector for each class: float32 [k, E]; made the first time that it is asked for.

    Args:
        context: with the tower.
        classes: k names.
        templates: texts with a `{}`, or names of sets of them (vit22b.prompts).

    Raises:
        CannotRun: the model has no text tower.
        ValueError: see vit22b.prompts.embedded.
    """
    require_texts(context)
    known, key = _BANKS.setdefault(context, {}), (tuple(classes), find_templates(templates))
    if key not in known:
        known[key] = embedded(*key, context.tower.texts)
    return known[key]


def require_texts(context: Context) -> None:
    """Raises CannotRun where the model has no text tower."""
    if context.tower.config.text is None:
        raise CannotRun("the model has no text tower; train/lit.py trains one for a checkpoint")
