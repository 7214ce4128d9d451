"""What the report of benchmarks/client.py says, and its two clients against its server."""

import pytest

from benchmarks import client, embedders
from benchmarks.embedders import ROWS
from tests.documented import documented, fields


class Orders:
    """What carries out every order, ours in half the time."""

    def __init__(self, kind):
        self.kind = kind

    def __enter__(self):
        return self

    def __exit__(self, *_raised):
        pass

    def order(self, *, do, **_order):
        times = 1 if self.kind == "ours" else 2
        if do == "loaded":
            return {"import_seconds": 0.2 * times, "rss_mb": 50.0 * times}
        return {"images_per_second": 100 / times, "cpu_ms_per_image": 1.0 * times, "cpu_share": 0.1 * times}


def report():
    settings = client.Settings(rounds=2)
    return client.assemble(
        client.imports(Orders, settings),
        client.rates({kind: Orders(kind) for kind in ("ours", "stubs")}, settings),
        client.added({"client": [1.0, 2.0], "gateway": [2.0, 4.0]}),
        [client.job(1, {"images": 10, "seconds": 2.0, "images_per_second": 5.0})],
    )


def test_the_fields_of_the_report_are_documented():
    found = report()
    assert documented("build/bench/client.json") == fields(found)
    assert (found["import_seconds_ratio"], found["rss_mb_ratio"]) == (2.0, 2.0)
    assert [row["ratio"] for row in found["rates"]] == [2.0, 2.0]
    assert found["gateway"]["added_p50_ms"] == 1.5
    assert found["goals_missed"] == []


def test_goals_that_are_missed_are_told():
    found = report()
    found["rates"][0]["ratio"] = 0.9
    assert client.missed({**found, "ours_import_seconds": 0.6, "ours_rss_mb": 61.0}) == [
        "the import takes 0.6 s; the goal is 0.5",
        "the import takes 61.0 MB; the goal is 60",
        "with 1 requests under way ours / stubs is 0.9; the goal is 1",
    ]


def test_both_clients_embed_all_images():
    with client.canned_server() as address:
        for make in (embedders.ours, embedders.stubs):
            assert make(address)([client.jpeg()] * (2 * ROWS + 3), 2) == 2 * ROWS + 3


def test_no_rounds_are_refused():
    with pytest.raises(ValueError, match="--rounds 0"):
        client.Settings(rounds=0)
