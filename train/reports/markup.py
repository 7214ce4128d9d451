"""Pieces of a page: texts that are escaped, elements, numbers as people read them.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Whatever is no `Markup`
is somebody's text and is escaped where it is put into an element.
"""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


class Markup(str):
    """HTML that is safe to put into a page."""


def element(name: str, *children: object, **attributes: str) -> Markup:
    """An element; texts among its children are escaped, and so are its attributes.

    Args:
        name: such as "p".
        *children: Markup, or anything else, which is a text.
        **attributes: `class_` stands for class.
    """
    given = "".join(f' {key.rstrip("_")}="{html.escape(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{given}>{joined(children)}</{name}>")


def joined(children: Iterable[object]) -> Markup:
    """Children one behind the other, escaped unless they are Markup."""
    return Markup("".join(each if isinstance(each, Markup) else html.escape(str(each)) for each in children))


def table(heads: Sequence[str], rows: Iterable[Sequence[Markup]], numbers: Sequence[int] = ()) -> Markup:
    """A table of cells.

    Args:
        heads: of the columns.
        rows: of td elements.
        numbers: the columns whose heads stand at the right, as numbers do.
    """
    names = [element("th", head, scope="col", class_="number" if i in numbers else "") for i, head in enumerate(heads)]
    body = element("tbody", *(element("tr", *row) for row in rows))
    return element("div", element("table", element("thead", element("tr", *names)), body), class_="scroll")


def page(title: str, *children: Markup) -> str:
    """A whole document: one file that asks for no other."""
    style = Markup((Path(__file__).parent / "page.css").read_text(encoding="utf-8"))
    head = joined(
        (
            Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
            element("title", title),
            element("style", style),
        )
    )
    document = element("html", element("head", head), element("body", *children), lang="en")
    return f"<!doctype html>\n{document}\n"


def number(value: float) -> str:
    """A number with four significant digits; at least three decimals where it is a share."""
    if value == 0:
        return "0"
    if abs(value) < 1e-4 or abs(value) >= 1e6:
        return f"{value:.3g}"
    return f"{value:.{min(4, max(0, 3 - math.floor(math.log10(abs(value)))))}f}"


def spread(interval: tuple[float, float] | None, deviation: float | None) -> str:
    """What a number is uncertain by: the interval, the deviation over seeds, or both."""
    parts = [f"{number(interval[0])} to {number(interval[1])}"] if interval else []
    if deviation is not None:
        parts.append(f"± {number(deviation)}")
    return ", ".join(parts)


def settings(values: Mapping[str, Any]) -> str:
    """Settings in a line."""
    return ", ".join(f"{name} {_short(value)}" for name, value in values.items())


def flops(value: float | None) -> str:
    """Floating-point operations with the prefix that people say, or that they are not known."""
    if value is None:
        return "not known"
    for power, prefix in ((21, "Z"), (18, "E"), (15, "P"), (12, "T"), (9, "G")):
        if value >= 10**power:
            return f"{value / 10**power:.3g} {prefix}FLOP"
    return f"{value:.3g} FLOP"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return "(" + settings(value) + ")"
    return " ".join(map(_short, value)) if isinstance(value, list | tuple) else str(value)
