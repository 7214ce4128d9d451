"""A gRPC server that answers at once as a model of 1,408 dimensions would, so that what a client costs shows beside it.

    .venv/bin/python -m benchmarks.canned_server

For benchmarks/client.py, in the place of the server on the walk SavedModel -> [server] -> client. It describes itself
as a served model does, and has an answer ready for every number of rows, with floats in `float_val`, as TensorFlow
Serving sends them. Prints its address and serves until its standard input ends.
"""

import functools
import sys
from concurrent import futures
from datetime import date

import grpc
import numpy as np

from benchmarks.embedders import ROWS
from benchmarks.raw_client import PREDICTION
from vit22b import signature, wire_pb2
from vit22b.config import ModelConfig, vit
from vit22b.preprocess import Preprocess
from vit22b.signature import Manifest, signatures
from vit22b.tensors import to_wire

SIZE = "g"  # has 1,408 dimensions
VERSION = 1


def manifest() -> Manifest:
    """What the server says of its model."""
    config = ModelConfig(vit(SIZE))
    preprocess = Preprocess(config.image.resolution)
    return Manifest(
        space_id="canned",
        config=config,
        preprocess=preprocess,
        labels=(),
        signatures=tuple(signatures(config, preprocess)),
        batch_sizes=(1, 8, ROWS),
        batching=True,
        weights="float32",
        platforms=("cpu",),
        step=0,
        source="params",
        versions={},
        xla_call_module_version=0,
        exported_on=str(date.today()),
        loads_until=str(date.today()),
    )


def answer(content: bytes, context: grpc.ServicerContext) -> bytes:
    """A PredictResponse's bytes."""
    request = wire_pb2.PredictRequest.FromString(content)
    name = request.model_spec.signature_name
    if name == signature.DESCRIBE:
        return _description()
    if signature.IMAGE_BYTES not in request.inputs:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "this server embeds encoded images alone")
    return _embeddings(name, len(request.inputs[signature.IMAGE_BYTES].string_val))


@functools.cache
def _description() -> bytes:
    texts = {signature.MANIFEST: manifest().to_json().encode(), signature.TOKENIZER: b""}
    outputs = {name: wire_pb2.TensorProto(dtype=wire_pb2.DT_STRING, string_val=[text]) for name, text in texts.items()}
    return _response(outputs)


@functools.cache
def _embeddings(name: str, rows: int) -> bytes:
    vectors = np.random.default_rng(rows).normal(size=(rows, manifest().config.image.embedding)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    tensor = to_wire(vectors)
    tensor.float_val = tensor.tensor_content
    tensor.ClearField("tensor_content")
    outputs = {signature.EMBEDDING: tensor}
    if name == signature.EMBED_IMAGE_EACH:
        outputs[signature.OK] = to_wire(np.ones(rows, np.bool_))
    return _response(outputs)


def _response(outputs: dict[str, wire_pb2.TensorProto]) -> bytes:
    response = wire_pb2.PredictResponse(outputs=outputs)
    response.model_spec.version.value = VERSION
    return response.SerializeToString()


def main() -> None:
    """Serves."""
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(8), options=unlimited)
    handlers = {"Predict": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(PREDICTION.strip("/"), handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    sys.stdin.read()
    server.stop(None)


if __name__ == "__main__":
    main()
