import json
import re
from pathlib import Path

from serving import metrics_page
from serving.call import Call
from serving.monitoring import FAMILIES, Monitoring

BOARD = json.loads(Path("serving/grafana/vit22b-serving.json").read_text(encoding="utf-8"))
METRIC = re.compile(r"(?<![\w:])(:[a-z0-9_:]{4,}|process_\w+)")


def expressions():
    for panel in BOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in BOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


def shown():
    """The names of the page's samples with the labels that each has."""
    monitoring = Monitoring()
    monitoring.end(Call("Predict", "GRPC", model="m", rows=1, seconds={"run": 0.1}), "OK", 0.1)
    monitoring.end(Call("Predict", "GRPC", refused="threads"), "RESOURCE_EXHAUSTED", 0.1)
    monitoring.loaded("/m/1", "success", 1)
    monitoring.batched("processed_batch_size", 1, {})
    monitoring.batched("input_batch_size", 1, {})
    monitoring.batched("queuing_latency", 1, {"thread_pool_name": ""})
    samples = re.findall(r"^([\w:]+)\{(.*)\} ", metrics_page.text(monitoring), flags=re.MULTILINE)
    return {name: set(re.findall(r"(\w+)=", labels)) for name, labels in samples}


def test_every_metric_of_the_board_is_on_the_page_with_the_labels_that_the_board_asks_for():
    samples = shown()
    named = 0
    for title, expression in expressions():
        metrics = METRIC.findall(expression)
        assert metrics, title
        asked = set(re.findall(r"(\w+)[=!]~?\"", expression))
        asked |= {label for by in re.findall(r"by \(([^)]*)\)", expression) for label in by.split(", ")}
        asked |= set(re.findall(r"label_values\([^,]*, (\w+)\)", expression))
        for metric in metrics:
            assert metric in samples, (title, metric)
            assert asked <= samples[metric] | {"instance"}, (title, metric, asked)
            named += 1
    assert named > 20


def test_every_metric_of_our_own_is_on_the_board():
    text = " ".join(expression for _, expression in expressions())
    ours = [family.exposed_name for family in FAMILIES if family.name.startswith("/vit22b/")]
    assert [name for name in ours if name not in text] == []


def test_panels_do_not_overlap_and_have_numbers_of_their_own():
    taken = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
