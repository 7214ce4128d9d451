import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from tests import sample_reports
from train.reports import figures
from train.suite.outcome import Plot

PLOTS = {plot.kind: plot for plot in sample_reports.plots()}
DRAWN = sorted(set(PLOTS) - {"overlays"})


def texts(svg):
    return ["".join(each.itertext()) for each in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("kind", DRAWN)
def test_every_kind_becomes_an_element_with_an_alternative_in_words(kind):
    svg = figures.svg(PLOTS[kind])
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert root.get("role") == "img"
    assert root.get("aria-label") == figures.description(PLOTS[kind])
    assert PLOTS[kind].title in texts(svg)


@pytest.mark.parametrize("kind", DRAWN)
def test_a_figure_is_the_same_each_time_and_its_text_takes_the_pages_colour(kind):
    svg = figures.svg(PLOTS[kind])
    assert svg == figures.svg(PLOTS[kind])
    assert "currentColor" in svg
    assert figures.PAGE not in svg
    assert "<metadata" not in svg
    assert not re.search(r"(?:href|src)=\"http", svg)


def test_two_figures_of_a_page_share_no_id():
    first, second = (
        set(re.findall(r'<clipPath id="([^"]+)"', figures.svg(Plot("a/1", data, "curve", "t", PLOTS["curve"].values))))
        for data in ("x", "y")
    )
    assert first
    assert not first & second


def test_a_users_names_are_texts():
    for kind in ("bars", "confusion"):
        svg = figures.svg(PLOTS[kind])
        assert "<script" not in svg
        assert sample_reports.HOSTILE[:23] + "…" in texts(svg)
    assert "_hidden" in "".join(texts(figures.svg(PLOTS["curve"])))
    values = {"names": ["a $ b $ c", "犬", "\U0001f600"], "values": [1, 2, 3], "label": "$n_"}
    found = texts(figures.svg(Plot("a/1", "b", "bars", "$t$", values)))
    assert {"a $ b $ c", "犬", "\U0001f600", "$n_", "$t$"} <= set(found)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("bars", {"names": [], "values": [], "label": "none"}),
        ("bars", {"names": ["a"], "values": [-0.5], "label": "below 0"}),
        ("confusion", {"classes": [f"c{i}" for i in range(80)], "counts": np.zeros((80, 80), int)}),
        ("reliability", {"bins": [], "ece": 0.0}),
        (
            "curve",
            {"x": [1], "series": {"one": [0.5]}, "deviations": None, "x_label": "x", "y_label": "y", "log_x": False},
        ),
    ],
)
def test_little_or_much_can_be_drawn(kind, values):
    root = ElementTree.fromstring(figures.svg(Plot("a/1", "b", kind, "t", values)))
    assert root.tag.endswith("svg")
    assert len(root)


def test_descriptions_have_the_numbers():
    assert figures.description(PLOTS["curve"]) == (
        "Few-shot: top1 by images a class; ridge from 0.3 to 0.65; _hidden from 0.2 to 0.45"
    )
    assert figures.description(PLOTS["confusion"]) == "Confusions: 3 classes, 1 of 12 on the diagonal"
    assert "light 0.8, medium 0.7" in figures.description(PLOTS["bars"])
    assert figures.description(PLOTS["overlays"]).startswith("Found: image, label, ")


def test_a_picture_is_itself_pixel_for_pixel():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    scheme, _, data = figures.png(pixels).partition(",")
    assert scheme == "data:image/png;base64"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")), pixels)
