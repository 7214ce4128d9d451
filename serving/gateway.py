"""The gateway: HTTP and JSON for applications, in front of a model server.

    .venv/bin/python serving/gateway.py --address=localhost:8500 --model=digits --port=8080

The last hop but one, SavedModel -> server -> [gateway] -> application: OpenAI's form of embeddings, classification by
the names of classes, label sets, ranking, and a page for people at http://localhost:8080/. The server may be any that
has the signatures, ours or TensorFlow Serving. A line of JSON for each request goes to the standard output. On SIGTERM
requests under way finish. docs/gateway.md has the routes.
"""

import contextlib
import dataclasses
import ipaddress
import logging
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

import prometheus_client
import uvicorn

from serving.gateway_app import Options, application
from serving.gateway_body import Limits
from serving.gateway_door import Door
from serving.json_lines import JsonLines
from serving.keys import KeyFile
from vit22b import program
from vit22b.channel import Tls
from vit22b.client import AsyncClient
from vit22b.transport import TIMEOUT

_BACKLOG = 128  # connections that wait to be accepted

logger = logging.getLogger("serving.gateway")


@dataclasses.dataclass(frozen=True)
class ModelFlags:
    """The server of the model.

    Attributes:
        address: host:port of its gRPC port; of several servers of the same model, all of them.
        model: the name that the model is served under.
        version: a version of it; the latest if not given.
        upstream_key_file: a file that holds the API key for the server, and nothing else.
        upstream_tls: connect to it by TLS.
        upstream_ca: PEM file with the certificates that the server's has to be signed by. Implies upstream_tls.
    """

    address: tuple[str, ...] = ("localhost:8500",)
    model: str = "vit22b"
    version: int | None = None
    upstream_key_file: Path | None = None
    upstream_tls: bool = False
    upstream_ca: Path | None = None

    def client(self, timeout: float) -> AsyncClient:
        """A client of it, with seconds for a request.

        Raises:
            OSError: a file cannot be read.
            ValueError: arguments that cannot be right.
        """
        key = None if self.upstream_key_file is None else self.upstream_key_file.read_text(encoding="utf-8").strip()
        tls = Tls(root_certificates=self.upstream_ca) if self.upstream_tls or self.upstream_ca else None
        return AsyncClient(self.address, self.model, version=self.version, timeout=timeout, tls=tls, api_key=key)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The gateway: HTTP and JSON for applications, in front of a model server.

    Attributes:
        upstream: the server of the model.
        port: to listen on; 0 for a free one.
        bind_address: of this machine, to listen on: 127.0.0.1 for callers on it alone, 0.0.0.0 for all.
        tls_certificate: PEM file with the gateway's certificate; with it the port speaks HTTPS.
        tls_key: PEM file with its key.
        api_keys_file: file of keys that callers need one of; serving/make_key.py writes it.
        classes_dir: directory that label sets are kept in; without it there are none.
        max_pending: requests under way at once; more are answered with 429.
        max_body_bytes: of a request's body; a larger one is answered with 413.
        max_items: texts and images of a request.
        max_classes: class names of a request.
        timeout: seconds that a request may take.
        drain_seconds: that requests under way have to finish on SIGTERM.
        request_log: write a line of JSON for each request to the standard output.
    """

    upstream: ModelFlags = dataclasses.field(default_factory=ModelFlags)
    port: int = 8080
    bind_address: str = "127.0.0.1"
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    api_keys_file: Path | None = None
    classes_dir: Path | None = None
    max_pending: int = 32
    max_body_bytes: int = Limits.body_bytes
    max_items: int = Limits.items
    max_classes: int = Limits.classes
    timeout: float = TIMEOUT
    drain_seconds: int = 30
    request_log: bool = True

    def __post_init__(self) -> None:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("HTTPS needs both --tls_certificate and --tls_key; one of them is not given")
        for name in ("max_pending", "max_body_bytes", "max_items", "max_classes", "timeout", "drain_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"--{name} is {getattr(self, name)}; expected more than 0")


def main(arguments: Arguments) -> int:
    """Serves until a signal, and drains; the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    prometheus_client.disable_created_metrics()  # a series for each series, of no use here
    client = arguments.upstream.client(arguments.timeout)
    options = Options(
        limits=Limits(arguments.max_body_bytes, arguments.max_items, arguments.max_classes),
        max_pending=arguments.max_pending,
        timeout=arguments.timeout,
        classes_dir=arguments.classes_dir,
        keys=None if arguments.api_keys_file is None else KeyFile(arguments.api_keys_file),
    )
    with _listen(arguments) as listening, contextlib.ExitStack() as stack:
        if arguments.request_log:
            lines = JsonLines(sys.stdout)
            stack.callback(lines.close)
            options = dataclasses.replace(options, lines=lines)
        app = application(client, options, arguments.upstream.version)
        signal.signal(signal.SIGTERM, _stop)
        uvicorn.Server(config(app, arguments)).run(sockets=[listening])
    return 0


def _listen(arguments: Arguments) -> socket.socket:
    """The port, which takes connections from here on, and is told in the log."""
    family = socket.AF_INET6 if ":" in arguments.bind_address else socket.AF_INET
    listening = socket.create_server((arguments.bind_address, arguments.port), family=family, backlog=_BACKLOG)
    host, port = listening.getsockname()[:2]
    scheme = "https" if arguments.tls_certificate else "http"
    shown = f"[{host}]" if ":" in host else host
    logger.info("The gateway of %s is at %s://%s:%d", arguments.upstream.model, scheme, shown, port)
    if arguments.api_keys_file is None and not ipaddress.ip_address(host).is_loopback:
        logger.warning("Whoever reaches this port may use it; --api_keys_file asks for keys")
    return listening


def _stop(*_: object) -> NoReturn:
    """Ends the program, before uvicorn runs, and once it has drained: then it raises the signal once more."""
    sys.exit(0)


def config(app: Door, arguments: Arguments) -> uvicorn.Config:
    """How uvicorn serves an application."""
    return uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=arguments.drain_seconds,
        ssl_certfile=arguments.tls_certificate,
        ssl_keyfile=arguments.tls_key,
    )


if __name__ == "__main__":
    program.run(main, Arguments, __doc__)
