"""The ports of a server: gRPC over TCP and over a UNIX socket, the administrators', REST; opened and closed together.

Between model_server.py and the two wires, gRPC's and HTTP's, on the way SavedModel -> server -> [ports] -> client.
Which port is open under which flag, and what is said of one that cannot be opened, is TensorFlow Serving's.
"""

import logging
import re
import threading
import time
from typing import Protocol

import grpc
import tensorflow as tf

from serving import grpc_server, tls
from serving.answers import Answers
from serving.desk import Desk
from serving.flags import Flags
from serving.health import Health
from serving.operations import Pages
from serving.server_config_pb2 import SSLConfig
from serving.services import Reload, Services
from serving.status import invalid
from serving.text_protos import read_text_proto

_RECEIVE = "grpc.max_receive_message_length"
_NUMBER = re.compile(r"-?[0-9]+")
_INT32_DIGITS = 10

logger = logging.getLogger(__name__)


class RestPort(Protocol):
    """What rest_server.serve returns."""

    port: int

    def stop(self, grace: float) -> None:
        """Takes no more connections, and returns when those that are there have ended or the grace has."""


class Ports:
    """The open ports."""

    def __init__(self, flags: Flags, answers: Answers, desk: Desk, reload: Reload, pages: Pages):
        """Checks the certificates and the arguments; `open` opens.

        Args:
            flags: what is opened, and how.
            answers: to every method.
            desk: that every request passes.
            reload: what HandleReloadConfigRequest does.
            pages: that the REST port shows besides its API.

        Raises:
            tf.errors.OpError: a certificate is of no use, an argument makes no sense.
        """
        self._flags = flags
        self._answers, self._desk, self._reload, self._pages = answers, desk, reload, pages
        self._ssl_config = read_text_proto(flags.ssl_config_file, SSLConfig()) if flags.ssl_config_file else None
        self._credentials = _credentials(flags, self._ssl_config)
        self._arguments = channel_arguments(flags.grpc_channel_arguments)
        if flags.max_message_bytes:
            self._arguments[_RECEIVE] = flags.max_message_bytes
        self._health = Health() if flags.enable_grpc_healthcheck_service else None
        self._servers: list[tuple[grpc.Server, Services]] = []
        self._rest: RestPort | None = None

    def open(self) -> None:
        """Opens what the flags ask for.

        Raises:
            tf.errors.InvalidArgumentError: a gRPC address is taken. A REST port that is taken is only logged, as in
                TensorFlow Serving.
        """
        flags, host = self._flags, self._flags.bind_address or "0.0.0.0"
        addresses = [address(flags.bind_address, flags.port)] if flags.port else []
        if flags.grpc_socket_path:
            addresses.append(f"unix:{flags.grpc_socket_path}")
        self._listen(addresses, admin=False)
        if flags.port:
            logger.info("Running gRPC ModelServer at %s:%d ...", host, flags.port)
        if flags.grpc_socket_path:
            logger.info("Running gRPC ModelServer at UNIX socket %s ...", flags.grpc_socket_path)
        if flags.admin_port:
            self._listen([address(flags.bind_address, flags.admin_port)], admin=True)
            logger.info("Reloads are taken at %s:%d alone", host, flags.admin_port)
        self._open_rest()

    def stop(self, grace: float) -> None:
        """Says NOT_SERVING, takes no more requests, and returns when those under way have ended or the grace has.

        The gRPC ports close at once, so that clients turn to another server. Only with the health service they stay
        open until the end, to be asked for it, and refuse other calls.
        """
        end = time.monotonic() + grace
        if self._health is None:
            self._stop_grpc(end)
        else:
            self._health.end()
            for _, services in self._servers:
                services.slots.close()
        if self._rest is not None:
            self._rest.stop(grace)
        for _, services in self._servers:
            services.slots.wait(end)
        for ended in self._stop_grpc(end):
            ended.wait()

    def _stop_grpc(self, end: float) -> list[threading.Event]:
        """Closes the ports, and at `end` the calls that are still under way."""
        return [server.stop(max(0.0, end - time.monotonic())) for server, _ in self._servers]

    def _listen(self, addresses: list[str], *, admin: bool) -> None:
        limit = self._flags.grpc_max_threads - 1
        services = Services(self._answers, self._desk, limit, self._reload, admin=admin)
        try:
            server, _ = grpc_server.serve(
                services,
                address=",".join(addresses),
                health=self._health,
                credentials=self._credentials,
                arguments=self._arguments,
            )
        except OSError as error:
            logger.error("%s", error)
            self.stop(0)
            raise _failed() from error
        self._servers.append((server, services))

    def _open_rest(self) -> None:
        flags = self._flags
        if not flags.rest_api_port:
            return
        if flags.rest_api_port == flags.port:
            logger.error(
                "server_options.http_port cannot be same as grpc_port. Please use a different port for HTTP/REST API. "
                "Skipped exporting HTTP/REST API."
            )
            return
        from serving import rest_server

        host = flags.bind_address or "localhost"
        try:
            self._rest = rest_server.serve(
                self._answers,
                self._desk,
                rest_server.HttpOptions(
                    port=flags.rest_api_port,
                    host=flags.bind_address,
                    threads=flags.rest_api_num_threads,
                    timeout=flags.rest_api_timeout_in_ms / 1000,
                    cors=flags.rest_api_enable_cors_support,
                    max_body_bytes=flags.max_message_bytes,
                    ssl_context=tls.ssl_context(self._ssl_config) if self._ssl_config and flags.rest_ssl else None,
                    pages=self._pages,
                ),
            )
        except OSError as error:
            logger.error("Failed to start HTTP Server at %s:%d: %s", host, flags.rest_api_port, error)
        else:
            logger.info("Exporting HTTP/REST API at:%s:%d ...", host, flags.rest_api_port)


def address(host: str, port: int) -> str:
    """Where gRPC listens, as it wants it: with an empty host at every interface, of IPv6 and of IPv4."""
    host = host or "::"
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def channel_arguments(text: str) -> dict[str, int | str]:
    """The arguments of --grpc_channel_arguments: a value that is a whole number is one, any other a text.

    Raises:
        tf.errors.InvalidArgumentError: an argument has no value, with which TensorFlow Serving crashes, or is a number
            that gRPC does not hold, which there becomes a text without effect.
    """
    arguments: dict[str, int | str] = {}
    for argument in filter(None, text.split(",")):
        name, equals, value = argument.partition("=")
        if not name or not equals:
            raise invalid(f"--grpc_channel_arguments has {argument!r}; expected name=value,name=value")
        arguments[name] = _number(name, value) if _NUMBER.fullmatch(value) else value
    if arguments.pop(_RECEIVE, None) is not None:
        # There, too, it does nothing.
        logger.warning("--grpc_channel_arguments: %s has no effect; --max_message_bytes has", _RECEIVE)
    return arguments


def _number(name: str, text: str) -> int:
    # The digits first: int() raises on some thousands of them.
    if len(text.lstrip("-0")) > _INT32_DIGITS or not -(2**31) <= int(text) < 2**31:
        raise invalid(f"--grpc_channel_arguments: {name} is {text[:40]}; expected -2147483648 to 2147483647")
    return int(text)


def _credentials(flags: Flags, ssl_config: SSLConfig | None) -> grpc.ServerCredentials | None:
    if flags.use_alts_credentials:
        logger.info("Using ALTS credentials")
        return grpc.alts_server_credentials()
    if ssl_config is None:
        logger.info("Using InsecureServerCredentials")
        return None
    logger.info("Using SSL credentials")
    try:
        return tls.grpc_credentials(ssl_config)
    except tf.errors.InvalidArgumentError as error:
        logger.error("%s", error.message)
        raise _failed() from error


def _failed() -> tf.errors.InvalidArgumentError:
    """All that TensorFlow Serving says of a gRPC port that it cannot open; the log has the cause."""
    return invalid("Failed to BuildAndStart gRPC server")
