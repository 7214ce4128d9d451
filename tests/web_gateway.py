"""A gateway on a real port, and requests to it, for the tests."""

import base64
import contextlib
import dataclasses
import http.client
import json
import socket
import threading
import uuid
from collections.abc import Iterator, Sequence

import uvicorn

from serving import gateway
from serving.gateway_app import Options, application
from tests import web_api
from tests.waiting import until
from vit22b.client import AsyncClient
from vit22b.retry import Retry

SECONDS = 60  # that anything is waited for


class Lines:
    """A log of requests that is kept."""

    def __init__(self) -> None:
        self.entries: list[dict] = []

    def put(self, entry: dict) -> None:
        self.entries.append(entry)


@dataclasses.dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self) -> dict:
        return self.json["error"]


@dataclasses.dataclass(frozen=True)
class Gateway:
    """A gateway that listens on a port of this machine."""

    port: int
    lines: Lines
    server: uvicorn.Server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)

    def send(self, method: str, path: str, body=None, headers: dict | None = None) -> Answer:
        """Sends a request; a body that is no bytes goes as JSON."""
        headers = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, path, body, headers)
            return self.answer(method, path, connection.getresponse())

    def answer(self, method: str, path: str, response: http.client.HTTPResponse) -> Answer:
        """Reads an answer, and holds it to the OpenAPI document."""
        found = Answer(response.status, response.headers, response.read())
        web_api.check(method, path, found.status, found.headers.get("Content-Type", ""), found.body)
        return found

    def get(self, path: str, **headers: str) -> Answer:
        return self.send("GET", path, headers=headers)

    def post(self, path: str, body, **headers: str) -> Answer:
        return self.send("POST", path, body, headers)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's series that have these labels."""
        total = 0.0
        for line in self.get("/metrics").body.decode().splitlines():
            series, _, value = line.rpartition(" ")
            if series.partition("{")[0] == f"vit22b_gateway_{name}" and all(
                f'{label}="{text}"' in series for label, text in labels.items()
            ):
                total += float(value)
        return total


def data_uri(encoded: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(encoded).decode()}"


def form(fields: Sequence[tuple[str, str | bytes]]) -> tuple[bytes, dict[str, str]]:
    """A multipart body, bytes as files, and its header."""
    boundary = uuid.uuid4().hex
    parts = []
    for name, value in fields:
        file = '; filename="image"\r\nContent-Type: application/octet-stream' if isinstance(value, bytes) else ""
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        parts += [head.encode(), value if isinstance(value, bytes) else value.encode(), b"\r\n"]
    parts.append(f"--{boundary}--\r\n".encode())
    return b"".join(parts), {"Content-Type": f"multipart/form-data; boundary={boundary}"}


@contextlib.contextmanager
def serve(address: str, model: str = "vit22b", version: int | None = None, **options) -> Iterator[Gateway]:
    """A gateway in front of a model server, in a thread of this process, until the end of the block."""
    lines = Lines()
    timeout = options.get("timeout", 20.0)
    retry = Retry(attempts=3, first_pause=0.01, longest_pause=0.05)
    client = AsyncClient(address, model, version=version, timeout=timeout, retry=retry)
    app = application(client, Options(lines=lines, **options), version)
    server = uvicorn.Server(gateway.config(app, gateway.Arguments(drain_seconds=30)))
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        until(lambda: server.started)
        yield Gateway(listening.getsockname()[1], lines, server)
    finally:
        server.should_exit = True
        thread.join(SECONDS)
        assert not thread.is_alive()
