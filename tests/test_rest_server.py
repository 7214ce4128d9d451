import contextlib
import http.client
import json
import select
import socket
import ssl
import threading
import time
import tracemalloc
from concurrent import futures

import pytest
import trustme

from serving import rest_handler, rest_server
from serving.admission import Admission
from serving.answers import Answers
from serving.desk import Desk
from serving.lifecycle import Lifecycle
from serving.loading import Retries
from serving.rest_server import HttpOptions
from serving.runtime import Runtime
from serving.servable import Servable, ServableOptions
from tests.lifecycles import aspire
from tests.small_models import plus

BODY = b'{"instances":[1.0,2.0]}'
ANSWER = b'{\n    "predictions": [1.5, 2.0\n    ]\n}'
PREDICT = b"POST /v1/models/p:predict HTTP/1.1\r\nHost: h\r\n"
REQUEST = PREDICT + b"Content-Length: 23\r\n\r\n" + BODY
BAD_REQUEST = b"<HTML><HEAD>\n<TITLE>400 Bad Request</TITLE>\n</HEAD><BODY>\n<H1>Bad Request</H1>\n</BODY></HTML>\n"
SECONDS = 30  # that anything is waited for


@pytest.fixture(scope="module")
def answers():
    lifecycle = Lifecycle(
        lambda name, version, path: Servable.load(name, version, path, ServableOptions()),
        Retries(0),
        threading.Event(),
    )
    aspire(lifecycle, "p", {1: plus(1)})
    yield Answers(lifecycle)
    aspire(lifecycle, "p", {})


@contextlib.contextmanager
def serving(answers, desk=None, **options):
    server = rest_server.serve(answers, desk or Desk(), HttpOptions(host="127.0.0.1", **options))
    try:
        yield server
    finally:
        server.stop(0)


@pytest.fixture(scope="module")
def server(answers):
    with serving(answers, threads=1, pages={"/metrics": lambda: ("text/plain", "é")}) as opened:
        yield opened


@contextlib.contextmanager
def connected(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as connection:
        yield connection


def read_answer(connection, method="GET"):
    """One answer: its head, its body, and whether the connection ends with it."""
    response = http.client.HTTPResponse(connection, method=method)
    response.begin()
    return response, response.read(), response.will_close


def ask(server, request, method="GET"):
    with connected(server) as connection:
        connection.sendall(request)
        return read_answer(connection, method)


def post(server, body, path="/v1/models/p:predict", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
    connection.request("POST", path, body=body if isinstance(body, bytes) else json.dumps(body), headers=headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, content


def waiting(gate):
    return {"signature_name": "wait", "inputs": {"gate": str(gate)}}


def wait_for(path):
    """Waits for a file, which the model writes."""
    end = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_answer_has_the_real_servers_head(server):
    with connected(server) as connection:
        connection.sendall(REQUEST)
        head, _, body = connection.recv(4096).partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 200 OK"
    assert sorted(line.split(b":")[0] for line in lines[1:]) == [b"Content-Length", b"Content-Type", b"Date"]
    assert b"Content-Type: application/json" in lines
    assert body == ANSWER


def test_a_connection_takes_request_after_request(server):
    with connected(server) as connection:
        connection.sendall(REQUEST * 3)
        stream = connection.makefile("rb")
        for _ in range(3):
            assert stream.readline() == b"HTTP/1.1 200 OK\r\n"
            while stream.readline() != b"\r\n":
                pass
            assert stream.read(len(ANSWER)) == ANSWER


@pytest.mark.parametrize(
    ("request_bytes", "closes"),
    [
        (REQUEST, False),
        (PREDICT + b"Connection: close\r\nContent-Length: 23\r\n\r\n" + BODY, True),
        (REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0"), True),
        (REQUEST.replace(b"HTTP/1.1\r\n", b"HTTP/1.0\r\nConnection: keep-alive\r\n"), False),
        (PREDICT + b"Transfer-Encoding: chunked\r\n\r\n17\r\n" + BODY + b"\r\n0\r\n\r\n", False),
        (REQUEST.replace(b"/v1", b"http://h/v1"), False),
        (REQUEST.replace(b"Host: h", b"Host: h\r\nX-Long: " + b"a" * 100_000), False),
        (REQUEST.replace(b"Host: h", b"Host: h\r\nContent-Type: image/png\r\nAccept-Encoding: gzip"), False),
    ],
)
def test_the_forms_of_http_that_are_answered(server, request_bytes, closes):
    response, body, will_close = ask(server, request_bytes)
    assert (response.status, body, will_close) == (200, ANSWER, closes)


def test_a_client_that_waits_is_told_to_go_on(server):
    with connected(server) as connection:
        connection.sendall(PREDICT + b"Expect: 100-continue\r\nContent-Length: 23\r\n\r\n")
        assert connection.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert read_answer(connection)[1] == ANSWER


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (PREDICT + b"Content-Length: abc\r\n\r\n", 400),
        (PREDICT + b"Content-Length: -1\r\n\r\n", 400),
        (PREDICT + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (PREDICT + b"Expect: nonsense\r\nContent-Length: 23\r\n\r\n" + BODY, 417),
        (b"garbage\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"GET /v1/models/%zz HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET /v1/models/^ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"FOO /v1/models/p HTTP/1.1\r\nHost: h\r\n\r\n", 501),
        (b"TRACE /v1/models/p HTTP/1.1\r\nHost: h\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", 404),
        (b"GET /v1 HTTP/1.1\r\nHost: h\r\n\r\n", 404),
        (b"GET /metrics/ HTTP/1.1\r\nHost: h\r\n\r\n", 404),
        (b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", 404),
    ],
)
def test_what_is_not_for_the_api_gets_a_page_and_ends_the_connection(server, request_bytes, status):
    response, body, will_close = ask(server, request_bytes)
    assert (response.status, response.getheader("Content-Type"), will_close) == (status, "text/html", True)
    assert response.getheader("Server") is None
    assert body == BAD_REQUEST.replace(b"400", b"%d" % status).replace(b"Bad Request", response.reason.encode())


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_a_wrong_method_is_told_and_the_connection_goes_on(server, method):
    response, body, will_close = ask(server, REQUEST.replace(b"POST", method.encode()), method)
    assert (response.status, will_close) == (400, False)
    assert json.loads(body) == {"error": f"Malformed request: {method} /v1/models/p:predict"}


def test_head_has_the_status_of_a_wrong_method(server):
    response, body, _ = ask(server, b"HEAD /v1/models/p HTTP/1.1\r\nHost: h\r\n\r\n", "HEAD")
    assert (response.status, body) == (400, b"")


def test_a_preflight_needs_an_origin(answers, server):
    request = b"OPTIONS /v1/models/p HTTP/1.1\r\nHost: h\r\n%b\r\n"
    for origin, status in ((b"Origin: https://o\r\n", 200), (b"", 400)):
        response, body, _ = ask(server, request % origin, "OPTIONS")
        assert (response.status, body) == (status, b"")
        assert response.getheader("Content-Type") == "text/html; charset=ISO-8859-1"
    with serving(answers, cors=True) as open_to_all:
        preflight = ask(open_to_all, request % b"Origin: http://o\r\n", "OPTIONS")[0]
        malformed = ask(open_to_all, b"GET /v1/ HTTP/1.1\r\nHost: h\r\n\r\n")[0]
        outside = ask(open_to_all, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")[0]
    for response in (preflight, malformed):
        assert response.getheader("Access-Control-Allow-Origin") == "*"
        assert response.getheader("Access-Control-Allow-Methods") == "POST, GET"
        assert response.getheader("Access-Control-Allow-Headers") == "Content-Type"
    assert outside.getheader("Access-Control-Allow-Origin") is None
    assert ask(server, b"GET /v1/ HTTP/1.1\r\nHost: h\r\n\r\n")[0].getheader("Access-Control-Allow-Origin") is None


def test_a_page_is_shown_to_any_method_at_its_very_path(server):
    for method in ("GET", "POST", "OPTIONS"):
        response, body, _ = ask(server, f"{method} /metrics HTTP/1.1\r\nHost: h\r\n\r\n".encode(), method)
        assert (response.status, response.getheader("Content-Type"), body) == (200, "text/plain", "é".encode())
    response, body, _ = ask(server, b"GET /metrics?a=1 HTTP/1.1\r\nHost: h\r\n\r\n")
    assert (response.status, response.getheader("Content-Type")) == (400, "text/plain")
    assert body == b"Unexpected path: /metrics?a=1. Should be /metrics"


def test_a_page_is_shown_while_every_thread_is_at_work(server, tmp_path):
    with futures.ThreadPoolExecutor() as clients:
        under_way = clients.submit(post, server, waiting(tmp_path / "gate"))
        wait_for(tmp_path / "gate.waiting")
        assert ask(server, b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n")[0].status == 200
        (tmp_path / "gate").touch()
        assert under_way.result(SECONDS) == (200, b'{\n    "outputs": 1.0\n}')


def test_a_probe_is_answered_while_every_thread_is_at_work(server, tmp_path):
    with futures.ThreadPoolExecutor() as clients:
        under_way = clients.submit(post, server, waiting(tmp_path / "gate"))
        wait_for(tmp_path / "gate.waiting")
        for path in ("/v1/models/p", "/v1/models/p/metadata", "/v1/models"):
            response, _, _ = ask(server, f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
            assert response.status == (400 if path == "/v1/models" else 200)
        (tmp_path / "gate").touch()
        assert under_way.result(SECONDS)[0] == 200


class Held:
    """A page that is made once it is let go."""

    def __init__(self):
        self.begun = threading.Semaphore(0)
        self.let_go = threading.Event()

    def __call__(self):
        self.begun.release()
        self.let_go.wait(SECONDS)
        return "text/plain", "held"


def test_what_costs_little_is_bounded_too(answers, monkeypatch):
    monkeypatch.setattr(rest_handler, "_LIGHT_PLACES", 2)
    held = Held()
    page, probe = (b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % path for path in (b"/held", b"/v1/models/p"))
    observed = Observed()
    with serving(answers, Desk(observers=[observed]), pages={"/held": held}) as server:
        with futures.ThreadPoolExecutor() as clients:
            under_way = [clients.submit(ask, server, page) for _ in range(2)]
            assert all(held.begun.acquire(timeout=SECONDS) for _ in under_way)
            refused, body, _ = ask(server, probe.replace(b"Host: h", b"Host: h\r\nX-Request-Id: probe"))
            assert (refused.status, refused.getheader("Retry-After")) == (429, "1")
            assert "2 requests for states, metadata and pages are under way" in json.loads(body)["error"]
            assert observed.wait_for("probe") == ("RESOURCE_EXHAUSTED", False)
            refused, _, _ = ask(server, page)
            assert (refused.status, refused.getheader("Retry-After")) == (429, "1")
            assert post(server, BODY) == (200, ANSWER)
            held.let_go.set()
            assert [answered.result(SECONDS)[1] for answered in under_way] == [b"held", b"held"]
        for request in (page, probe, page, probe):
            assert ask(server, request)[0].status == 200


def test_a_page_that_takes_too_long_is_not_waited_for(answers):
    held = Held()
    with serving(answers, timeout=0.3, pages={"/held": held}) as server:
        response, _, _ = ask(server, b"GET /held HTTP/1.1\r\nHost: h\r\n\r\n")
        held.let_go.set()
    assert (response.status, response.getheader("Content-Type")) == (504, "text/plain")


@pytest.mark.parametrize("head", [b"POST /v1/models/p:nope", b"GET /v1/models/p", b"PUT /v1/models/p:predict"])
def test_a_body_that_nobody_reads_is_not_kept(server, head):
    block, count = b" " * 2**20, 64
    with connected(server) as connection:
        tracemalloc.start()
        try:
            connection.sendall(head + b" HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (count * len(block)))
            for _ in range(count):
                connection.sendall(block)
            response, _, will_close = read_answer(connection)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert (response.status, will_close) == (200 if head.startswith(b"GET") else 400, False)
        assert peak < count * len(block) / 4
        connection.sendall(REQUEST)
        assert read_answer(connection)[1] == ANSWER


def test_a_request_that_takes_too_long_is_stopped(answers, tmp_path):
    with serving(answers, timeout=0.3) as server:
        status, body = post(server, waiting(tmp_path / "never"))
    assert (status, body) == (504, b'{\n    "error": "Timed out waiting for notification"\n}')


class Observed:
    def __init__(self):
        self.ended = {}
        self.changed = threading.Condition()

    def end(self, call, status, _seconds):
        with self.changed:
            self.ended[call.id] = status, "run" in call.seconds
            self.changed.notify_all()

    def wait_for(self, name):
        with self.changed:
            assert self.changed.wait_for(lambda: name in self.ended, SECONDS)
            return self.ended[name]


def test_nothing_is_computed_for_a_client_that_has_hung_up(answers, tmp_path):
    observed = Observed()
    with serving(answers, Desk(observers=[observed]), threads=1) as server, futures.ThreadPoolExecutor() as clients:
        under_way = clients.submit(post, server, waiting(tmp_path / "gate"))
        wait_for(tmp_path / "gate.waiting")
        with connected(server) as connection:
            connection.sendall(REQUEST.replace(b"Host: h", b"Host: h\r\nX-Request-Id: left"))
            # It has been read once a later request of the same connection thread has been answered.
            post(server, b"", path="/nowhere")
        post(server, b"", path="/nowhere")
        (tmp_path / "gate").touch()
        assert under_way.result(SECONDS)[0] == 200
        assert observed.wait_for("left") == ("CANCELLED", False)


def test_a_request_that_no_thread_takes_in_time_is_told_so(answers):
    observed = Observed()
    desk = Desk(observers=[observed])
    with serving(answers, desk, threads=1, timeout=1.0) as server, futures.ThreadPoolExecutor() as clients:
        hold = threading.Event()
        held = server._handler._threads.submit(hold.wait, SECONDS)
        late = clients.submit(ask, server, REQUEST.replace(b"Host: h", b"Host: h\r\nX-Request-Id: late"))
        response, body, _ = late.result(SECONDS)
        assert (response.status, body) == (504, b'{\n    "error": "Timed out waiting for notification"\n}')
        assert observed.wait_for("late") == ("DEADLINE_EXCEEDED", False)
        assert (desk.admission.running, desk.admission.waiting) == (0, 0)
        hold.set()
        assert held.result(SECONDS)


def test_a_run_that_does_not_stop_at_its_deadline_is_not_waited_for(answers, tmp_path, monkeypatch):
    run = Runtime.run
    monkeypatch.setattr(Runtime, "run", lambda *what, **options: run(*what, **options | {"timeout": None}))
    observed = Observed()
    with serving(answers, Desk(observers=[observed]), timeout=0.3) as server:
        status, _ = post(server, waiting(tmp_path / "gate"), **{"X-Request-Id": "stubborn"})
        assert status == 504
        assert "stubborn" not in observed.ended
        (tmp_path / "gate").touch()
        assert observed.wait_for("stubborn") == ("OK", True)


def test_a_refusal_does_not_wait_for_the_body(answers):
    observed = Observed()
    desk = Desk(admission=Admission(max_pending=1), observers=[observed])
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(answers, desk))
        first, second, third = (stack.enter_context(connected(server)) for _ in range(3))
        head = PREDICT + b"Expect: 100-continue\r\nContent-Length: 23\r\n"
        first.sendall(head + b"X-Request-Id: first\r\n\r\n")
        assert first.recv(4096).startswith(b"HTTP/1.1 100")  # it has the only place, and its body is still to come
        second.sendall(PREDICT + b"Content-Length: 23\r\n\r\n")
        assert read_answer(second)[0].status == 429
        third.sendall(head + b"\r\n")
        # Not told to go on; and since it may or may not send the body now, the connection ends.
        assert third.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 429"
        assert read_answer(third)[2]
        first.close()
        assert observed.wait_for("first") == ("CANCELLED", False)
        assert post(server, BODY) == (200, ANSWER)


def test_a_body_that_does_not_come_gives_its_place_back(answers):
    observed = Observed()
    desk = Desk(observers=[observed])
    with serving(answers, desk, timeout=0.5) as server, connected(server) as slow:
        slow.sendall(PREDICT + b"X-Request-Id: slow\r\nContent-Length: 23\r\n\r\n" + BODY[:5])
        assert read_answer(slow)[0].status == 504
        assert observed.wait_for("slow") == ("DEADLINE_EXCEEDED", False)
        assert desk.admission.waiting == 0


def test_a_body_that_trickles_in_gives_its_place_back(answers):
    desk = Desk()
    with serving(answers, desk, timeout=0.5) as server, connected(server) as slow:
        slow.sendall(PREDICT + b"Content-Length: 1000000\r\n\r\n")
        end = time.monotonic() + SECONDS
        while not select.select([slow], [], [], 0.05)[0]:
            assert time.monotonic() < end
            slow.sendall(b" ")
        assert read_answer(slow)[0].status == 504
        assert desk.admission.waiting == 0


def test_a_large_body_has_time_by_its_size(answers, monkeypatch):
    monkeypatch.setattr(rest_handler, "_SLOWEST", 1)
    body = BODY.ljust(2000)
    with serving(answers, timeout=0.5) as server, connected(server) as slow:
        slow.sendall(PREDICT + b"Content-Length: %d\r\n\r\n" % len(body) + body[:1000])
        assert not select.select([slow], [], [], 1.0)[0]  # behind the timeout
        slow.sendall(body[1000:])
        assert read_answer(slow)[1] == ANSWER


def test_the_head_of_a_request_is_bounded(server):
    for more in (b"X-Long: " + b"a" * 2**18 + b"\r\n", b"".join(b"X-%d: a\r\n" % number for number in range(100))):
        response, body, _ = ask(server, REQUEST.replace(b"Host: h\r\n", b"Host: h\r\n" + more))
        assert (response.status, body) == (400, BAD_REQUEST)


def test_a_body_that_is_cut_short_gets_no_answer_and_does_no_harm(server, caplog):
    with connected(server) as connection:
        connection.sendall(PREDICT + b"Content-Length: 50\r\n\r\n" + BODY)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(4096) == b""
    assert post(server, BODY) == (200, ANSWER)
    assert not caplog.records


def test_a_large_body_is_answered(server):
    status, body = post(server, {"instances": [[0.5] * 1000] * 500, "signature_name": "nope"})
    assert (status, json.loads(body)["error"]) == (
        400,
        'Serving signature name: "nope" not found in signature def',
    )
    status, body = post(server, {"instances": [2.0] * 500_000})
    assert (status, json.loads(body)["predictions"]) == (200, [2.0] * 500_000)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_beyond_the_limit_is_refused(answers, chunked):
    with serving(answers, max_body_bytes=22) as server:
        body = PREDICT + b"Transfer-Encoding: chunked\r\n\r\n17\r\n" + BODY + b"\r\n0\r\n\r\n" if chunked else REQUEST
        response, content, will_close = ask(server, body)
    assert (response.status, will_close) == (413, True)
    assert json.loads(content) == {"error": "Received message larger than max (23 vs. 22)"}


def test_many_clients_get_answers_of_their_own(server):
    with futures.ThreadPoolExecutor(16) as clients:
        bodies = [json.dumps({"instances": [float(number)]}).encode() for number in range(64)]
        answered = list(clients.map(lambda body: post(server, body), bodies))
    expected = [[number / 2 + 1.0] for number in range(64)]
    assert [json.loads(body)["predictions"] for _, body in answered] == expected


def test_a_stop_waits_for_what_is_under_way_and_takes_no_more(answers, tmp_path):
    server = rest_server.serve(answers, Desk(), HttpOptions(host="127.0.0.1"))
    with futures.ThreadPoolExecutor() as clients, connected(server) as idle, connected(server) as slow:
        slow.sendall(PREDICT + b"Expect: 100-continue\r\nContent-Length: 23\r\n\r\n")
        assert slow.recv(4096).startswith(b"HTTP/1.1 100")  # its body is still to come
        under_way = clients.submit(post, server, waiting(tmp_path / "gate"))
        wait_for(tmp_path / "gate.waiting")
        stopping = clients.submit(server.stop, SECONDS)
        assert idle.recv(1) == b""  # a connection without a request is closed at once
        with pytest.raises(ConnectionError):
            socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS)
        assert not stopping.done()
        slow.sendall(BODY)
        assert read_answer(slow)[1:] == (ANSWER, True)
        (tmp_path / "gate").touch()
        assert under_way.result(SECONDS)[0] == 200
        stopping.result(SECONDS)


def test_a_stop_waits_until_the_answer_has_left(answers):
    server = rest_server.serve(answers, Desk(), HttpOptions(host="127.0.0.1"))
    body = json.dumps({"instances": [0.123456789] * 300_000}).encode()
    with futures.ThreadPoolExecutor() as clients, socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(SECONDS)
        slow.connect(("127.0.0.1", server.port))
        slow.sendall(PREDICT + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        first = slow.recv(1)
        stopping = clients.submit(server.stop, SECONDS)
        with pytest.raises(futures.TimeoutError):
            stopping.result(0.3)
        received = first + slow.makefile("rb").read()
        stopping.result(SECONDS)
    head, _, content = received.partition(b"\r\n\r\n")
    assert b"Content-Length: %d" % len(content) in head
    assert len(json.loads(content)["predictions"]) == 300_000


def test_a_stop_answers_what_has_come_in(answers):
    for _ in range(5):
        server = rest_server.serve(answers, Desk(), HttpOptions(host="127.0.0.1"))
        with connected(server) as connection:
            connection.sendall(REQUEST)
            assert read_answer(connection)[1:] == (ANSWER, False)
            connection.sendall(REQUEST)
            stopping = threading.Thread(target=server.stop, args=(SECONDS,))
            stopping.start()
            assert read_answer(connection)[1] == ANSWER
            stopping.join(SECONDS)


def test_a_stop_does_not_wait_longer_than_its_grace(answers, tmp_path):
    server = rest_server.serve(answers, Desk(), HttpOptions(host="127.0.0.1"))
    with futures.ThreadPoolExecutor() as clients:
        under_way = clients.submit(post, server, waiting(tmp_path / "gate"))
        wait_for(tmp_path / "gate.waiting")
        server.stop(0.1)
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            under_way.result(SECONDS)
    (tmp_path / "gate").touch()


def test_a_port_that_is_taken_is_an_error(answers, server):
    with pytest.raises(OSError, match="in use"):
        rest_server.serve(answers, Desk(), HttpOptions(host="127.0.0.1", port=server.port))
    with pytest.raises(ValueError, match="0 threads for REST; expected 1 or more"):
        rest_server.serve(answers, Desk(), HttpOptions(threads=0))


def test_without_a_host_it_listens_on_every_interface(answers):
    server = rest_server.serve(answers, Desk(), HttpOptions())
    for host in ("127.0.0.1", "::1") if socket.has_dualstack_ipv6() else ("127.0.0.1",):
        with socket.create_connection((host, server.port), timeout=SECONDS) as connection:
            connection.sendall(REQUEST)
            assert read_answer(connection)[1] == ANSWER
    server.stop(0)


def test_it_speaks_tls_if_it_is_given_a_context(answers):
    authority = trustme.CA()
    context, trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(trust)
    with serving(answers, ssl_context=context) as server:
        connection = http.client.HTTPSConnection("localhost", server.port, timeout=SECONDS, context=trust)
        connection.request("POST", "/v1/models/p:predict", body=BODY)
        assert connection.getresponse().read() == ANSWER
        connection.close()
