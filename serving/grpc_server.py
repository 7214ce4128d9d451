"""A gRPC server on one or several addresses: its threads, its options, its start.

Under services.py and health.py on the way SavedModel -> server -> [gRPC] -> client; ports.py opens one for each of the
server's ports.
"""

from collections.abc import Mapping
from types import MappingProxyType

import grpc

from serving.health import Health
from serving.services import Services
from serving.thread_pool import full_pool

MAX_MESSAGE_LENGTH = 2**31 - 1


def serve(
    services: Services,
    *,
    address: str,
    health: Health | None = None,
    credentials: grpc.ServerCredentials | None = None,
    arguments: Mapping[str, int | str] = MappingProxyType({}),
) -> tuple[grpc.Server, int]:
    """Opens a port, or a UNIX socket, and starts to answer.

    Args:
        services: what is served.
        address: host:port or unix:path, or several with commas; port 0 takes a free one.
        health: served too, if given.
        credentials: for TLS; without it the port is plain.
        arguments: of gRPC's channels, besides those that are set here.

    Returns:
        The server and the port that it is bound to; of several addresses the first one's.

    Raises:
        OSError: an address cannot be bound, for instance because it is in use.
    """
    options: dict[str, int | str] = {
        "grpc.max_receive_message_length": MAX_MESSAGE_LENGTH,
        "grpc.max_send_message_length": MAX_MESSAGE_LENGTH,
        "grpc.so_reuseport": 0,  # a port that another server holds is an error, not shared
    }
    # A thread for each call that may wait for its request or be computed, and one more, so that there is always one to
    # refuse with.
    threads = services.threads + (health.threads if health else 0) + 1
    server = grpc.server(full_pool(threads, "grpc"), options=list({**options, **arguments}.items()))
    server.add_generic_rpc_handlers([health, services] if health else [services])
    try:
        ports = [
            server.add_secure_port(one, credentials) if credentials else server.add_insecure_port(one)
            for one in address.split(",")
        ]
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}") from error
    server.start()
    return server, ports[0]
