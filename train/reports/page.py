"""report.html: one file with every number, what it means, what the paper says, and the plots.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from train.reports import figures
from train.reports.document import ProtocolFacts, Report
from train.reports.markup import Markup, element, flops, joined, number, page, settings, spread, table
from train.reports.paper_figures import NOTE, RECALLED, PaperFigure, paper_figures
from train.suite.outcome import Plot, Row
from vit22b.whole_file import write_whole

_HEADS = ("data", "metric", "settings", "images", "value", "uncertain by", "chance", "beats chance by", "the paper's")
_NUMBERS = (3, 4, 6, 7)


def write(report: Report, path: Path) -> None:
    """Writes a report.html; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: file.write(render(report).encode()))


def render(report: Report) -> str:
    """The whole document as HTML text."""
    return page(
        f"Evaluation of {report.model.source}",
        element("h1", f"Evaluation of {report.model.source}"),
        _facts(report),
        _overview(report),
        *(_section(report, protocol) for protocol in report.protocols),
        _not_run(report),
        _data(report),
        _footer(report),
    )


def _facts(report: Report) -> Markup:
    model = report.model
    facts = {
        "size": model.size,
        "parameters": f"{model.parameters:,} ({model.image_parameters:,} of the image tower)",
        "resolution, patch": f"{model.resolution} px, {model.patch} px",
        "training step": "not told" if model.step is None else f"{model.step:,}",
        "training compute": flops(model.training_flops),
        "embedding space": model.space_id,
        "evaluated": report.date,
        "code": report.git_revision or "outside a checkout",
        "time": f"{sum(report.seconds.values()):,.0f} s",
    }
    return element("dl", *(element("div", element("dt", name), element("dd", value)) for name, value in facts.items()))


def _overview(report: Report) -> Markup:
    """A line for each protocol: on how much data it ran, and its first number."""
    heads = ("protocol", "first number", "value", "chance", "numbers", "seconds")
    return joined((element("p", NOTE, class_="soft"), table(heads, _overview_rows(report), numbers=(2, 3, 4, 5))))


def _overview_rows(report: Report) -> Iterator[tuple[Markup, ...]]:
    for protocol in report.protocols:
        rows = report.rows_of(protocol.id)
        link = element("td", element("a", protocol.title, href=f"#{anchor(protocol.id)}"))
        seconds = element("td", f"{report.seconds.get(protocol.id, 0.0):,.1f}", class_="number")
        if not rows:
            yield link, element("td", "not run", class_="soft"), *(_cell("") for _ in range(2)), _cell("0"), seconds
            continue
        first = rows[0]
        chance = "" if first.chance is None else number(first.chance)
        what = joined((f"{first.metric} on {first.data} ", _synthetic(first)))
        yield link, element("td", what), _cell(number(first.value)), _cell(chance), _cell(str(len(rows))), seconds


def _section(report: Report, protocol: ProtocolFacts) -> Markup:
    rows, plots = report.rows_of(protocol.id), report.plots_of(protocol.id)
    if not rows and not plots:
        return Markup("")
    return joined(
        (
            element("h2", protocol.title, " ", element("code", protocol.id), id=anchor(protocol.id)),
            element("p", f"{protocol.definition} ", element("span", f"Source: {protocol.section}.", class_="soft")),
            table(_HEADS, (_row(row, protocol) for row in rows), _NUMBERS) if rows else "",
            element("div", *map(_figure, plots), class_="plots") if plots else "",
        )
    )


def _row(row: Row, protocol: ProtocolFacts) -> tuple[Markup, ...]:
    arrow = {"more": "more is better", "less": "less is better", "neither": "neither more nor less is better"}
    uncertain = spread(row.interval, row.deviation)
    how = [row.interval_kind or "interval"] if row.interval else []
    how += [f"standard deviation over {row.seeds} seeds"] if row.deviation is not None else []
    return (
        element("td", row.data, " ", _synthetic(row)),
        element("td", element("abbr", row.metric, title=f"{arrow[row.better]}. {protocol.definition}")),
        element("td", settings(row.settings), class_="soft"),
        _cell(f"{row.examples:,}"),
        _cell(number(row.value)),
        element("td", element("span", uncertain, title="; ".join(how)), class_="spread"),
        _cell("" if row.chance is None else number(row.chance)),
        _beats(row),
        element("td", *_beside(row), class_="soft"),
    )


def _beats(row: Row) -> Markup:
    margin = row.beats_chance_by
    if margin is None:
        return _cell("")
    return element("td", f"{margin:+.3f}", class_=f"number {'good' if margin > 0 else 'bad'}")


def _beside(row: Row) -> Iterator[Markup]:
    """The paper's figures for the measure of a row, each with where it comes from."""
    for figure in paper_figures(row):
        yield element("div", _told(figure), title=f"{figure.protocol}; sizes and data differ")


def _told(figure: PaperFigure) -> str:
    return f"{number(figure.value)} {figure.on}" + ("" if figure.checked else f" ({RECALLED})")


def _figure(plot: Plot) -> Markup:
    if plot.kind != "overlays":
        return element("figure", Markup(figures.svg(plot)), element("figcaption", plot.data))
    heads = element("tr", *(element("th", column, scope="col") for column in plot.values["columns"]))
    lines = [
        element("tr", *(_picture(image, name) for image, name in zip(line, plot.values["columns"], strict=True)))
        for line in plot.values["rows"]
    ]
    caption = element("figcaption", f"{plot.title}, {plot.data}")
    return element("figure", element("table", heads, *lines, class_="overlays"), caption)


def _picture(image: object, name: str) -> Markup:
    alternative = element("x", alt=name).removeprefix("<x").removesuffix("></x>")
    return element("td", Markup(f'<img src="{figures.png(image)}"{alternative}>'))


def _not_run(report: Report) -> Markup:
    if not report.not_run:
        return Markup("")
    titles = {protocol.id: protocol.title for protocol in report.protocols}
    rows = (
        (element("td", titles.get(each.protocol, each.protocol)), element("td", each.data), element("td", each.reason))
        for each in report.not_run
    )
    return joined((element("h2", "Not run", id="not-run"), table(("protocol", "data", "why"), rows)))


def _data(report: Report) -> Markup:
    rows = (
        (
            element("td", each.name, " ", _tag() if each.synthetic else ""),
            element("td", each.kind),
            element("td", each.origin),
            element("td", element("code", each.digest)),
        )
        for each in report.sets
    )
    heads = ("set", "kind", "origin", "digest of its contents")
    return joined((element("h2", "Data", id="data"), table(heads, rows)))


def _footer(report: Report) -> Markup:
    packages = ", ".join(f"{name} {version}" for name, version in report.packages.items())
    return element("footer", f"Written by train/evaluate.py. {packages}", class_="soft")


def _synthetic(row: Row) -> Markup:
    return _tag() if row.synthetic else Markup("")


def _tag() -> Markup:
    return element("span", "synthetic", class_="tag", title="the images were put together by a program")


def _cell(text: str) -> Markup:
    return element("td", text, class_="number")


def anchor(protocol: str) -> str:
    """The id of a protocol's section."""
    return re.sub(r"[^a-z0-9]+", "-", protocol.lower())
