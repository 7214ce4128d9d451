"""The numbers of an evaluation, report.json, as those read them who did not make them.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client: train/reports writes the
file, and an export writes its numbers into the model card. Standard library only.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from vit22b.fields import from_fields

FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class ReportRow:
    """One number.

    Attributes:
        protocol: id of the protocol, "linear-probe/1"; the number behind the slash changes with its definition.
        data: the set, and where it is not its test part, a slash and the part: "emoji", "emoji/line_art".
        metric: what was measured, "top1" for instance.
        value: the number, a share of 1 where the metric is one.
        better: whether more of it is better.
        examples: how many it was measured on.
        chance: the value of one who does not look at the image; None where there is no such thing.
        interval: from, to: 95% of it; `interval_kind` says how it was made.
        interval_kind: such as "Wilson" or "bootstrap over images"; None without an interval.
        deviation: the standard deviation over `seeds` seeds; None for one seed.
        seeds: how many seeds `value` is the mean of.
        synthetic: whether the set's images were put together by a program.
        settings: what else decides the number: shots, heads, alignment, what a sweep has chosen.
    """

    protocol: str
    data: str
    metric: str
    value: float
    better: str
    examples: int
    chance: float | None = None
    interval: tuple[float, float] | None = None
    interval_kind: str | None = None
    deviation: float | None = None
    seeds: int = 1
    synthetic: bool = False
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


Rows = TypeVar("Rows", bound=ReportRow)


@dataclasses.dataclass(frozen=True)
class ReportRows:
    """What a report says of which model.

    Attributes:
        source: the model, as the user of train/evaluate.py named it.
        space_id: that names its embedding space.
        date: of the report, as ISO writes it.
        rows: its numbers.
        head: the digest of the model's head; None where it has none, or where the report does not tell.
    """

    source: str
    space_id: str
    date: str
    rows: tuple[ReportRow, ...]
    head: str | None = None


def read_report(path: Path) -> dict[str, Any]:
    """The plain values of a report.json.

    Raises:
        ValueError: it is missing, or is no report of the format that is read here.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        found = values["format_version"]
        known = isinstance(values["model"], dict) and isinstance(values["rows"], list)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing; name a report.json that train/evaluate.py wrote") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no report; expected the report.json that train/evaluate.py writes") from error
    if found != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {found}, this vit22b reads {FORMAT_VERSION}; evaluate the model again"
        )
    if not known:
        raise ValueError(f"{path} is damaged: its model is no object, or its rows are no list; evaluate again")
    return dict(values)


def typed_rows(kind: type[Rows], rows: Sequence[Any], strict: bool = True) -> tuple[Rows, ...]:
    """Rows of their fields, as JSON has them.

    Raises:
        ValueError: see vit22b.fields.from_fields; the message says which row.
    """
    found = []
    for number, row in enumerate(rows):
        try:
            found.append(from_fields(kind, row, strict, typed=True))
        except ValueError as error:
            raise ValueError(f"rows[{number}]: {error}") from error
    return tuple(found)


def read_rows(path: Path) -> ReportRows:
    """Whose numbers a report.json holds, and the numbers.

    Raises:
        ValueError: see read_report; or a field is missing, or has a value of another type.
    """
    values = read_report(path)
    try:
        rows = typed_rows(ReportRow, values["rows"], strict=False)
        told = {**values["model"], "date": values.get("date"), "rows": rows}
        return from_fields(ReportRows, told, strict=False, typed=True)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; evaluate the model again") from error
