import logging
import threading

from serving import repository


def test_versions_are_the_children_that_are_numbers(tmp_path):
    for name in ("1", "007", "20", "foo", "2.0", "-2", "3.partial", "9223372036854775808", "٣"):
        (tmp_path / name).mkdir()
    (tmp_path / "5").write_text("a file counts: its load fails")
    found = repository.versions(tmp_path)
    assert found == {1: tmp_path / "1", 7: tmp_path / "007", 5: tmp_path / "5", 20: tmp_path / "20"}
    assert repository.latest(found) == {20: tmp_path / "20"}


def test_a_watch_tells_what_is_there_at_each_look(tmp_path, caplog):
    stop, told = threading.Event(), []

    def aspire(name, versions):
        told.append((name, sorted(versions)))
        if len(told) == 1:
            (tmp_path / "1").mkdir()
        elif len(told) == 2:
            (tmp_path / "2").mkdir()
        else:
            stop.set()

    repository.watch("m", tmp_path, aspire, interval=0.01, stop=stop)
    assert told == [("m", []), ("m", [1]), ("m", [2])]
    assert f"No versions of servable m found under base path {tmp_path}" in caplog.text


def test_a_base_path_that_is_away_changes_nothing(tmp_path, caplog):
    told = []
    repository.watch(
        "m", tmp_path / "away", lambda *told_now: told.append(told_now), interval=0, stop=threading.Event()
    )
    assert told == []
    assert [(r.levelno, "Could not find base path" in r.message) for r in caplog.records] == [(logging.ERROR, True)]
