"""Classes above classes: a label stands for all that is above it too, by a table that the user gives.

Between sources and batches on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
JFT's classes form such a hierarchy, and the paper trains on them as multi-label targets (Dehghani et al. 2023, section
3): every image gets its own classes and all their ancestors, and the model a sigmoid for each.
"""

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from train.mixture import Mixture
from train.sources.example import Example, Source

_FORM = 'expected {"class": ["class above it", ...], ...} in a .json, or lines of class, tab, class above it in a .tsv'


@dataclasses.dataclass(frozen=True)
class Hierarchy:
    """A table of classes.

    Attributes:
        path: that it was read from.
        parents: class -> classes directly above it, none for one that stands at the top; every class is in it.
        digest: of the table, whatever the order of its lines.
    """

    path: Path
    parents: Mapping[str, tuple[str, ...]]
    digest: str

    def flattened(self, labels: Iterable[str]) -> tuple[str, ...]:
        """Labels and all that is above them: each once, the labels first, then level by level.

        Raises:
            ValueError: a label is not in the table.
        """
        found = dict.fromkeys(labels)
        self.require(found)
        level = list(found)
        while level:
            level = list(dict.fromkeys(up for name in level for up in self.parents[name] if up not in found))
            found |= dict.fromkeys(level)
        return tuple(found)

    def lowest(self, labels: Sequence[str]) -> tuple[int, ...]:
        """Places of the labels that are above none of the others; with a label, all that is above it is among them."""
        above = {up for name in labels for up in self.parents[name]}
        return tuple(place for place, name in enumerate(labels) if name not in above)

    def require(self, labels: Iterable[str]) -> None:
        """Raises ValueError where labels are not in the table; the message names them, and what is near."""
        unknown = [label for label in labels if label not in self.parents]
        if not unknown:
            return
        near = difflib.get_close_matches(unknown[0], self.parents, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(
            f"{self.path} lacks {len(unknown)} of the classes, the first of them {unknown[0]!r}{hint}; give each class "
            "a line, one that has none above it too"
        )

    def over(self, mixture: Mixture) -> Mixture:
        """The mixture with every example's labels flattened.

        Raises:
            ValueError: a class of the mixture is not in the table.
        """
        return dataclasses.replace(mixture, sources=tuple(Flattened(source, self) for source in mixture.sources))


class Flattened:
    """A source whose examples have the classes above theirs as well."""

    def __init__(self, source: Source, hierarchy: Hierarchy) -> None:
        """Takes a source, and the table that knows all of its classes.

        Raises:
            ValueError: the table lacks a class.
        """
        self.labels = hierarchy.flattened(source.labels)
        self.where_labels = source.where_labels
        self._source, self._hierarchy = source, hierarchy

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        example = self._source[index]
        return dataclasses.replace(example, labels=self._hierarchy.flattened(example.labels))

    def name(self, index: int) -> str:
        """See Source."""
        return self._source.name(index)


def read_hierarchy(path: Path) -> Hierarchy:
    """Reads a table.

    Args:
        path: a JSON object of class -> list of classes directly above it; or, of any other suffix, lines of a class, a
            tab and one class above it, as many lines for a class as it has such, and a class alone on its line for one
            that stands at the top. A class that is only named as one above others stands at the top.

    Raises:
        ValueError: no such file, or no such table, or classes that are above themselves; the message names them.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}; {_FORM}") from error
    table = _of_json(path, text) if Path(path).suffix == ".json" else _of_lines(path, text)
    for above in list(table.values()):
        for name in above:
            table.setdefault(name, {})
    _require_no_cycle(path, table)
    parents = {name: tuple(above) for name, above in table.items()}
    canonical = json.dumps({name: sorted(above) for name, above in parents.items()}, sort_keys=True)
    return Hierarchy(Path(path), parents, hashlib.sha256(canonical.encode()).hexdigest()[:16])


def _of_json(path: Path, text: str) -> dict[str, dict[str, None]]:
    try:
        values: Any = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}; {_FORM}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no object; {_FORM}")
    for name, above in values.items():
        if not (name and isinstance(above, list) and all(isinstance(each, str) and each for each in above)):
            raise ValueError(f"{path}: {name!r} has {above!r}; {_FORM}")
    return {name: dict.fromkeys(above) for name, above in values.items()}


def _of_lines(path: Path, text: str) -> dict[str, dict[str, None]]:
    table: dict[str, dict[str, None]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        name, *above = line.split("\t")
        if len(above) > 1 or not all((name, *above)):
            raise ValueError(f"{path}, line {number}: {line!r}; {_FORM}")
        table.setdefault(name, {}).update(dict.fromkeys(above))
    return table


def _require_no_cycle(path: Path, table: Mapping[str, Iterable[str]]) -> None:
    done: set[str] = set()
    for start in table:
        # Depth first, with the way from `start` to where the search stands; tables may be deeper than Python's stack.
        way, open_ = [start], [iter(table[start])]
        while open_ and start not in done:
            below = next(open_[-1], None)
            if below is None:
                done.add(way.pop())
                open_.pop()
            elif below in way:
                cycle = " -> ".join((*way[way.index(below) :], below))
                raise ValueError(f"{path}: a class is above itself: {cycle}; take one of these lines out")
            elif below not in done:
                way.append(below)
                open_.append(iter(table[below]))
