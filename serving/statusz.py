"""The status page, /statusz: what the server serves and how it does, for a person.

Beside the way SavedModel -> server -> client: it shows the life cycle's states, admission.py's queue and rates.py's
figures. One page of HTML without scripts or other resources; what it shows is escaped, since a name of a model or an
error may hold anything.
"""

import dataclasses
import datetime
import html
import platform
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus

from serving.admission import Admission
from serving.command_line import installed
from serving.rates import Rates, Row, Summary
from serving.status import code_name

PATH = "/statusz"
CONTENT_TYPE = "text/html; charset=utf-8"

_PACKAGES = ("vit22b", "tensorflow", "tensorflow-serving-api", "grpcio", "protobuf")
_LONGEST = 2000  # characters of a cell
_LOOKS = {"AVAILABLE": "good", "START": "busy", "LOADING": "busy", "UNLOADING": "busy"}
_MODELS = ("Model", "Version", "State", "Error")
_TRAFFIC = ("Model", "API", "By", "Requests", "Per second", "p50", "p95", "p99", "Failed")

States = Callable[[], Iterable[tuple[str, Sequence[ModelVersionStatus]]]]


@dataclasses.dataclass(frozen=True)
class _Cell:
    text: str
    look: str = ""  # its class in statusz.css


@dataclasses.dataclass(frozen=True)
class Statusz:
    """What the page is made of.

    Attributes:
        states: every model's name, with the states of its versions.
        rates: of the requests.
        admission: the queue.
    """

    states: States
    rates: Rates
    admission: Admission

    def page(self) -> str:
        """The page, as of now."""
        rows = self.rates.rows()
        now = datetime.datetime.now(datetime.UTC)
        parts = [
            "<h1>vit22b model server</h1>",
            f"<p>As of {now:%Y-%m-%d %H:%M:%S} UTC, up {_duration(self.rates.uptime)}</p>",
            f"<p>{html.escape(_versions())}</p>",
            _section("Models", _table(_MODELS, self._models(), "No model yet.")),
            _section("Queue", self._queue()),
            _section("Last minute", _table(_TRAFFIC, _traffic(rows, whole=False), "No request in the last minute.")),
            _section("Since the start", _table(_TRAFFIC, _traffic(rows, whole=True), "No request yet.")),
        ]
        style = Path(__file__).with_name("statusz.css").read_text(encoding="utf-8")
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>vit22b model server</title>\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
            f"<style>\n{style}</style>\n</head>\n<body>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
        )

    def _models(self) -> list[list[_Cell]]:
        return [_version(name, status) for name, statuses in self.states() for status in statuses]

    def _queue(self) -> str:
        queue = self.admission
        return (
            f"<p>{queue.running} running, {queue.waiting} waiting; beyond {queue.max_pending} together they are "
            "refused.</p>"
        )


def _version(name: str, status: ModelVersionStatus) -> list[_Cell]:
    """A row of the models' table."""
    state = ModelVersionStatus.State.Name(status.state)
    error = status.status.error_message
    if status.status.error_code:
        error = f"{code_name(status.status.error_code)}: {error}"
    look = "bad" if error else _LOOKS.get(state, "")
    return [_Cell(name, "long"), _Cell(str(status.version), "number"), _Cell(state, look), _Cell(error, "long bad")]


def _traffic(rows: Iterable[Row], *, whole: bool) -> list[list[_Cell]]:
    """The rows of a table of requests, without models that had none."""
    table = []
    for row in rows:
        summary = row.whole if whole else row.minute
        if summary.count:
            whose = [_Cell(row.model or "(none)", "long"), _Cell(row.api or "(none)"), _Cell(row.entrypoint)]
            table.append(whose + _figures(summary) + [_answers(summary)])
    return table


def _figures(summary: Summary) -> list[_Cell]:
    times = [_milliseconds(seconds) for seconds in (summary.p50, summary.p95, summary.p99)]
    return [_Cell(text, "number") for text in (f"{summary.count:,}", f"{summary.per_second:.2f}", *times)]


def _answers(summary: Summary) -> _Cell:
    failed = [f"{name} {count:,}" for name, count in sorted(summary.statuses.items()) if name != "OK"]
    return _Cell(", ".join(failed), "long bad") if failed else _Cell("none", "long good")


def _section(title: str, content: str) -> str:
    return f"<h2>{title}</h2>\n{content}"


def _table(names: Sequence[str], rows: Sequence[Sequence[_Cell]], otherwise: str) -> str:
    """A table; each cell has its column's name too, which a narrow screen shows in place of the head."""
    if not rows:
        return f"<p>{otherwise}</p>"
    head = "".join(f'<th class="{cell.look}">{name}</th>' for name, cell in zip(names, rows[0], strict=True))
    body = "\n".join(f"<tr>{''.join(map(_td, names, row))}</tr>" for row in rows)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _td(name: str, cell: _Cell) -> str:
    text = cell.text if len(cell.text) <= _LONGEST else cell.text[:_LONGEST] + "..."
    return f'<td data-name="{name}" class="{cell.look}"><span>{html.escape(text)}</span></td>'


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:,.3g} ms" if seconds < 1 else f"{seconds:,.2f} s"


def _duration(seconds: float) -> str:
    """Days, hours, minutes and seconds, without the leading zeros."""
    days, rest = divmod(int(seconds), 24 * 3600)
    clock = str(datetime.timedelta(seconds=rest))
    return f"{days} d {clock}" if days else clock


def _versions() -> str:
    """What the server is built of."""
    versions = {package: installed(package) for package in _PACKAGES} | {"Python": platform.python_version()}
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version)
