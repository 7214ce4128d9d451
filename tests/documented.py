"""The fields that docs/reports.md gives a report, for the tests that compare them with the report's own."""

import re
from collections.abc import Mapping
from pathlib import Path

REPORTS = Path(__file__).parents[1] / "docs" / "reports.md"


def documented(report):
    """The names in the first column of the table of the report's section; a remark in parentheses is none."""
    (section,) = (part for part in re.split("^## ", REPORTS.read_text(), flags=re.M) if part.startswith(report))
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| ")][1:]
    return {name for cell in cells for name in re.sub(r"\(.*?\)", "", cell).replace(" ", "").split(",")}


def fields(values, prefix=""):
    """The names of all fields of a report, those inside others with a dot; of a list, those of its items."""
    names = set()
    for name, value in values.items():
        names.add(prefix + name)
        inner = value if isinstance(value, list) else [value]
        for item in (one for one in inner if isinstance(one, Mapping)):
            names |= fields(item, f"{prefix}{name}.")
    return names
