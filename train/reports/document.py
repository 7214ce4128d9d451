"""A report as a whole: which model, on which data, by which definitions, and every row and plot; report.json.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from train.suite.outcome import Plot, Row
from vit22b.fields import from_fields
from vit22b.report_rows import FORMAT_VERSION, read_report, typed_rows
from vit22b.whole_file import write_whole

# Whole pictures: of use in the page only, and larger than all other fields together.
_NOT_IN_JSON = "overlays"


@dataclasses.dataclass(frozen=True)
class ModelFacts:
    """Which model was judged.

    Attributes:
        source: as the user named it, "checkpoint:DIR" or "grpc://HOST:PORT/MODEL".
        space_id: names its embedding space.
        size: of the image tower, by its name; "custom" where it has none.
        parameters: of the whole model.
        image_parameters: of the image tower alone.
        resolution, patch: in pixels.
        step: of its training; None where that is not told.
        training_flops: that its towers were trained with, by train/training_compute.py; None where not known.
        head: the digest of its head, which space_id leaves out; None without a head, and for a served model.
    """

    source: str
    space_id: str
    size: str
    parameters: int
    image_parameters: int
    resolution: int
    patch: int
    step: int | None = None
    training_flops: float | None = None
    head: str | None = None


@dataclasses.dataclass(frozen=True)
class SetFacts:
    """Which data: a set by name, what it is, and a digest of all that is in it."""

    name: str
    kind: str
    origin: str
    synthetic: bool
    digest: str


@dataclasses.dataclass(frozen=True)
class ProtocolFacts:
    """Which definition: of train.suite.protocol.Protocol what is to be read."""

    id: str
    title: str
    section: str
    definition: str


@dataclasses.dataclass(frozen=True)
class NotRun:
    """A protocol that gave no number on a set, or not all of them, and why."""

    protocol: str
    data: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Report:
    """All that one evaluation found.

    Attributes:
        model: that was judged.
        date: when, as ISO writes it.
        git_revision: of the code that judged, or None outside a checkout.
        packages: package -> version that decide the numbers.
        sets: that were judged on.
        protocols: in the order of the report.
        rows, plots: what they gave.
        not_run: what gave nothing.
        seconds: by protocol.
    """

    model: ModelFacts
    date: str
    git_revision: str | None
    packages: Mapping[str, str]
    sets: tuple[SetFacts, ...]
    protocols: tuple[ProtocolFacts, ...]
    rows: tuple[Row, ...]
    plots: tuple[Plot, ...] = ()
    not_run: tuple[NotRun, ...] = ()
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        known = {protocol.id for protocol in self.protocols}
        for row in self.rows:
            if row.protocol not in known:
                raise ValueError(f"a row is of {row.protocol}, which is none of the report's protocols")

    def rows_of(self, protocol: str) -> tuple[Row, ...]:
        """The rows of a protocol, in order."""
        return tuple(row for row in self.rows if row.protocol == protocol)

    def plots_of(self, protocol: str) -> tuple[Plot, ...]:
        """The plots of a protocol, in order."""
        return tuple(plot for plot in self.plots if plot.protocol == protocol)

    def to_json(self) -> str:
        """JSON text, one row, set or plot a line; overlays, which are pictures, are not in it."""
        plots = [dataclasses.asdict(plot) for plot in self.plots if plot.kind != _NOT_IN_JSON]
        rows = [{**dataclasses.asdict(row), "beats_chance_by": row.beats_chance_by} for row in self.rows]
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return lines_of({"format_version": FORMAT_VERSION, **fields, "rows": rows, "plots": plots})

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of to_json, but for the overlays, on what vit22b.report_rows.read_report gives.

        Raises:
            ValueError: a field is missing or unknown, or has a value of another type.
        """
        read = functools.partial(from_fields, typed=True)
        try:
            known = {
                "model": read(ModelFacts, values["model"]),
                "sets": tuple(read(SetFacts, each) for each in values["sets"]),
                "protocols": tuple(read(ProtocolFacts, each) for each in values["protocols"]),
                "rows": typed_rows(Row, [_without_beats(each) for each in values["rows"]]),
                "plots": tuple(read(Plot, each) for each in values["plots"]),
                "not_run": tuple(read(NotRun, each) for each in values["not_run"]),
            }
        except KeyError as error:
            raise ValueError(f"the report lacks {error}") from error
        return from_fields(cls, {k: v for k, v in values.items() if k != "format_version"} | known, typed=True)


def write(report: Report, path: Path) -> None:
    """Writes a report.json; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: file.write(report.to_json().encode()))


def read(path: Path) -> Report:
    """Reads a report.json.

    Raises:
        ValueError: there is none, or it is damaged or of another format; the message names it.
    """
    values = read_report(path)
    try:
        return Report.from_json(values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}; evaluate the model again") from error


def lines_of(values: Mapping[str, Any]) -> str:
    """JSON text of a report's fields: each on a line, and each item of a list of objects on one.

    Raises:
        ValueError: a number in it is not finite.
    """
    fields = []
    for name, value in plain(values).items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            items = ",\n".join("  " + _dumps(item) for item in value)
            fields.append(f"{_dumps(name)}: [\n{items}\n ]")
        else:
            fields.append(f"{_dumps(name)}: {_dumps(value)}")
    return "{\n " + ",\n ".join(fields) + "\n}\n"


def plain(value: Any) -> Any:
    """A value of what JSON has: arrays and tuples become lists, NumPy's scalars Python's, paths texts."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _without_beats(row: Any) -> Any:
    """A row's fields without what is computed from them."""
    return {k: v for k, v in row.items() if k != "beats_chance_by"} if isinstance(row, Mapping) else row
