"""A maker of a set: what it is called, what it needs, and the function that writes its parts.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. makers.py has them all.
"""

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path

from train.evaluation_sets.debian import Debian
from train.evaluation_sets.reading import EvaluationSet

WITHOUT = "without"  # in a set's details: Debian's packages that it had to do without


@dataclasses.dataclass(frozen=True)
class Maker:
    """What makes a set.

    Attributes:
        name: of the set and of its folder.
        version: of what it writes; another makes the set anew.
        modules: of PyPI's packages that it imports.
        makes: writes the parts into a folder, and returns what set.json shall say; raises Unavailable where it cannot
            do without a package of Debian's.
    """

    name: str
    version: int
    modules: tuple[str, ...]
    makes: Callable[[Path, Debian], EvaluationSet]

    def check_modules(self) -> None:
        """Raises ValueError where a package is missing."""
        if missing := [module for module in self.modules if importlib.util.find_spec(module) is None]:
            raise ValueError(
                f"the set {self.name} needs the module {missing[0]}, which is not installed; the group `eval` of "
                "pyproject.toml has it: python -m pip install --constraint constraints.txt --group eval"
            )
