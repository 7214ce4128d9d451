"""Predict's messages as bytes: a request's tensors are views of them, and a response is made in one copy.

Between gRPC (services.py) and what a version is asked and answers (prediction.py) on the way SavedModel -> server ->
client. Protobuf's parser copies every tensor out of the request, and its writer copies every result twice; with the
1.2 MB of an image's tokens that is most of what a request costs besides its run. The bytes are protobuf's own, but for
the order of the outputs, which it leaves open; what is not as every client writes it is left to protobuf.
"""

from tensorflow_serving.apis import model_pb2, predict_pb2

from serving import tensor_wire
from serving.prediction import Answered, Asked
from serving.wire_fields import Field, UnusualError, fields, header

_SPEC, _INPUTS, _FILTER = 1, 2, 3  # of a PredictRequest
_OUTPUTS, _ANSWER_SPEC = 1, 2  # of a PredictResponse
_KEY, _VALUE = 1, 2  # of an entry of a map


def parse(content: bytes) -> Asked:
    """What a serialised PredictRequest asks.

    Raises:
        google.protobuf.message.DecodeError: it is none.
    """
    try:
        return _parse(content)
    except (UnusualError, UnicodeDecodeError):
        return Asked.of(predict_pb2.PredictRequest.FromString(content))


def serialize(answered: Answered, *, as_content: bool) -> bytes:
    """The serialised PredictResponse; `as_content` as in tensors.to_proto."""
    parts: list[tensor_wire.Part] = []
    for alias, value in answered.outputs.items():
        key = alias.encode()
        tensor = tensor_wire.write(value, as_content=as_content)
        entry = header(_KEY, len(key)) + key + header(_VALUE, sum(map(len, tensor)))
        parts += header(_OUTPUTS, len(entry) + sum(map(len, tensor))), entry, *tensor
    spec = answered.spec.SerializeToString()
    return b"".join([*parts, header(_ANSWER_SPEC, len(spec)), spec])


def _parse(content: bytes) -> Asked:
    spec: model_pb2.ModelSpec | None = None
    inputs = {}
    wanted = []
    for field in fields(content, 0, len(content)):
        if field.is_varint:
            raise UnusualError
        if field.number == _SPEC and spec is None:  # a second one is merged into the first
            spec = model_pb2.ModelSpec.FromString(content[field.start : field.end])
        elif field.number == _INPUTS:
            alias, value = _entry(content, field)
            inputs[alias] = tensor_wire.read(content, value.start, value.end)
        elif field.number == _FILTER:
            wanted.append(content[field.start : field.end].decode())
        else:
            raise UnusualError
    return Asked(spec or model_pb2.ModelSpec(), inputs, wanted, has_spec=spec is not None)


def _entry(content: bytes, field: Field) -> tuple[str, Field]:
    """The alias of an input, and where its tensor is."""
    found = list(fields(content, field.start, field.end))
    if [part.number for part in found] != [_KEY, _VALUE] or any(part.is_varint for part in found):
        raise UnusualError
    key, value = found
    return content[key.start : key.end].decode(), value
