"""What every request to the gateway passes: an id, keys, bounds, a deadline, the log; and callers who hang up."""

import contextlib
import dataclasses
import http.client
import json
import socket
import threading

import pytest

from serving import keys
from serving.gateway_body import Limits
from serving.keys import KeyFile, line, make_key
from tests import web_gateway
from tests.standin import StandIn, serve
from tests.waiting import until
from tests.web_gateway import SECONDS, form

RED = {"input": "a red"}


@pytest.fixture
def key(tmp_path):
    made = make_key()
    (tmp_path / "keys").write_text(line("alice", made))
    return made


@pytest.fixture(scope="module")
def gateway():
    limits = Limits(body_bytes=2000, items=3, classes=4)
    with serve(StandIn()) as standin, web_gateway.serve(standin.address, limits=limits) as opened:
        yield opened


@dataclasses.dataclass
class Held(StandIn):
    """A stand-in that lets requests wait until the end of the test."""

    hold: bool = False
    held: int = 0
    released: threading.Event = dataclasses.field(default_factory=threading.Event)

    def predict(self, request, context):
        if self.hold:
            self.held += 1
            self.released.wait(SECONDS)
        return super().predict(request, context)


@pytest.fixture
def holding():
    """A stand-in that holds what it is asked once `hold` is set."""
    standin = Held()
    with serve(standin):
        yield standin
        standin.released.set()


@contextlib.contextmanager
def held(gateway, standin):
    """A connection with a request that waits for the model."""
    standin.hold = True
    with contextlib.closing(gateway.connect()) as connection:
        connection.request("POST", "/v1/embeddings", json.dumps(RED), {"Content-Type": "application/json"})
        until(lambda: standin.held)
        yield connection


def test_an_id_is_taken_or_made_and_given_back(gateway):
    assert gateway.post("/v1/embeddings", RED, **{"X-Request-Id": "job-7:3"}).headers["x-request-id"] == "job-7:3"
    made = {gateway.get("/healthz").headers["x-request-id"] for _ in range(3)}
    assert len(made) == 3
    for wrong in ("a b", "x" * 129, 'say "hi"', ""):
        assert gateway.get("/healthz", **{"X-Request-Id": wrong}).headers["x-request-id"] != wrong


def test_a_request_is_a_line_of_the_log(gateway):
    gateway.lines.entries.clear()
    gateway.post("/v1/embeddings", {"input": ["a red", "data:,"], "on_error": "skip"}, **{"X-Request-Id": "seven"})
    until(lambda: gateway.lines.entries)
    (entry,) = gateway.lines.entries
    assert entry.pop("time").endswith("+00:00")
    assert 0 < entry.pop("ms") < 60_000
    assert entry == {
        "id": "seven",
        "method": "POST",
        "path": "/v1/embeddings",
        "code": 200,
        "error": None,
        "items": 2,
        "failed": 1,
        "version": 1,
        "user": None,
        "peer": "127.0.0.1",
    }
    gateway.post("/v1/embeddings", {"inputs": "a"})
    until(lambda: len(gateway.lines.entries) == 2)
    assert (gateway.lines.entries[1]["code"], gateway.lines.entries[1]["error"]) == (400, "unknown_field")


def test_requests_are_counted_by_route_and_code(gateway):
    before = gateway.metric("requests_total", route="/v1/classes/{name}", code="404")
    gateway.get("/v1/classes/one")
    gateway.get("/v1/classes/two/three")
    gateway.send("BREW", "/coffee")
    assert gateway.metric("requests_total", route="/v1/classes/{name}", code="501") >= 1
    assert gateway.metric("requests_total", route="/v1/classes/{name}", code="404") == before
    assert gateway.metric("requests_total", route="(none)", method="(none)", code="404") == 1
    assert gateway.metric("request_seconds_count", route="/v1/classes/{name}") >= 1


def test_without_a_key_only_the_open_pages_are_shown(standin, key, tmp_path):
    with web_gateway.serve(standin.address, keys=KeyFile(tmp_path / "keys")) as gateway:
        for path in ("/", "/page.js", "/healthz", "/readyz", "/metrics", "/openapi.json"):
            assert gateway.get(path).status == 200
        for headers in ({}, {"Authorization": "Bearer nobodys"}, {"Authorization": f"Basic {key}"}, {"X-Api-Key": "x"}):
            for path in ("/v1/models", "/v1/classes", "/v1/nothing"):
                answer = gateway.get(path, **headers)
                assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
                assert answer.headers["WWW-Authenticate"] == "Bearer"
        for headers in ({"Authorization": f"Bearer {key}"}, {"X-Api-Key": key}):
            assert gateway.post("/v1/embeddings", RED, **headers).status == 200
        until(lambda: gateway.lines.entries[-1]["code"] == 200)
        assert gateway.lines.entries[-1]["user"] == "alice"
        assert key not in json.dumps(gateway.lines.entries)


def test_a_key_that_is_taken_back_opens_no_more(standin, key, tmp_path, monkeypatch):
    monkeypatch.setattr(keys, "_LOOK", 0)
    with web_gateway.serve(standin.address, keys=KeyFile(tmp_path / "keys")) as gateway:
        assert gateway.get("/v1/models", Authorization=f"Bearer {key}").status == 200
        (tmp_path / "keys").write_text(line("bob", make_key()) + "\n")
        assert gateway.get("/v1/models", Authorization=f"Bearer {key}").status == 401


def test_a_request_without_a_key_is_refused_before_its_body_is_read(standin, key, tmp_path):
    assert key
    with web_gateway.serve(standin.address, keys=KeyFile(tmp_path / "keys")) as gateway:
        assert announced(gateway, "Content-Length: 1000000") == 401


def announced(gateway, *headers, body=b""):
    """The status of a request whose body does not come, or not whole."""
    lines = ["POST /v1/embeddings HTTP/1.1", "Host: h", "Content-Type: application/json", *headers, "", ""]
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=SECONDS) as connection:
        connection.sendall("\r\n".join(lines).encode() + body)
        response = http.client.HTTPResponse(connection, method="POST")
        response.begin()
        return response.status


def test_a_body_that_says_it_is_too_large_is_not_waited_for(gateway):
    assert announced(gateway, "Content-Length: 2001") == 413
    # 100 Continue would ask for it.
    assert announced(gateway, "Content-Length: 2001", "Expect: 100-continue") == 413


def test_a_body_that_does_not_say_how_large_it_is_is_read_no_further_than_the_bound(gateway):
    assert announced(gateway, "Transfer-Encoding: chunked", body=b"7d1\r\n" + b" " * 2001 + b"\r\n") == 413


def test_a_body_that_is_too_large_is_refused_and_the_connection_goes_on(gateway):
    with contextlib.closing(gateway.connect()) as connection:
        for body, status in ((b" " * 300_000, 413), (json.dumps(RED).encode(), 200)):
            connection.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            assert response.status == status
            content = response.read()
            assert status == 200 or "at most 2000 bytes" in json.loads(content)["error"]["message"]
    body, headers = form([("images", b" " * 3000), ("classes", "a")])
    assert gateway.send("POST", "/v1/classify", body, headers).status == 413


def test_bounds_of_items_and_classes_are_kept(gateway):
    def code(path, body):
        return gateway.post(path, body).error["code"]

    assert code("/v1/embeddings", {"input": ["a"] * 4}) == "too_many_items"
    assert code("/v1/rank", {"query": "a", "items": ["a"] * 4}) == "too_many_items"
    assert code("/v1/classify", {"images": ["data:,"] * 4, "classes": ["a"]}) == "too_many_items"
    assert code("/v1/classify", {"images": ["data:,"], "classes": list("abcde")}) == "too_many_items"
    body, headers = form([("images", b"x")] * 4 + [("classes", "a"), ("classes", "b")])
    assert gateway.send("POST", "/v1/classify", body, headers).error["code"] == "too_many_items"


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_a_body_of_another_content_type_is_refused(gateway, content_type):
    answer = gateway.send("POST", "/v1/embeddings", b'{"input": "a red"}', {"Content-Type": content_type})
    assert (answer.status, answer.error["code"]) == (415, "unsupported_content_type")
    assert "expected application/json" in answer.error["message"]


def test_a_compressed_body_is_refused(gateway):
    answer = gateway.post("/v1/embeddings", RED, **{"Content-Encoding": "gzip"})
    assert (answer.status, answer.error["code"]) == (415, "unsupported_content_encoding")


def test_more_requests_than_may_be_under_way_are_told_to_come_again(holding):
    with web_gateway.serve(holding.address, max_pending=1) as gateway:
        gateway.get("/v1/models")
        with held(gateway, holding) as connection:
            answer = gateway.post("/v1/embeddings", RED)
            assert (answer.status, answer.error["code"]) == (429, "too_many_requests")
            assert (answer.error["type"], answer.headers["Retry-After"]) == ("rate_limit_error", "1")
            assert gateway.get("/healthz").status == 200
            assert gateway.metric("pending_requests") == 1
            holding.released.set()
            assert connection.getresponse().status == 200
        assert gateway.post("/v1/embeddings", RED).status == 200
        assert gateway.metric("pending_requests") == 0


def test_a_caller_who_hangs_up_frees_its_place(holding):
    with web_gateway.serve(holding.address, max_pending=1) as gateway:
        gateway.get("/v1/models")
        with held(gateway, holding):
            pass
        until(lambda: gateway.metric("pending_requests") == 0)
        assert gateway.metric("requests_total", route="/v1/embeddings", code="499") == 1
        assert [entry["code"] for entry in gateway.lines.entries if entry["method"] == "POST"] == [499]
        holding.released.set()
        assert gateway.post("/v1/embeddings", RED).status == 200


def test_a_caller_who_hangs_up_with_half_a_body_is_forgotten(gateway):
    gateway.lines.entries.clear()
    text = "POST /v1/embeddings HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=SECONDS) as connection:
        connection.sendall(text.encode())
        until(lambda: gateway.metric("pending_requests") == 1)
    until(lambda: any(entry["code"] == 499 for entry in gateway.lines.entries))


def test_a_request_ends_at_its_deadline(holding):
    with web_gateway.serve(holding.address) as gateway:
        gateway.get("/v1/models")
        holding.hold = True
        answer = gateway.post("/v1/embeddings", RED, **{"X-Request-Timeout": "0.2"})
        assert (answer.status, answer.error["code"]) == (504, "timeout")
        assert "0.2 seconds" in answer.error["message"]
        assert announced(gateway, "Content-Length: 10", "X-Request-Timeout: 0.2") == 408
    with web_gateway.serve(holding.address, timeout=0.3) as gateway:
        assert gateway.post("/v1/embeddings", RED, **{"X-Request-Timeout": "1e9"}).status == 504


def test_a_request_that_needs_no_body_is_not_told_that_it_did_not_come(holding):
    holding.hold = True
    with web_gateway.serve(holding.address) as gateway:
        answer = gateway.get("/v1/models", **{"X-Request-Timeout": "0.2"})
        assert (answer.status, answer.error["code"]) == (504, "timeout")
        # Nor is the caller of a route that reads one, who has sent none.
        answer = gateway.send("POST", "/v1/embeddings", None, {"Content-Type": "application/json"})
        assert (answer.status, answer.error["code"]) == (400, "invalid_json")


def test_a_caller_without_a_body_who_hangs_up_frees_its_place(holding):
    holding.hold = True
    with web_gateway.serve(holding.address) as gateway:
        with contextlib.closing(gateway.connect()) as connection:
            connection.request("GET", "/v1/models")
            until(lambda: holding.held)
        until(lambda: gateway.metric("requests_total", route="/v1/models", code="499") == 1)
        assert gateway.metric("pending_requests") == 0


@pytest.mark.parametrize("wrong", ["soon", "0", "-1", "nan", ""])
def test_a_deadline_that_is_none_is_refused(gateway, wrong):
    answer = gateway.post("/v1/embeddings", RED, **{"X-Request-Timeout": wrong})
    assert (answer.status, answer.error["param"]) == (400, "x-request-timeout")


def test_a_defect_is_an_error_in_the_same_form_and_is_logged(standin, monkeypatch, caplog):
    with web_gateway.serve(standin.address) as gateway:
        gateway.get("/v1/models")
        monkeypatch.setattr("serving.gateway_embeddings.read_items", lambda *_: 1 // 0)
        with contextlib.closing(gateway.connect()) as connection:
            headers = {"Content-Type": "application/json", "X-Request-Id": "the-bad-one"}
            connection.request("POST", "/v1/embeddings", json.dumps(RED), headers)
            response = connection.getresponse()
            error = json.loads(response.read())["error"]
        assert (response.status, error["type"], error["code"]) == (500, "server_error", "internal_error")
        assert "ZeroDivisionError" not in json.dumps(error)
        until(lambda: "ZeroDivisionError" in caplog.text)
        assert "the-bad-one" in caplog.text


def test_the_page_may_load_nothing_from_elsewhere(gateway):
    for path in ("/", "/page.js", "/api.js", "/results.js", "/page.css", "/icon.svg"):
        answer = gateway.get(path)
        assert answer.status == 200
        assert answer.headers["Content-Security-Policy"].startswith(
            "default-src 'none'; script-src 'self'; style-src 'self';"
        )
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert b"unsafe" not in answer.body
        assert b"://" not in answer.body.replace(b"http://www.w3.org/2000/svg", b"")
