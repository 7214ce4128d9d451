"""The gateway's page in Chromium. `make web` runs these."""

import re
from pathlib import Path

import pytest

from benchmarks.server_process import ServerProcess
from serving.keys import KeyFile, line, make_key
from tests import web_gateway
from tests.standin import StandIn, picture, serve
from tests.waiting import until
from vit22b.folder import read_folder

pytestmark = pytest.mark.web

ROOT = Path(__file__).parents[1]
SCREENSHOT = ROOT / "build" / "web" / "gateway.png"
DEMO = ROOT / "build" / "demo"
CHROMIUM = "/usr/bin/chromium"
COLOURS = ("red", "lime", "blue", "orange", "purple")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# The ratio of a text's luminance to its background's (WCAG 2.2, success criterion 1.4.3).
CONTRAST = """element => {
  const light = (colour) => colour.match(/[0-9.]+/g).slice(0, 3).map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, place) => sum + value * [0.2126, 0.7152, 0.0722][place], 0);
  let behind = element;
  while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
  const two = [light(getComputedStyle(element).color), light(getComputedStyle(behind).backgroundColor)].sort();
  return (two[1] + 0.05) / (two[0] + 0.05);
}"""
TRANSFER = """files => {
  const transfer = new DataTransfer();
  for (const [name, type, bytes] of files) transfer.items.add(new File([new Uint8Array(bytes)], name, { type }));
  return transfer;
}"""


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser):
    """A page on which nothing may go wrong unnoticed."""
    with browser.new_context(viewport={"width": 1100, "height": 900}) as context:
        context.set_default_timeout(10_000)
        opened = context.new_page()
        problems = []
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.on("console", lambda message: problems.append(message.text) if "Security" in message.text else None)
        yield opened
        assert problems == []


@pytest.fixture(scope="module")
def gateway():
    with serve(StandIn()) as standin, web_gateway.serve(standin.address) as opened:
        yield opened


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colours")
    for colour in COLOURS:
        (folder / f"{colour}.png").write_bytes(picture(colour))
    return [folder / f"{colour}.png" for colour in COLOURS]


def compare(page, paths, names=()):
    page.set_input_files("#files", paths)
    page.get_by_label("Names, one a line").fill("\n".join(names))
    page.get_by_role("button", name="Compare").click()
    page.get_by_text("The results are below").wait_for()


def compared(page):
    """Compares once more; whether there are results."""
    page.get_by_role("button", name="Compare").click()
    page.locator("#score:enabled").wait_for()
    return page.locator(".card").count() > 0


def transfer(page, *files):
    return page.evaluate_handle(TRANSFER, [[name, kind, list(content)] for name, kind, content in files])


def best(page):
    return page.locator(".card h3").all_inner_texts()


def alert(page):
    return page.get_by_role("alert").inner_text()


def test_the_page_says_which_model_answers(page, gateway):
    page.goto(gateway.url)
    page.get_by_text("space-one").wait_for()
    assert page.locator("#model").inner_text().split() == ["Model", "vit22b", "Version", "1", "Space", "space-one"]


def test_everything_can_be_done_by_keyboard(page, gateway, colours):
    # Chromium hands its dialogs over a moment after somebody listens; without this the first one may be missed.
    page.on("filechooser", lambda _chooser: None)
    page.goto(gateway.url)
    page.get_by_text("space-one").wait_for()

    def focus():
        return page.evaluate("document.activeElement.id || document.activeElement.getAttribute('aria-label')")

    def tab_to(name):
        for _ in range(20):
            page.keyboard.press("Tab")
            if focus() == name:
                return
        pytest.fail(f"Tab does not reach {name}")

    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    tab_to("files")
    for key, files, told in (
        ("Space", colours[:1], "1 image added"),
        ("Enter", colours[1:3], "2 images added, 3 in all"),
    ):
        with page.expect_file_chooser() as chooser:
            page.keyboard.press(key)
        chooser.value.set_files(files)
        page.get_by_text(told).wait_for()
    tab_to("Remove lime.png")
    page.keyboard.press("Enter")
    page.get_by_text("lime.png removed, 2 left.").wait_for()
    assert focus() == "Remove blue.png"
    tab_to("classes")
    page.keyboard.type("red\nblue")
    tab_to("templates")
    page.keyboard.press("End")
    tab_to("own")
    page.keyboard.press("Control+A")
    page.keyboard.type("a {}")
    tab_to("score")
    page.keyboard.press("Enter")
    page.get_by_text("Done: 2 images, compared with 2 names.").wait_for()
    assert best(page) == ["red", "blue"]
    # From a text area, too.
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Control+A")
    page.keyboard.type("no template")
    page.keyboard.press("Control+Enter")
    page.get_by_text("is no template").wait_for()
    assert page.get_by_text("is no template").get_attribute("role") == "alert"
    tab_to("clear")
    page.keyboard.press("Enter")
    page.get_by_text("All is cleared.").wait_for()
    assert focus() == "files"
    assert page.locator(".card").count() == 0


def test_scores_are_bars_on_one_scale_and_neighbours_are_near(page, gateway, colours):
    page.goto(gateway.url)
    compare(page, colours, ["red", "green", "blue"])
    assert best(page)[:3] == ["red", "green", "blue"]
    orange = page.locator(".card").nth(3)
    assert orange.locator(".class").all_inner_texts() == ["red", "green", "blue"]
    scores = [float(text) for text in orange.locator(".bars .number").all_inner_texts()]
    widths = orange.locator(".fill").evaluate_all("fills => fills.map((fill) => parseFloat(fill.style.width) / 100)")
    assert widths == pytest.approx(scores, abs=2e-3)  # the highest of all scores is 1
    assert 0.5 < scores[0] < 1
    near = orange.locator(".near .name").all_inner_texts()
    assert near == ["red.png", "purple.png", "lime.png"]
    cosines = [float(text) for text in orange.locator(".near .number").all_inner_texts()]
    assert cosines == sorted(cosines, reverse=True)
    assert cosines[0] == pytest.approx(scores[0], abs=1e-3)  # red's image is where red's name is


def test_one_name_is_a_list_of_one(page, gateway, colours):
    page.goto(gateway.url)
    compare(page, colours[:2], ["red"])
    assert best(page) == ["red", "red"]
    assert page.locator(".bars li").count() == 2


def test_without_names_images_are_compared_with_each_other(page, gateway, colours):
    page.goto(gateway.url)
    compare(page, colours[:2])
    assert best(page) == ["red.png", "lime.png"]
    assert page.locator(".bars").count() == 0
    assert page.locator(".near li").count() == 2


def test_images_can_be_dropped_and_pasted(page, gateway):
    page.goto(gateway.url)
    dropped = transfer(page, ("a.png", "image/png", picture("red")), ("b.txt", "text/plain", b"words"))
    page.dispatch_event("#drop", "dragover", {"dataTransfer": dropped})
    assert "over" in page.get_attribute("#drop", "class")
    page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
    page.get_by_alt_text("a.png").wait_for()
    assert "over" not in page.get_attribute("#drop", "class")
    assert "b.txt" in alert(page)
    pasted = transfer(page, ("image.png", "image/png", picture("blue")))
    paste = "transfer => document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: transfer }))"
    page.evaluate(paste, pasted)
    page.get_by_text("1 image added, 2 in all.").wait_for()
    # Beside the field, too: the browser would leave the page for it.
    page.dispatch_event("h1", "drop", {"dataTransfer": transfer(page, ("c.png", "image/png", picture("lime")))})
    page.get_by_alt_text("c.png").wait_for()


def test_a_bad_image_is_named_and_the_others_are_shown(page, gateway, colours, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    page.goto(gateway.url)
    compare(page, [colours[0], tmp_path / "broken.png", colours[2]], ["red", "blue"])
    assert best(page) == ["red", "blue"]
    assert "broken.png: no whole JPEG" in alert(page)


def test_more_images_than_a_request_takes_are_sent_in_parts(page, gateway, colours):
    page.goto(gateway.url)
    files = [(f"{number}.png", "image/png", picture(COLOURS[number % 3])) for number in range(20)]
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer(page, *files)})
    page.get_by_label("Names, one a line").fill("red\ngreen\nblue")
    page.get_by_role("button", name="Compare").click()
    page.get_by_text("Done: 20 images").wait_for()
    assert best(page) == [("red", "green", "blue")[number % 3] for number in range(20)]
    assert colours


def test_names_are_texts_and_no_markup(page, gateway):
    page.goto(gateway.url)
    name = "<img src=x onerror=document.title='bad'>.png"
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer(page, (name, "image/png", picture("red")))})
    page.get_by_label("Names, one a line").fill("<b> red </b>\nblue")
    page.get_by_role("button", name="Compare").click()
    page.locator(".card").wait_for()
    assert best(page) == ["<b> red </b>"]
    assert page.locator(".card .name").first.inner_text() == name
    assert "bad" not in page.title()


def test_the_policy_keeps_scripts_of_others_out(browser, gateway):
    with browser.new_context() as context:
        page = context.new_page()
        refused = []
        page.on("console", lambda message: refused.append(message.text))
        page.goto(gateway.url)
        page.evaluate(
            "document.body.append(Object.assign(document.createElement('script'), {text: 'document.title = 1'}))"
        )
        page.evaluate("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:1/x.png'}))")
        page.wait_for_function("document.title !== ''")
        assert page.title() != "1"
        assert sum("Content Security Policy" in text for text in refused) == 2


def test_what_goes_wrong_is_told_in_words(page, unused_address, colours):
    with web_gateway.serve(unused_address) as gateway:
        page.goto(gateway.url)
        page.get_by_role("button", name="Compare").click()
        assert "There are no images yet" in alert(page)
        page.set_input_files("#files", colours[:1])
        page.get_by_role("button", name="Compare").click()
        page.get_by_role("alert").filter(has_text=re.compile("[Cc]onnect")).wait_for()
        with serve(StandIn(), unused_address):
            until(lambda: compared(page))  # gRPC waits a little before it connects once more
            assert alert(page) == ""
    page.get_by_role("button", name="Compare").click()
    page.get_by_role("button", name="Remove red.png").click()
    page.set_input_files("#files", colours[1:2])
    page.get_by_role("button", name="Compare").click()
    page.get_by_text("The gateway does not answer. Is it still running?").wait_for()


def test_a_pause_before_the_next_try_ends_when_the_request_is_given_up(page, gateway):
    page.goto(gateway.url)
    page.route("**/v1/models", lambda route: route.fulfill(status=429, headers={"Retry-After": "3600"}))
    with page.expect_response("**/v1/models"):  # the pause after it is what has to end
        page.evaluate("""async () => {
      const { ask } = await import('/api.js');
      const run = new AbortController();
      window.ended = null;
      ask('v1/models', { signal: run.signal }).catch((error) => { window.ended = error.name; });
      window.giveUp = () => run.abort();
    }""")
    assert page.evaluate("window.ended") is None
    page.evaluate("window.giveUp()")
    page.wait_for_function("window.ended === 'AbortError'")


def test_a_key_is_asked_for_and_used(page, standin, colours, tmp_path):
    key = make_key()
    (tmp_path / "keys").write_text(line("alice", key))
    with web_gateway.serve(standin.address, keys=KeyFile(tmp_path / "keys")) as gateway:
        page.goto(gateway.url)
        page.get_by_text("This gateway needs an API key").wait_for()
        field = page.get_by_label("Key, if this gateway asks for one")
        assert field.evaluate("field => field === document.activeElement && field.type === 'password'")
        field.fill("wrong")
        field.press("Tab")
        page.get_by_text("The API key is none of this gateway's").wait_for()
        field.fill(key)
        field.press("Tab")
        page.get_by_text("space-one").wait_for()
        compare(page, colours[:2], ["red", "green"])
        assert best(page) == ["red", "green"]
        assert (
            page.evaluate("JSON.stringify([document.cookie, {...localStorage}, {...sessionStorage}])") == '["",{},{}]'
        )


def test_a_stored_set_can_be_chosen(page, standin, colours, tmp_path):
    with web_gateway.serve(standin.address, classes_dir=tmp_path) as gateway:
        gateway.send("PUT", "/v1/classes/colours", {"classes": ["red", "blue"], "templates": ["a {}"]})
        page.goto(gateway.url)
        page.get_by_label("Or a stored set").select_option("colours")
        assert page.get_by_label("Names, one a line").is_disabled()
        page.set_input_files("#files", colours[:3])
        page.get_by_role("button", name="Compare").click()
        page.get_by_text("Done: 3 images, compared with the set colours.").wait_for()
        assert best(page)[0] == "red"


def test_a_model_without_a_text_tower_is_told(page, colours):
    with serve(StandIn(text=False, without=("embed_text",))) as standin, web_gateway.serve(standin.address) as gateway:
        page.goto(gateway.url)
        page.get_by_text("This model has no text tower").wait_for()
        assert page.get_by_label("Names, one a line").is_disabled()
        page.set_input_files("#files", colours[:2])
        page.get_by_role("button", name="Compare").click()
        page.locator(".near").first.wait_for()


def test_images_are_embedded_again_when_the_space_changes(page, standin, colours):
    with web_gateway.serve(standin.address) as gateway:
        page.goto(gateway.url)
        compare(page, colours[:2], ["red", "green"])
        asked = gateway.metric("items_total", route="/v1/embeddings")
        page.get_by_role("button", name="Compare").click()
        page.get_by_text("Done: 2 images").wait_for()
        assert gateway.metric("items_total", route="/v1/embeddings") == asked
        standin.swap(2, "space-two")
        page.get_by_role("button", name="Compare").click()
        page.get_by_text("space-two").wait_for()
        page.get_by_text("Done: 2 images").wait_for()
        assert gateway.metric("items_total", route="/v1/embeddings") == asked + 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1100])
def test_it_is_readable_in_light_and_dark_and_on_a_narrow_screen(browser, gateway, colours, tmp_path, scheme, width):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800}) as context:
        page = context.new_page()
        page.goto(gateway.url)
        compare(page, [*colours, tmp_path / "broken.png"], ["red", "blue, a very long name of a class " * 3])
        assert page.evaluate("document.documentElement.scrollWidth") == width
        texts = [
            "h1",
            "h2",
            "label",
            "dt",
            "dd",
            ".hint",
            "button",
            "summary",
            ".status",
            ".problem",
            ".card h3",
            ".card h4",
        ]
        for text in (*texts, ".card .name", ".class", ".number", "textarea", "select", "footer a"):
            assert page.locator(text).first.evaluate(CONTRAST) >= 4.5, text


@pytest.fixture
def digits_model(request, tmp_path):
    """The demo's model and its digits where `make demo` has been run; else those of the tests, which knows little."""
    models, digits = DEMO / "models" / "digits", DEMO / "digits" / "heldout"
    if not models.is_dir():
        served = request.getfixturevalue("served")
        yield served.address, request.getfixturevalue("digits") / "heldout"
        return
    flags = ("--model_name=digits", f"--model_base_path={models}", "--max_num_load_retries=0")
    with ServerProcess(flags, tmp_path / "server.log") as server:
        yield server.grpc, digits


def test_a_screenshot_with_digits(page, digits_model):
    address, digits = digits_model
    records = read_folder(digits).records
    labelled = {name: [record.path for record in records if record.labels == (name,)] for name in DIGITS}
    paths = [
        labelled[name][place]
        for name, place in (("zero", 3), ("three", 2), ("three", 7), ("seven", 1), ("seven", 4), ("eight", 5))
    ]
    with web_gateway.serve(address, "digits") as gateway:
        page.goto(gateway.url)
        page.get_by_label("Read each name as").select_option("digits")
        compare(page, paths, DIGITS)
        assert page.locator(".card").count() == 6
        assert page.locator(".bars li").count() == 30
        SCREENSHOT.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOT, full_page=True)
    assert SCREENSHOT.stat().st_size < 300_000
