"""The connections to one or several servers: addresses, balancing with health checks, keep-alive, TLS.

Under vit22b.transport, at the end of the walk SavedModel -> server -> client. What gRPC's core does by itself is asked
for here, by channel options and its service config (https://grpc.io/docs/guides/service-config/).
"""

import dataclasses
import ipaddress
import json
import socket
from collections.abc import Sequence
from pathlib import Path

import grpc

_OPTIONS = (
    # gRPC's own limit is 4 MiB, which a batch of photographs or of token outputs passes. -1 is none, as on the server.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # By default a refused connection is not tried again for a second or more, and every retry before that is lost.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Of its own, so that one client's keep-alive is not another's.
    ("grpc.use_local_subchannel_pool", 1),
)
# Requests go to the servers in turn, and to none that says of itself that it does not serve. One without the health
# service counts as serving.
_BALANCED = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}
_LONGEST = 24 * 3600.0  # seconds
_UNACKNOWLEDGED = 20.0  # seconds after which a connection counts as broken, once keep-alive is on

Pem = bytes | str | Path | None


@dataclasses.dataclass(frozen=True)
class Tls:
    """What a client shows and asks for over TLS. PEM texts as bytes, or paths of files with them.

    Attributes:
        root_certificates: that the server's has to be signed by; the ones that gRPC comes with if none are given.
        private_key, certificate_chain: the client's own, for mutual TLS.
        server_name: that the server's certificate has to be for, where it is not the address. Of several servers all
            need a certificate for it, or, if it is not given, for the first address.
    """

    root_certificates: Pem = None
    private_key: Pem = None
    certificate_chain: Pem = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.private_key is None) != (self.certificate_chain is None):
            raise ValueError("mutual TLS needs both a private_key and a certificate_chain; one of them is not given")

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the files.

        Raises:
            OSError: one cannot be read.
        """
        texts = (self.root_certificates, self.private_key, self.certificate_chain)
        return grpc.ssl_channel_credentials(*(_pem(text) for text in texts))


@dataclasses.dataclass(frozen=True)
class Addresses:
    """The servers of a model.

    Attributes:
        given: host:port, or unix:PATH for a single one.
    """

    given: tuple[str, ...]

    def __str__(self) -> str:
        return ",".join(self.given)

    def __len__(self) -> int:
        return len(self.given)

    @classmethod
    def of(cls, addresses: str | Sequence[str]) -> "Addresses":
        """One address, several in a list, or several with commas between them.

        Raises:
            ValueError: an address of another form, or none.
        """
        named = addresses.split(",") if isinstance(addresses, str) else list(addresses)
        named = [address.strip() for address in named]
        for address in named:
            if len(named) > 1 and address.startswith("unix:"):
                raise ValueError(f"{address} is one of {len(named)} addresses; a UNIX socket has to be the only one")
            _check(address)
        if not named:
            raise ValueError("there is no address; expected host:port, for instance localhost:8500")
        return cls(tuple(named))

    def target(self) -> str:
        """What gRPC is to connect to.

        One address it looks up itself, and again when the connections break. Several ones are looked up here; one that
        is not known is left out as long as another is.

        Raises:
            OSError: no name is known.
        """
        if len(self.given) == 1:
            return self.given[0]
        found: list[tuple[_Host, int]] = []
        unknown: OSError | None = None
        for address in self.given:
            try:
                found += _look_up(address)
            except OSError as error:
                unknown = error
        if unknown is not None and not found:
            raise unknown
        # gRPC takes lists of one family alone; a name that has both is reached by either.
        versions = {host.version for host, _ in found}
        version = 4 if 4 in versions else 6
        listed = [_literal(host, port) for host, port in found if host.version == version]
        return f"ipv{version}:" + ",".join(dict.fromkeys(listed))


@dataclasses.dataclass(frozen=True)
class ChannelOptions:
    """How the servers are reached.

    Attributes:
        tls: None for plain connections.
        keep_alive: seconds without traffic after which a connection is tested; None never tests. Servers end
            connections that are tested more often than they allow, which is every 300 s by gRPC's default.
        balance: whether requests go to all servers in turn: several addresses, or all those of one name.
    """

    tls: Tls | None = None
    keep_alive: float | None = 330.0
    balance: bool = False

    def __post_init__(self) -> None:
        if self.keep_alive is not None and not 0 < self.keep_alive < _LONGEST:
            raise ValueError(f"keep_alive is {self.keep_alive}; expected seconds up to a day, or None")


def open_channel(addresses: Addresses, options: ChannelOptions, target: str | None = None) -> grpc.Channel:
    """A channel, which connects at the first call.

    Args:
        addresses: of the servers.
        options: how they are reached.
        target: what the addresses are for gRPC; None to look them up.

    Raises:
        OSError: no name is known, or a file of the TLS cannot be read.
    """
    arguments: list[tuple[str, int | str]] = list(_OPTIONS)
    if options.keep_alive is not None:
        # With it gRPC also gives up a connection whose data nobody acknowledges, half open after a cut cable.
        arguments += [
            ("grpc.keepalive_time_ms", round(options.keep_alive * 1000)),
            ("grpc.keepalive_timeout_ms", round(_UNACKNOWLEDGED * 1000)),
            ("grpc.http2.ping_timeout_ms", round(_UNACKNOWLEDGED * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
        ]
    if options.balance:
        arguments.append(("grpc.service_config", json.dumps(_BALANCED)))
    target = target or addresses.target()
    if options.tls is None:
        return grpc.insecure_channel(target, options=arguments)
    name = options.tls.server_name or (_host(addresses.given[0]) if len(addresses) > 1 else None)
    if name:
        arguments += [("grpc.ssl_target_name_override", name), ("grpc.default_authority", name)]
    return grpc.secure_channel(target, options.tls.credentials(), options=arguments)


def _check(address: str) -> None:
    host, colon, port = address.rpartition(":")
    number = port.isdecimal() and 0 < int(port) < 65536
    if address.startswith("unix:") or (host and colon and number and "/" not in host):
        return
    raise ValueError(f"the address is {address!r}; expected host:port, for instance localhost:8500")


_Host = ipaddress.IPv4Address | ipaddress.IPv6Address


def _look_up(address: str) -> list[tuple[_Host, int]]:
    try:
        found = socket.getaddrinfo(_host(address), address.rpartition(":")[2], type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise OSError(error.errno, f"cannot look up {address}: {error.strerror}") from error
    return [(ipaddress.ip_address(str(where[0]).partition("%")[0]), int(where[1])) for *_, where in found]


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


def _literal(host: _Host, port: int) -> str:
    return f"{host}:{port}" if host.version == 4 else f"[{host}]:{port}"


def _pem(text: Pem) -> bytes | None:
    return Path(text).read_bytes() if isinstance(text, str | Path) else text
