"""A server that answers golden requests: ours or TensorFlow Serving, over plain gRPC.

Between server and client on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. It
speaks with TensorFlow Serving's own stubs and not with vit22b.client, so that it asks what any caller would.
"""

from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from vit22b import errors, signature
from vit22b.signature import Manifest

_NO_XLA = "start the server with --xla_cpu_compilation_enabled=true, without which it runs no program of JAX"
_UNKNOWN = "vit22b did not export what is served there; name another --model"
# A batch of images or of token outputs passes gRPC's own limit of 4 MiB. -1 is none, as on the server.
_OPTIONS = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))


class LiveServer:
    """A model that is served somewhere; to be closed, or used as a context.

    Args:
        address: host:port of the gRPC port, or unix:PATH.
        model: the name that it is served under.
        version: number of the version; the server's choice if None.
        label: of the version, instead of its number; "" for none.
        timeout: seconds that one answer may take.
        ca: PEM file of the authority that signed the server's certificate; None for a plain connection.

    Raises:
        ValueError: an address of another form, a version and a label, or a timeout that is not positive.
        OSError: the PEM file cannot be read.
    """

    def __init__(
        self,
        address: str,
        model: str,
        *,
        version: int | None = None,
        label: str = "",
        timeout: float = 60.0,
        ca: Path | None = None,
    ) -> None:
        host, _, port = address.rpartition(":")
        if not address.startswith("unix:") and not (host and port.isdecimal()):
            raise ValueError(f"--address is {address!r}; expected host:port, for instance localhost:8500")
        if version is not None and label:
            raise ValueError(f"--version is {version} and --label is {label!r}; give one of them")
        if not timeout > 0:
            raise ValueError(f"--timeout is {timeout}; expected a positive number of seconds")
        self.address, self.model, self._timeout = address, model, timeout
        self._spec = predict_pb2.PredictRequest().model_spec
        self._spec.name, self._spec.version_label = model, label
        if not label:
            self._spec.ClearField("version_label")
        if version is not None:
            self._spec.version.value = version
        if ca is None:
            self._channel = grpc.insecure_channel(address, _OPTIONS)
        else:
            self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(ca.read_bytes()), _OPTIONS)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    def answer(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        """Sends a golden request to the model instead of the one that it names.

        Raises:
            VitError: no server, no such model, or a request that failed; the message has the remedy.
        """
        sent = predict_pb2.PredictRequest()
        sent.CopyFrom(request)
        sent.model_spec.CopyFrom(self._spec)
        sent.model_spec.signature_name = request.model_spec.signature_name
        try:
            return self._stub.Predict(sent, timeout=self._timeout)
        except grpc.RpcError as error:
            raise self._failure(error.code(), error.details() or "", sent.model_spec.signature_name) from error

    def check_space(self, expected: Manifest, version: Path) -> int:
        """Compares what is served with what was exported, and stays with the version that answers.

        Args:
            expected: the manifest of the exported version.
            version: its folder, for the message.

        Returns:
            The number of the version that the server answers with.

        Raises:
            SpaceError: the server's version embeds in another space.
            VitError: it is another export of the same model; and see answer.
        """
        request = predict_pb2.PredictRequest()
        request.model_spec.signature_name = signature.DESCRIBE
        response = self.answer(request)
        number = response.model_spec.version.value
        served = Manifest.from_json(response.outputs[signature.MANIFEST].string_val[0])
        if served.space_id != expected.space_id:
            raise errors.SpaceError(
                f"version {number} of the server has the space {served.space_id} ({served.weights}, step {served.step})"
                f", {version} has {expected.space_id} ({expected.weights}, step {expected.step})",
                code="FAILED_PRECONDITION",
                address=self.address,
                model=self.model,
                remedy="name the folder of the version that is served, or another --version",
            )
        # Signatures that one has and the other not, or whose answers have other outputs.
        fields = ("signatures", "feature_layers", "class_bank", "batch_sizes", "weights", "tolerance")
        if differing := [name for name in fields if getattr(served, name) != getattr(expected, name)]:
            told = "; ".join(f"{name} {getattr(served, name)} and {getattr(expected, name)}" for name in differing)
            raise errors.VitError(
                f"version {number} of the server and {version} are exports of one model that differ in {told}",
                code="FAILED_PRECONDITION",
                address=self.address,
                model=self.model,
                remedy="name the folder of the version that is served, or another --version",
            )
        self._spec.version.value = number  # in place of a label, too, which may move to another version meanwhile
        return int(number)

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _failure(self, code: grpc.StatusCode, details: str, name: str) -> errors.VitError:
        failure = errors.from_status(code, details, address=self.address, model=self.model)
        remedy = failure.remedy
        if "XLA compilation disabled" in details:
            remedy = _NO_XLA
        elif name == signature.DESCRIBE and "ignature" in details:
            remedy = _UNKNOWN
        text = f"signature {name}: {failure.message}"
        return type(failure)(text, code=code.name, address=self.address, model=self.model, remedy=remedy)
