import logging
import threading
from concurrent import futures

import pytest
from tensorflow_serving.config.model_server_config_pb2 import ModelConfig

from serving import repository


def model(base_path, name="m", **policy):
    config = ModelConfig(name=name, base_path=str(base_path))
    if "latest" in policy:
        config.model_version_policy.latest.num_versions = policy["latest"]
    if "specific" in policy:
        config.model_version_policy.specific.SetInParent()
        config.model_version_policy.specific.versions.extend(policy["specific"])
    if "all" in policy:
        config.model_version_policy.all.SetInParent()
    return config


def test_versions_are_the_children_that_are_numbers(tmp_path, caplog):
    for name in ("1", "007", "20", "foo", "2.0", "-2", "3.partial", "9223372036854775808", "٣", "020"):
        (tmp_path / name).mkdir()
    (tmp_path / "5").write_text("a file counts: its load fails")
    found = repository.versions(tmp_path)
    assert found == {1: tmp_path / "1", 7: tmp_path / "007", 5: tmp_path / "5", 20: tmp_path / "20"}
    assert caplog.messages == [
        "Duplicate version directories detected. Version 20 will be loaded from 20, 020 will be ignored."
    ]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({}, [3]),
        ({"latest": 0}, [3]),
        ({"latest": 2}, [2, 3]),
        ({"latest": 9}, [1, 2, 3]),
        ({"all": True}, [1, 2, 3]),
        ({"specific": [2, 1]}, [1, 2]),
        ({"specific": [2, 9]}, [2]),
    ],
)
def test_the_policy_says_which_versions_are_wanted(tmp_path, policy, expected):
    for name in ("1", "2", "3"):
        (tmp_path / name).mkdir()
    assert sorted(repository.wanted(model(tmp_path, **policy))) == expected


def test_what_is_not_found_is_warned_of_in_the_real_servers_words(tmp_path, caplog):
    assert repository.wanted(model(tmp_path)) == {}
    assert repository.wanted(model(tmp_path, specific=[9])) == {}
    assert repository.wanted(model(tmp_path, specific=[])) == {}
    none = (
        f"No versions of servable m found under base path {tmp_path}. "
        "Did you forget to name your leaf directory as a number (eg. '/1/')?"
    )
    assert caplog.messages == [
        none,
        (
            "Version 9 of servable m, which was requested to be served as a 'specific' version in the servable's "
            "version policy, was not found in the file system"
        ),
        none,
        "No specific versions requested for servable m.",
    ]


def test_a_watch_tells_what_is_there_at_each_look(tmp_path):
    stop, told = threading.Event(), []

    def want(name, versions):
        told.append((name, sorted(versions)))
        if len(told) == 1:
            (tmp_path / "1").mkdir()
        elif len(told) == 2:
            (tmp_path / "2").mkdir()
        else:
            stop.set()

    watched = repository.Repository(want, 0.01, stop)
    watched.follow([model(tmp_path)])
    watched.watch()
    assert told == [("m", []), ("m", [1]), ("m", [2])]


def test_a_base_path_that_is_away_leaves_its_model_as_it_is_and_the_others_are_looked_at(tmp_path, caplog):
    stop, told = threading.Event(), []

    def want(name, versions):
        told.append((name, sorted(versions)))
        stop.set()

    (tmp_path / "there" / "4").mkdir(parents=True)
    watched = repository.Repository(want, 0.01, stop)
    watched.follow([model(tmp_path / "away", "a"), model(tmp_path / "there", "b")])
    watched.watch()
    assert told == [("b", [4])]
    away = tmp_path / "away"
    assert caplog.record_tuples == [
        (
            "serving.repository",
            logging.ERROR,
            (
                "FileSystemStoragePathSource encountered a filesystem access error: Could not find base path "
                f"{away} for servable a with error NOT_FOUND: {away} not found"
            ),
        )
    ]


class Told:
    """What a repository wants, model and versions, in the order of the wishes; `news` counts those not waited for."""

    def __init__(self):
        self.wishes, self.news = [], threading.Semaphore(0)

    def want(self, name, versions):
        self.wishes.append((name, sorted(versions)))
        self.news.release()


def test_a_model_that_is_left_out_is_wanted_no_more_and_a_new_one_is_looked_at_soon(tmp_path):
    stop, told = threading.Event(), Told()
    for name in ("a/1", "b/2"):
        (tmp_path / name).mkdir(parents=True)
    watched = repository.Repository(told.want, 3600, stop)
    with futures.ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watched.watch)
        watched.follow([model(tmp_path / "a", "a")])
        assert told.news.acquire(timeout=60)
        watched.follow([model(tmp_path / "b", "b")])
        assert told.news.acquire(timeout=60)
        assert told.news.acquire(timeout=60)
        stop.set()
        watched.wake()
        watching.result(timeout=60)
    assert told.wishes == [("a", [1]), ("a", []), ("b", [2])]


@pytest.fixture
def slow_look(monkeypatch):
    """Holds up the looks at the model slow, as a network file system does: an event when one begins, one to go on."""
    begun, go_on, look = threading.Event(), threading.Event(), repository.wanted

    def wanted(followed):
        found = look(followed)
        if followed.name == "slow":
            begun.set()
            assert go_on.wait(60)
        return found

    monkeypatch.setattr(repository, "wanted", wanted)
    yield begun, go_on
    go_on.set()


def test_a_base_path_that_hangs_does_not_hold_up_a_change_which_wins(tmp_path, slow_look):
    begun, go_on = slow_look
    stop, told = threading.Event(), Told()
    for name in ("slow/1", "b/2"):
        (tmp_path / name).mkdir(parents=True)
    watched = repository.Repository(told.want, 3600, stop)
    with futures.ThreadPoolExecutor(2) as pool:
        watching = pool.submit(watched.watch)
        watched.follow([model(tmp_path / "slow", "slow")])
        assert begun.wait(60)
        pool.submit(watched.follow, [model(tmp_path / "b", "b")]).result(timeout=60)
        go_on.set()
        assert told.news.acquire(timeout=60)
        assert told.news.acquire(timeout=60)
        stop.set()
        watched.wake()
        watching.result(timeout=60)
    assert told.wishes == [("slow", []), ("b", [2])]  # not slow's version 1, which it found before it was left out
