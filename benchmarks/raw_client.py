"""A client that sends bytes and takes bytes, over gRPC and over HTTP, right or wrong.

The other end of the walk SavedModel -> server -> [client], for programs that test and load a server: it costs little
beside the server that it asks, it can send what no true client would, and it tells an answer of the server's from the
lack of one. Users have vit22b/client.py.
"""

import base64
import dataclasses
import http.client
import select
import socket
from collections.abc import Mapping
from concurrent import futures
from types import MappingProxyType
from typing import Any

import grpc
import numpy.typing as npt

PREDICTION, MODEL = "/tensorflow.serving.PredictionService/", "/tensorflow.serving.ModelService/"
LOST = "LOST"  # the code of a request that was neither answered nor refused
_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own for every channel
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
# UNAVAILABLE is the server's word where a queue of the graph is full; all else that has this code, the client's gRPC
# says of a connection that is gone.
_FULL = "queue"
_A_MOMENT = 0.5  # seconds


@dataclasses.dataclass(frozen=True)
class Reply:
    """What became of a request.

    Attributes:
        code: OK or the name of gRPC's status; or the status of HTTP, as text; or LOST.
        content: the answer, or the body of HTTP.
        text: what the status says besides.
        headers: of HTTP, by lower-case name.
    """

    code: str
    content: bytes = b""
    text: str = ""
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Grpc:
    """One connection over gRPC, for any number of threads."""

    def __init__(self, address: str):
        """Connects at the first call to address, host:port."""
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)

    def begin(self, path: str, content: bytes, timeout: float | None = None) -> grpc.Future:
        """Sends a request; `timeout` seconds is the deadline that the server is told."""
        return self._channel.unary_unary(path).future(content, timeout=timeout)

    def send(self, path: str, content: bytes, timeout: float | None = None, patience: float | None = None) -> Reply:
        """Sends a request and waits; `patience` is how long in seconds, and no deadline that the server knows of."""
        call = self.begin(path, content, timeout)
        try:
            return Reply("OK", call.result(patience))
        except grpc.FutureTimeoutError:
            call.cancel()
            return Reply(LOST, text=f"no answer in {patience:g} s")
        except (grpc.RpcError, futures.CancelledError, grpc.FutureCancelledError):
            return _failed(call)

    def call(self, path: str, content: bytes) -> bool:
        """Sends a request and waits as long as it takes, at the least cost; whether it was answered."""
        try:
            self._channel.unary_unary(path)(content)
        except grpc.RpcError:
            return False
        return True

    def close(self) -> None:
        """Ends the connection, and the calls on it."""
        self._channel.close()


def _failed(call: grpc.Call) -> Reply:
    code, text = call.code().name, call.details() or ""
    if code == "UNAVAILABLE" and _FULL not in text:
        return Reply(LOST, text=text)
    return Reply(code, text=text)


class Http:
    """One connection over HTTP/1.1, for one thread. It connects when it has to, and again after an end."""

    def __init__(self, address: str, patience: float):
        """Takes the address, host:port, and how many seconds to wait for an answer."""
        host, _, port = address.rpartition(":")
        self._address = host, int(port)
        self._patience = patience
        self._socket: socket.socket | None = None

    def send(self, content: bytes, method: str = "POST", *, whole: bool = True) -> Reply:
        """Sends bytes, a request or not, and waits for one answer.

        Args:
            content: as `request` makes it.
            method: that it has; an answer to HEAD would have no body.
            whole: whether it is a whole request. Where it may be none, and the server waits for the rest, it is told
                after a moment that there is no more.
        """
        try:
            if self._socket is None:
                self._socket = socket.create_connection(self._address, self._patience)
            self._socket.sendall(content)
            if not whole and not select.select([self._socket], [], [], _A_MOMENT)[0]:
                self._socket.shutdown(socket.SHUT_WR)
            return self._read(method)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            return Reply(LOST, text=f"{type(error).__name__}: {error}")

    def leave(self, content: bytes) -> None:
        """Sends bytes and goes, without waiting for the answer."""
        with socket.create_connection(self._address, self._patience) as leaving:
            leaving.sendall(content)

    def close(self) -> None:
        """Ends the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _read(self, method: str) -> Reply:
        assert self._socket is not None
        response = http.client.HTTPResponse(self._socket, method=method)
        response.begin()
        reply = Reply(
            str(response.status),
            response.read(),
            response.reason,
            {name.lower(): value for name, value in response.getheaders()},
        )
        if response.will_close:
            self.close()
        return reply


def request(method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """The bytes of a request of HTTP."""
    head = {"Host": "localhost", **headers, "Content-Length": str(len(body))}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def predict_body(signature: str, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, Any]:
    """A request of Predict as REST takes it, column by column; bytes, [n], are objects of base64."""
    return {"signature_name": signature, "inputs": {name: _column(value) for name, value in inputs.items()}}


def _column(value: npt.NDArray[Any]) -> Any:
    if value.dtype != object:
        return value.tolist()
    return [{"b64": base64.b64encode(one).decode()} for one in value.ravel().tolist()]
