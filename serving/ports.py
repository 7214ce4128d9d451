"""The ports of a server: gRPC over TCP and over a UNIX socket, the administrators', REST; opened and closed together.

The last step before a client on the way SavedModel -> server -> [ports] -> client. Which port is open under which flag,
and what is said of one that cannot be opened, is TensorFlow Serving's.
"""

import dataclasses
import logging
import re
from typing import Protocol

import grpc
import tensorflow as tf

from serving import grpc_server, tls
from serving.answers import Answers
from serving.desk import Desk
from serving.flags import Flags
from serving.health import Health
from serving.reception import Pages
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


@dataclasses.dataclass(frozen=True)
class Front:
    """What the ports serve.

    Attributes:
        answers: to every method.
        desk: that every request passes.
        reload: what HandleReloadConfigRequest does.
        pages: that the REST port shows besides its API.
    """

    answers: Answers
    desk: Desk
    reload: Reload
    pages: Pages


class Ports:
    """The open ports."""

    def __init__(self, options: Flags, front: Front):
        """None is open yet.

        Raises:
            tf.errors.OpError: a certificate is of no use, an argument makes no sense.
        """
        self._options = options
        self._front = front
        self._ssl_config = read_text_proto(options.ssl_config_file, SSLConfig()) if options.ssl_config_file else None
        self._credentials = _credentials(options, self._ssl_config)
        self._arguments = channel_arguments(options.grpc_channel_arguments)
        if options.max_message_bytes:
            self._arguments[_RECEIVE] = options.max_message_bytes
        self._health = Health() if options.enable_grpc_healthcheck_service else None
        self._servers: list[grpc.Server] = []
        self._rest: RestPort | None = None

    def open(self) -> None:
        """Opens what the flags ask for.

        Raises:
            tf.errors.InvalidArgumentError: a gRPC address is taken. A REST port that is taken is only logged, as in
                TensorFlow Serving.
        """
        options, host = self._options, self._options.bind_address or "0.0.0.0"
        addresses = [address(options.bind_address, options.port)] if options.port else []
        if options.grpc_socket_path:
            addresses.append(f"unix:{options.grpc_socket_path}")
        self._listen(addresses, admin=False)
        if options.port:
            logger.info("Running gRPC ModelServer at %s:%d ...", host, options.port)
        if options.grpc_socket_path:
            logger.info("Running gRPC ModelServer at UNIX socket %s ...", options.grpc_socket_path)
        if options.admin_port:
            self._listen([address(options.bind_address, options.admin_port)], admin=True)
            logger.info("Reloads are taken at %s:%d alone", host, options.admin_port)
        self._open_rest()

    def stop(self, grace: float) -> None:
        """Takes no more requests, says NOT_SERVING, and returns when those under way have ended or the grace has."""
        ended = [server.stop(grace) for server in self._servers]
        if self._health is not None:
            self._health.end()
        if self._rest is not None:
            self._rest.stop(grace)
        for event in ended:
            event.wait()

    def _listen(self, addresses: list[str], *, admin: bool) -> None:
        options, front = self._options, self._front
        try:
            server, _ = grpc_server.serve(
                Services(front.answers, front.desk, options.grpc_max_threads - 1, front.reload, admin=admin),
                address=",".join(addresses),
                health=self._health,
                credentials=self._credentials,
                arguments=self._arguments,
            )
        except OSError as error:
            logger.error("%s", error)
            self.stop(0)
            raise _failed() from error
        self._servers.append(server)

    def _open_rest(self) -> None:
        options, front = self._options, self._front
        if not options.rest_api_port:
            return
        if options.rest_api_port == options.port:
            logger.error(
                "server_options.http_port cannot be same as grpc_port. Please use a different port for HTTP/REST API. "
                "Skipped exporting HTTP/REST API."
            )
            return
        from serving import rest_server

        host = options.bind_address or "localhost"
        try:
            self._rest = rest_server.serve(
                front.answers,
                front.desk,
                rest_server.Options(
                    port=options.rest_api_port,
                    host=options.bind_address,
                    threads=options.rest_api_num_threads,
                    timeout=options.rest_api_timeout_in_ms / 1000,
                    cors=options.rest_api_enable_cors_support,
                    max_body_bytes=options.max_message_bytes,
                    ssl_context=tls.ssl_context(self._ssl_config) if self._ssl_config and options.rest_ssl else None,
                    pages=front.pages,
                ),
            )
        except OSError as error:
            logger.error("Failed to start HTTP Server at %s:%d: %s", host, options.rest_api_port, error)
        else:
            logger.info("Exporting HTTP/REST API at:%s:%d ...", host, options.rest_api_port)


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


def _credentials(options: Flags, ssl_config: SSLConfig | None) -> grpc.ServerCredentials | None:
    if options.use_alts_credentials:
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
