import io
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from tests import sample_reports
from train.reports import page
from train.reports.markup import element, flops, number, settings, spread
from train.reports.paper_figures import NOTE, RECALLED
from train.reports.terminal_table import report_table

VOID = {"meta", "img", "br"}


class Reader(HTMLParser):
    """Its elements, its text, and whether every element that is opened is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text += data


@pytest.fixture(scope="module")
def html():
    return page.render(sample_reports.report())


@pytest.fixture(scope="module")
def read(html):
    return Reader(html)


def test_the_page_is_one_file_that_asks_for_no_other(html, read):
    assert html.startswith("<!doctype html>")
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in read.tags}
    for tag, attributes in read.tags:
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png;base64,")), (tag, name)
    assert not re.search(r"url\((?!#)|@import", html)


def test_a_users_names_are_texts_and_no_markup(html, read):
    assert "<script" not in html
    assert sample_reports.HOSTILE in read.text


def test_ids_come_once_and_links_lead_to_them(read):
    ids = [attributes["id"] for tag, attributes in read.tags if "id" in attributes and tag in ("h1", "h2", "h3")]
    assert len(ids) == len(set(ids))
    ran = {row.protocol for row in sample_reports.rows()}
    links = {attributes["href"][1:] for tag, attributes in read.tags if tag == "a"}
    assert {page.anchor(protocol) for protocol in ran} <= set(ids) & links


def test_every_row_is_there_with_chance_and_the_papers_figure(read):
    text = " ".join(read.text.split())
    for protocol in sample_reports.PROTOCOLS[:-1]:
        assert protocol.id in text
        assert protocol.definition in text
        assert f"Source: {protocol.section}." in text
    assert NOTE in text
    assert "0.8950 ImageNet" in text
    assert f"0.9090 ImageNet ReaL ({RECALLED})" in text
    assert f"0.3460 ADE20k, linear ({RECALLED})" in text
    assert "+0.500" in text
    assert "the set has no part test; write one" in text
    assert text.count("synthetic") >= 3
    rows = [tag for tag, _ in read.tags if tag == "tr"]
    assert len(rows) > len(sample_reports.rows())


def test_what_the_model_is_stands_above(read):
    for fact in ("1,000,000 (900,000 of the image tower)", "112 px, 14 px", "2.5 PFLOP", "0011223344556677", "600"):
        assert fact in read.text


def test_every_picture_has_an_alternative(read):
    pictures = [attributes for tag, attributes in read.tags if tag == "img"]
    assert len(pictures) == 6
    assert all(attributes["alt"] for attributes in pictures)
    assert all(attributes.get("aria-label") for tag, attributes in read.tags if tag == "svg")


def test_a_page_of_a_report_without_rows_or_plots_can_be_read():
    found = Reader(page.render(sample_reports.report(rows=(), plots=(), not_run=())))
    assert found.text.count("not run") == len(sample_reports.PROTOCOLS)


def test_the_terminal_has_every_row_and_what_was_not_run():
    console = Console(width=220, record=True, file=io.StringIO())
    console.print(report_table(sample_reports.report()))
    text = console.export_text()
    assert text.count("top1") == 5
    assert "0.6600 to 0.8400" in text
    assert "± 0.0200" in text
    assert "not run" in text
    assert "cut_outs (synthetic)" in text


def test_elements_escape_what_is_no_markup():
    assert element("p", "<b>", element("i", "&"), title='"') == '<p title="&quot;">&lt;b&gt;<i>&amp;</i></p>'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.89512, "0.8951"),
        (1.0, "1.000"),
        (12.345, "12.35"),
        (1234.5, "1234"),
        (-0.5, "-0.5000"),
        (1e-6, "1e-06"),
        (2e9, "2e+09"),
    ],
)
def test_numbers_are_read_by_people(value, text):
    assert number(value) == text


def test_what_is_uncertain_and_how_it_was_set_is_told_in_a_line():
    assert spread((0.25, 0.75), None) == "0.2500 to 0.7500"
    assert spread((0.25, 0.75), 0.1) == "0.2500 to 0.7500, ± 0.1000"
    assert spread(None, None) == ""
    assert settings({"shots": 5, "chosen": {"c": 0.1}, "layers": [1, 2]}) == "shots 5, chosen (c 0.1), layers 1 2"
    assert [flops(value) for value in (None, 2.5e15, 3e9, 12)] == ["not known", "2.5 PFLOP", "3 GFLOP", "12 FLOP"]
