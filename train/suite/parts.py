"""The parts of a set that protocols learn from and judge on, and the other sets that a set names.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

from train.evaluation_sets.reading import EvaluationSet, Part, read_set
from train.suite.outcome import CannotRun


def training_part(described: EvaluationSet) -> Part:
    """The training part.

    Raises:
        CannotRun: there is none.
        ValueError: it is broken.
    """
    return needed(described, "train", "learn from")


def test_part(described: EvaluationSet) -> Part:
    """The test part.

    Raises:
        ValueError: there is none, without which a set is of no use to anything; or it is broken.
    """
    try:
        return needed(described, "test", "be judged on")
    except CannotRun as missing:
        raise ValueError(str(missing)) from missing


def neighbour(described: EvaluationSet, detail: str, relative: str) -> EvaluationSet:
    """Another set, which set.json names by its folder relative to the set's own.

    Args:
        described: whose set.json names it.
        detail: where: the name of a field of its `details`.
        relative: the folder.

    Raises:
        CannotRun: it is not there.
        ValueError: it is no set.
    """
    folder = described.folder / relative
    if not folder.is_dir():
        raise CannotRun(
            f"{detail} of the set {described.name} is {relative!r}; expected the folder of another set, relative to "
            f"{described.folder}. Make that set, or take the field out"
        )
    return read_set(folder)


def needed(described: EvaluationSet, name: str, purpose: str) -> Part:
    """A part by its name, and by what it is needed for; raises as training_part."""
    if not (described.folder / name).is_dir():
        raise CannotRun(f"the set {described.name} has no part {described.folder / name} to {purpose}; add one")
    return described.part(name)
