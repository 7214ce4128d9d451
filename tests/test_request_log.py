import contextlib
import datetime
import io
import json
import os
import threading

from serving import json_lines
from serving.call import Call
from serving.desk import Desk
from serving.request_log import RequestLog
from tests.desks import serve


def test_a_request_is_a_line():
    stream = io.StringIO()
    call = Call("Predict", "GRPC", id="7\n8", peer="ipv4:10.0.0.1:5", model="vit", metadata={"x-api-key": "secret"})

    def answer():
        call.version, call.signature, call.rows, call.user = 3, "embed_image", 2, "alice"
        with call.spend("run"):
            pass

    log = RequestLog(stream)
    serve(Desk(observers=[log]), call, answer)
    log.close()
    (line,) = stream.getvalue().splitlines()
    assert "secret" not in line
    entry = json.loads(line)
    assert datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(
        entry.pop("time")
    ) < datetime.timedelta(1)
    assert 0 < entry.pop("ms") < 60_000
    assert set(entry.pop("stages")) == {"queue", "run"}
    assert entry == {
        "id": "7\n8",
        "entrypoint": "GRPC",
        "api": "Predict",
        "model": "vit",
        "version": 3,
        "signature": "embed_image",
        "status": "OK",
        "rows": 2,
        "user": "alice",
        "peer": "ipv4:10.0.0.1:5",
    }


def test_what_a_client_names_is_cut():
    stream = io.StringIO()
    log = RequestLog(stream)
    log.end(Call("Predict", "GRPC", id="i" * 10_000, model="m" * 10_000), "NOT_FOUND", 0.1)
    log.close()
    entry = json.loads(stream.getvalue())
    assert (entry["id"], entry["model"], entry["version"]) == ("i" * 256, "m" * 256, None)


def test_lines_of_many_threads_do_not_mix():
    stream = io.StringIO()
    log = RequestLog(stream)
    threads = [
        threading.Thread(
            target=lambda: [log.end(Call("Predict", "GRPC", model="m" * 200), "OK", 0.1) for _ in range(200)]
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert log.dropped == 0
    assert len([json.loads(line) for line in stream.getvalue().splitlines()]) == 1600


def test_when_nobody_reads_the_log_any_more_it_ends_and_the_server_does_not(caplog):
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", buffering=1) as stream:
        log = RequestLog(stream)
        desk = Desk(observers=[log])
        os.close(reader)
        for _ in range(3):
            assert serve(desk, Call("Predict", "GRPC"), lambda: "answered") == "answered"
        log.close()
        assert [record.getMessage() for record in caplog.records] == [
            "The log of requests ends: [Errno 32] Broken pipe"
        ]
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)  # what is left in the buffer goes there


def fill(pipe):
    """Writes line ends until the pipe takes no more; returns how many."""
    os.set_blocking(pipe, False)
    count = 0
    for size in (4096, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                count += os.write(pipe, b"\n" * size)
    os.set_blocking(pipe, True)
    return count


def test_a_reader_that_stops_holds_up_neither_requests_nor_the_exit(caplog, monkeypatch):
    monkeypatch.setattr(json_lines, "_MAX_LINES", 10)
    reader, writer = os.pipe()
    before = fill(writer)
    with os.fdopen(writer, "w") as stream, os.fdopen(reader) as lines:
        log = RequestLog(stream)
        for _ in range(100):
            log.end(Call("Predict", "GRPC"), "OK", 0.1)
        log.close(0.01)
        assert log._writer.is_alive()
        assert log.dropped in (89, 90)  # the queue holds ten, the thread one as soon as it runs
        assert caplog.messages == [
            "The log of requests is not read fast enough: lines are lost",
            f"The log of requests has lost {log.dropped} lines",
        ]
        for _ in range(before):
            assert lines.readline() == "\n"
        assert [json.loads(lines.readline())["api"] for _ in range(100 - log.dropped)] == ["Predict"] * (
            100 - log.dropped
        )
        log.close()
        assert not log._writer.is_alive()
