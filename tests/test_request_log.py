import datetime
import io
import json
import os
import threading

from serving.call import Call
from serving.desk import Desk
from serving.request_log import RequestLog


def test_a_request_is_a_line():
    stream = io.StringIO()
    call = Call("Predict", "GRPC", id="7\n8", peer="ipv4:10.0.0.1:5", model="vit", metadata={"x-api-key": "secret"})

    def answer():
        call.version, call.signature, call.rows, call.user = 3, "embed_image", 2, "alice"
        with call.spend("run"):
            pass

    Desk(observers=[RequestLog(stream)]).serve(call, answer)
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
    RequestLog(stream).end(Call("Predict", "GRPC", id="i" * 10_000, model="m" * 10_000), "NOT_FOUND", 0.1)
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
    assert len([json.loads(line) for line in stream.getvalue().splitlines()]) == 1600


def test_when_nobody_reads_the_log_any_more_it_ends_and_the_server_does_not(caplog):
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", buffering=1) as stream:
        desk = Desk(observers=[RequestLog(stream)])
        os.close(reader)
        for _ in range(3):
            assert desk.serve(Call("Predict", "GRPC"), lambda: "answered") == "answered"
        assert [record.getMessage() for record in caplog.records] == [
            "The log of requests ends: [Errno 32] Broken pipe"
        ]
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)  # what is left in the buffer goes there
