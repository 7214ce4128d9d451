"""The page is parsed here; where a Chromium is installed it is drawn too, wide and narrow, light and dark, and what it
draws is asked for: nothing reaches beyond the window, and what a client sent is text."""

import html.parser
import json
import shutil
import subprocess

import pytest
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus

from serving.admission import Admission
from serving.call import Call
from serving.rates import Rates
from serving.statusz import Statusz

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "<script>document.title='taken'</script>\"'&"


def status(number, state, code=0, text=""):
    made = ModelVersionStatus(version=number, state=state)
    made.status.error_code, made.status.error_message = code, text
    return made


def states():
    return [
        ("vit", [status(12, ModelVersionStatus.LOADING), status(11, ModelVersionStatus.AVAILABLE)]),
        ("so400m", [status(2, ModelVersionStatus.END, 11, f"Read less bytes than requested {HOSTILE} " + "x" * 300)]),
    ]


@pytest.fixture
def statusz():
    rates = Rates()
    for seconds in (0.010, 0.011, 0.5):
        rates.end(Call("Predict", "GRPC", model="vit"), "OK", seconds)
    rates.end(Call("Classify", "REST", model=HOSTILE), "NOT_FOUND", 0.0002)
    admission = Admission(max_pending=50)
    for _ in range(3):
        admission.enter()
    admission.begin()
    return Statusz(states, rates, admission)


class Tables(html.parser.HTMLParser):
    """The cells of the page's tables by the title above them, its text, and what it would load or run."""

    def __init__(self, page):
        super().__init__()
        self.tables, self.text, self.active, self._title, self._open = {}, "", [], "", ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self._open = tag
        if tag in ("script", "link", "img", "iframe", "form") or {"src", "href", "onload"} & dict(attrs).keys():
            self.active.append(tag)
        if tag == "tr":
            self.tables.setdefault(self._title, []).append([])
        if tag in ("td", "th"):
            self.tables[self._title][-1].append("")
        if tag == "h2":
            self._title = ""

    def handle_data(self, data):
        if self._open == "style":
            return
        self.text += data
        if self._open == "h2":
            self._title += data.strip()
        if self._open in ("span", "th"):
            self.tables[self._title][-1][-1] += data

    def handle_endtag(self, tag):  # noqa: ARG002 - the signature is the library's
        self._open = ""


def test_it_shows_models_states_errors_rates_and_the_queue(statusz):
    page = Tables(statusz.page())
    assert page.tables["Models"][:3] == [
        ["Model", "Version", "State", "Error"],
        ["vit", "12", "LOADING", ""],
        ["vit", "11", "AVAILABLE", ""],
    ]
    assert page.tables["Models"][3][:3] == ["so400m", "2", "END"]
    assert page.tables["Models"][3][3].startswith(f"OUT_OF_RANGE: Read less bytes than requested {HOSTILE}")
    assert "1 running, 2 waiting; beyond 50 together they are refused." in page.text
    for title in ("Last minute", "Since the start"):
        head, hostile, vit = page.tables[title]
        assert head == ["Model", "API", "By", "Requests", "Per second", "p50", "p95", "p99", "Failed"]
        assert (hostile[:4], hostile[-1]) == ([HOSTILE, "Classify", "REST", "1"], "NOT_FOUND 1")
        assert (vit[:4], vit[-1]) == (["vit", "Predict", "GRPC", "3"], "none")
        assert vit[6] == vit[7]
        assert float(vit[7].removesuffix(" ms")) == pytest.approx(500, rel=0.1)
    assert "tensorflow 2." in page.text
    assert "up 0:0" in page.text


def test_it_loads_and_runs_nothing(statusz):
    assert Tables(statusz.page()).active == []


def test_a_server_without_models_and_requests_says_so():
    page = Tables(Statusz(list, Rates(), Admission()).page())
    assert page.tables == {}
    for text in ("No model yet.", "No request in the last minute.", "No request yet.", "0 running, 0 waiting"):
        assert text in page.text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_draws_it_within_the_window_and_runs_nothing_of_a_clients(statusz, tmp_path, width):
    # Chromium's own window is never narrower than 500 pixels; a frame is.
    (tmp_path / "statusz.html").write_text(statusz.page(), encoding="utf-8")
    measure = """
        const frame = document.querySelector("iframe"), page = frame.contentDocument, root = page.documentElement;
        const cells = [...page.querySelectorAll("td")].filter(cell => cell.offsetParent);
        document.body.textContent = JSON.stringify({
          title: page.title, width: root.clientWidth, needed: root.scrollWidth, cells: cells.length,
          cut: cells.filter(cell => cell.scrollWidth > cell.clientWidth + 1).length,
          head: getComputedStyle(page.querySelector("thead")).display,
        });
    """
    (tmp_path / "frame.html").write_text(
        f'<body><iframe src="statusz.html" width="{width}" height="900" frameborder="0" onload=\'run()\'></iframe>'
        f"<script>function run() {{ {measure} }}</script>"
    )
    dumped = subprocess.run(
        [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--allow-file-access-from-files",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=5000",
            "--dump-dom",
            (tmp_path / "frame.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    drawn = json.loads(dumped[dumped.index("{") : dumped.rindex("}") + 1])
    assert drawn["title"] == "vit22b model server"
    assert drawn["needed"] <= drawn["width"] <= width
    assert drawn["cells"] >= 20
    assert drawn["cut"] == 0
    assert drawn["head"] == ("none" if width < 720 else "table-header-group")
