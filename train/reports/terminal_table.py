"""Reports and comparisons as tables for the terminal.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

from rich.table import Table
from rich.text import Text

from train.reports.comparison import ComparedRow, Comparison, Difference
from train.reports.document import Report
from train.reports.markup import number, settings, spread
from train.suite.outcome import Row


def report_table(report: Report) -> Table:
    """Every number of a report, and what was not run; names are texts, whatever brackets they have."""
    table = Table(title=Text(f"{report.model.source}: {report.model.size}, space {report.model.space_id}"))
    for head in ("protocol", "data", "metric", "settings"):
        table.add_column(head, overflow="fold")
    for head in ("value", "uncertain by", "chance", "beats chance by"):
        table.add_column(head, justify="right")
    for protocol in report.protocols:
        for row in report.rows_of(protocol.id):
            table.add_row(*map(Text, _cells(row)))
        table.add_section()
    for each in report.not_run:
        table.add_row(Text(each.protocol), Text(each.data), Text("not run", style="yellow"), Text(each.reason))
    return table


def comparison_table(comparison: Comparison) -> Table:
    """Every number of several models, and their differences from the first."""
    title = "less the first model: 95% of a paired bootstrap, of means over seeds widened by their deviation"
    table = Table(title=f"{title}; ~ has no interval")
    for head in ("protocol", "data", "metric", "settings"):
        table.add_column(head, overflow="fold")
    for name in comparison.names:
        table.add_column(Text(name), justify="right")
    before = None
    for row in comparison.rows:
        if row.protocol != before:
            table.add_section()
        before = row.protocol
        table.add_row(
            *(Text(each) for each in (row.protocol, row.data, row.metric, settings(row.settings))), *_values(row)
        )
    return table


def _cells(row: Row) -> tuple[str, ...]:
    margin = row.beats_chance_by
    return (
        row.protocol,
        f"{row.data} (synthetic)" if row.synthetic else row.data,
        row.metric,
        settings(row.settings),
        number(row.value),
        spread(row.interval, row.deviation),
        "" if row.chance is None else number(row.chance),
        "" if margin is None else f"{margin:+.3f}",
    )


def _values(row: ComparedRow) -> list[Text]:
    own, *others = row.values
    cells = [Text("" if own is None else number(own))]
    for value, difference in zip(others, row.differences, strict=True):
        cells.append(Text("" if value is None else number(value)) + _told(difference))
    return cells


def _told(difference: Difference | None) -> Text:
    if difference is None:
        return Text("")
    if difference.interval is None:
        return Text(f"\n~{difference.value:+.4f}", style="dim")
    style = {True: "green", False: "red", None: "dim"}[difference.better]
    return Text(f"\n{difference.value:+.4f} ({spread(difference.interval, None)})", style=style)
