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
    if problem := _lacks(described, "test", "be judged on"):
        raise ValueError(problem)
    return described.part("test")


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
    if problem := _lacks(described, name, purpose):
        raise CannotRun(problem)
    return described.part(name)


def _lacks(described: EvaluationSet, name: str, purpose: str) -> str | None:
    folder = described.folder / name
    return None if folder.is_dir() else f"the set {described.name} has no part {folder} to {purpose}; add one"
