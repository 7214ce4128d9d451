"""Several models side by side: the same rows of their reports, and how sure the differences are.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. The first report is what
the others are compared with. Only what was measured alike is compared: the same protocols, on the same data.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from train.evaluators.intervals import paired_bootstrap, with_spread
from train.reports.document import ModelFacts, ProtocolFacts, Report, SetFacts, lines_of, read
from train.suite.outcome import Better, Row
from vit22b.report_rows import FORMAT_VERSION
from vit22b.whole_file import write_whole

PAIRED, PLAIN = "paired bootstrap over images", "plain difference, without an interval"
SEEDED = "paired bootstrap over images, widened by the deviation over seeds"
IMAGES_ONLY = "paired bootstrap over images; the spread over seeds is not known, so that there is no verdict"
# Settings that a protocol finds for each model anew, by a sweep or by what the model is. Rows that differ in them
# measure the same; rows that differ in any other do not.
FOUND = ("chosen", "expected", "layers", "learning_rate", "observers", "penalty", "resolution")


@dataclasses.dataclass(frozen=True)
class Difference:
    """A model's number less the first model's.

    Attributes:
        value: the difference.
        interval: 95% of it, where both rows have a score for each example.
        kind: PAIRED; SEEDED where a row is a mean over seeds; IMAGES_ONLY where it is and has no deviation; or PLAIN.
        better: whether the model is better than the first, None where the interval does not tell.
    """

    value: float
    interval: tuple[float, float] | None
    kind: str
    better: bool | None


@dataclasses.dataclass(frozen=True)
class ComparedRow:
    """One number of every model.

    Attributes:
        protocol, data, metric, better, chance, synthetic: as of a row.
        settings: those that all models have in common.
        examples: of each model; they differ where a protocol counts some of a model's answers only.
        values: of each model; None where it has no such row.
        differences: of each model but the first; None where one of the two has no such row.
    """

    protocol: str
    data: str
    metric: str
    better: Better
    chance: float | None
    synthetic: bool
    settings: Mapping[str, Any]
    examples: tuple[int | None, ...]
    values: tuple[float | None, ...]
    differences: tuple[Difference | None, ...]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What compare found.

    Attributes:
        models: of each report, in the order that they were named.
        names: short ones for them, each different.
        sets, protocols: of all reports together.
        rows: in the order of the reports.
    """

    models: tuple[ModelFacts, ...]
    names: tuple[str, ...]
    sets: tuple[SetFacts, ...]
    protocols: tuple[ProtocolFacts, ...]
    rows: tuple[ComparedRow, ...]

    def to_json(self) -> str:
        """JSON text, a row a line."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return lines_of({"format_version": FORMAT_VERSION, **fields})


def write(comparison: Comparison, path: Path) -> None:
    """Writes a compare.json; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: file.write(comparison.to_json().encode()))


def compare(paths: Sequence[Path]) -> Comparison:
    """Compares the reports of two models or more.

    Raises:
        ValueError: fewer than two, one that cannot be read, reports of other data or other definitions, or one that has
            no number in common with the first; the message names what differs.
    """
    if len(paths) < 2:
        raise ValueError(f"{len(paths)} report is too few to compare; name two report.json or more")
    reports = [read(path) for path in paths]
    found = compared(reports, [str(path) for path in paths])
    for number, path in enumerate(paths[1:], start=1):
        if not any(None not in (row.values[0], row.values[number]) for row in found.rows):
            raise ValueError(
                f"{path} has no number in common with {paths[0]}; judge both models by the same protocols, on the same "
                "sets"
            )
    return found


def compared(reports: Sequence[Report], where: Sequence[str]) -> Comparison:
    """As compare, of reports that are read, and where they were read from."""
    sets, protocols = _same_sets(reports, where), _same_protocols(reports, where)
    keyed = [_keyed(report.rows) for report in reports]
    keys = list(dict.fromkeys(key for each in keyed for key in each))
    rows = tuple(_compared(key, [each.get(key) for each in keyed], where) for key in keys)
    models = tuple(report.model for report in reports)
    return Comparison(models, _names(models, where), sets, protocols, rows)


def _same_sets(reports: Sequence[Report], where: Sequence[str]) -> tuple[SetFacts, ...]:
    known: dict[str, tuple[SetFacts, str]] = {}
    for report, path in zip(reports, where, strict=True):
        for each in report.sets:
            first, other = known.setdefault(each.name, (each, path))
            if first.digest != each.digest:
                raise ValueError(
                    f"the set {each.name} of {path} is not the one of {other}: its contents have the digest "
                    f"{each.digest}, there {first.digest}; evaluate both models on the same data"
                )
    return tuple(each for each, _ in known.values())


def _same_protocols(reports: Sequence[Report], where: Sequence[str]) -> tuple[ProtocolFacts, ...]:
    known: dict[str, tuple[ProtocolFacts, str]] = {}
    for report, path in zip(reports, where, strict=True):
        for each in report.protocols:
            first, other = known.setdefault(each.id.partition("/")[0], (each, path))
            if first.id != each.id:
                raise ValueError(
                    f"{path} has {each.id}, and {other} has {first.id}: the definition has changed between them; "
                    "evaluate both models with the same code"
                )
    return tuple(each for each, _ in known.values())


def _keyed(rows: Sequence[Row]) -> dict[tuple[str, ...], Row]:
    """Rows by what they measure; where a report has that several times, by which time it is, too."""
    found: dict[tuple[str, ...], Row] = {}
    for row in rows:
        settings = sorted((name, repr(value)) for name, value in row.settings.items() if name not in FOUND)
        key = (row.protocol, row.data, row.metric, repr(settings))
        found[(*key, str(sum(each[:-1] == key for each in found)))] = row
    return found


def _compared(key: tuple[str, ...], rows: Sequence[Row | None], where: Sequence[str]) -> ComparedRow:
    (first, *_) = there = [row for row in rows if row is not None]
    lengths = {len(row.scores) for row in there if row.scores}
    if len(lengths) > 1:
        counts = " and ".join(map(str, sorted(lengths)))
        raise ValueError(
            f"{first.protocol} on {first.data}: {first.metric} was measured on {counts} images in {', '.join(where)}; "
            "evaluate the models with the same code"
        )
    settings = {
        name: value for name, value in first.settings.items() if all(row.settings.get(name) == value for row in there)
    }
    return ComparedRow(
        *key[:3],
        first.better,
        first.chance,
        first.synthetic,
        settings,
        tuple(None if row is None else row.examples for row in rows),
        tuple(None if row is None else row.value for row in rows),
        tuple(_difference(rows[0], row) for row in rows[1:]),
    )


def _difference(first: Row | None, other: Row | None) -> Difference | None:
    if first is None or other is None:
        return None
    if not first.scores or not other.scores:
        return Difference(other.value - first.value, None, PLAIN, None)
    value, low, high = paired_bootstrap(other.scores, first.scores)
    kind = PAIRED
    if first.seeds > 1 or other.seeds > 1:
        spreads = [(row.deviation, row.seeds) for row in (first, other) if row.deviation is not None and row.seeds > 1]
        # A row of one seed beside one of several depends on its seed as well, and nobody has seen by how much.
        if len(spreads) < 2:
            return Difference(value, (low, high), IMAGES_ONLY, None)
        kind, (low, high) = SEEDED, with_spread(value, (low, high), spreads)
    better = None
    if other.better != "neither" and not low <= 0 <= high:
        better = (value > 0) == (other.better == "more")
    return Difference(value, (low, high), kind, better)


def _names(models: Sequence[ModelFacts], where: Sequence[str]) -> tuple[str, ...]:
    """By size, patch and step where that tells them apart, else by the ends of where their reports lie."""
    by_size = [f"{model.size}/{model.patch} {model.resolution} px" for model in models]
    if len(set(by_size)) == len(models):
        return tuple(by_size)
    by_source = [re.sub(r"^\w+:/*", "", model.source) for model in models]
    if len(set(by_source)) == len(models):
        return tuple(by_source)
    return tuple(_numbered(where))


def _numbered(where: Sequence[str]) -> Iterator[str]:
    seen: dict[str, int] = {}
    for path in where:
        seen[path] = seen.get(path, 0) + 1
        yield path if seen[path] == 1 else f"{path} ({seen[path]})"
