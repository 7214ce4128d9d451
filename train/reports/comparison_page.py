"""compare.html: models side by side, every difference with its interval, and quality against size and compute.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

from collections.abc import Iterator
from pathlib import Path

from train.reports import figures, scaling_figure
from train.reports.comparison import IMAGES_ONLY, ComparedRow, Comparison, Difference
from train.reports.markup import Markup, element, flops, joined, number, page, settings, spread, table
from vit22b.whole_file import write_whole

_EXPLAINED = (
    "Differences are of a model less the first one. Where every image has a score, they have a 95% interval by the "
    "paired bootstrap over images, of means over seeds widened by their deviation; a model is called better or worse "
    "only where that leaves 0 out. There is no verdict where more is neither better nor worse, or the spread over "
    "seeds is not known. Differences in italics have no interval: how sure they are is not known."
)


def write(comparison: Comparison, path: Path, title: str = "Comparison", note: str = "") -> None:
    """Writes a page; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: file.write(render(comparison, title, note).encode()))


def render(comparison: Comparison, title: str = "Comparison", note: str = "") -> str:
    """The whole document as HTML text."""
    return page(
        title,
        element("h1", title),
        element("p", note) if note else Markup(""),
        _models(comparison),
        _scaling(comparison),
        element("h2", "Numbers"),
        element("p", _EXPLAINED, class_="soft"),
        *_tables(comparison),
    )


def _models(comparison: Comparison) -> Markup:
    rows = (
        (
            element("td", name),
            element("td", model.source),
            _cell(f"{model.image_parameters:,}"),
            element("td", f"{model.resolution} px, patch {model.patch}"),
            _cell("not told" if model.step is None else f"{model.step:,}"),
            _cell(flops(model.training_flops)),
            element("td", element("code", model.space_id)),
        )
        for name, model in zip(comparison.names, comparison.models, strict=True)
    )
    heads = ("model", "source", "image tower", "input", "step", "training compute", "space")
    return table(heads, rows, (2, 4, 5))


def _scaling(comparison: Comparison) -> Markup:
    """The figure, where there is anything to draw it of."""
    with figures.drawing():
        try:
            figure = scaling_figure.draw(comparison)
        except ValueError:
            return Markup("")
        drawn = figures.as_svg(figure, scaling_figure.description(comparison), "scaling")
    caption = element("figcaption", "Dotted: chance, of the set in the same colour, where there is such a thing.")
    return joined((element("h2", "Size and compute"), element("figure", Markup(drawn), caption)))


def _tables(comparison: Comparison) -> Iterator[Markup]:
    first, *others = comparison.names
    heads = ("data", "metric", "settings", "chance", first, *(h for name in others for h in (name, "difference")))
    numbers = (3, 4, *(5 + 2 * i for i in range(len(others))))
    for protocol in comparison.protocols:
        rows = [row for row in comparison.rows if row.protocol == protocol.id]
        if rows:
            yield element("h3", protocol.title, " ", element("code", protocol.id))
            yield element("p", protocol.definition)
            yield table(heads, map(_row, rows), numbers)


def _row(row: ComparedRow) -> tuple[Markup, ...]:
    tag = element("span", "synthetic", class_="tag") if row.synthetic else Markup("")
    own, *others = row.values
    return (
        element("td", row.data, " ", tag),
        element("td", row.metric, title=f"better: {row.better}"),
        element("td", settings(row.settings), class_="soft"),
        _cell(_value(row.chance)),
        _cell(_value(own)),
        *(
            cell
            for pair in zip(others, row.differences, strict=True)
            for cell in (_cell(_value(pair[0])), _told(row, pair[1]))
        ),
    )


def _told(row: ComparedRow, difference: Difference | None) -> Markup:
    if difference is None:
        return element("td", "")
    value = f"{difference.value:+.4f}"
    if difference.interval is None:
        return element("td", element("i", value, title=difference.kind), class_="spread")
    untold = "no verdict" if row.better == "neither" or difference.kind == IMAGES_ONLY else "not told apart"
    verdict = {True: "better", False: "worse", None: untold}[difference.better]
    colour = {True: "good", False: "bad", None: "soft"}[difference.better]
    interval = element("span", f" {spread(difference.interval, None)} ", class_="spread", title=difference.kind)
    return element("td", value, interval, element("span", verdict, class_=colour))


def _value(value: float | None) -> str:
    return "" if value is None else number(value)


def _cell(text: str) -> Markup:
    return element("td", text, class_="number")
