"""Two clients of the same server: ours, and one written by hand over tensorflow-serving-api.

    .venv/bin/python -m benchmarks.embedders ours|stubs ADDRESS IMAGE

For benchmarks/client.py, at the client's end of the walk SavedModel -> server -> [client]: each in a process of its
own, which follows orders as orders.py has them. The one by hand is what the documentation of TensorFlow Serving leads
to: make_tensor_proto, a stub, make_ndarray.
"""

import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.orders import follow

Embed = Callable[[list[bytes], int], int]

MODEL = "model"
ROWS = 64  # images of a request
_BATCHES = 8  # requests that a call of `embed` makes


def ours(address: str) -> Embed:
    """By vit22b.client; how many vectors came."""
    from vit22b.client import Client

    clients: dict[int, Client] = {}

    def embed(images: list[bytes], in_flight: int) -> int:
        if in_flight not in clients:
            clients[in_flight] = Client(address, MODEL, in_flight=in_flight)
        return len(clients[in_flight].embed_images(images))

    return embed


def stubs(address: str) -> Embed:
    """By hand, of requests of as many images as ours have."""
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(address, options=unlimited))

    def send(images: list[bytes]) -> grpc.Future:
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = MODEL, "embed_image"
        request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(images))
        return stub.Predict.future(request, timeout=60.0)

    def embed(images: list[bytes], in_flight: int) -> int:
        found, waiting = 0, []
        for start in range(0, len(images), ROWS):
            if len(waiting) == in_flight:
                found += len(tf.make_ndarray(waiting.pop(0).result().outputs["embedding"]))
            waiting.append(send(images[start : start + ROWS]))
        return found + sum(len(tf.make_ndarray(each.result().outputs["embedding"])) for each in waiting)

    return embed


def closed(embed: Embed, image: bytes, *, rows: int, in_flight: int, seconds: float) -> dict[str, Any]:
    """Embeds batches of `rows` one job behind the other.

    Returns:
        images_per_second; cpu_ms_per_image, of this process; cpu_share, of the time that an image takes.
    """
    images = [image] * (rows * _BATCHES)
    embed(images, in_flight)  # connects
    begin, used, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() < begin + seconds:
        done += embed(images, in_flight)
    took, used = time.perf_counter() - begin, time.process_time() - used
    return {"images_per_second": done / took, "cpu_ms_per_image": 1e3 * used / done, "cpu_share": used / took}


def single(embed: Embed, image: bytes, *, count: int) -> dict[str, Any]:
    """The median of `count` embeddings of one image, one behind the other, in milliseconds."""
    embed([image], 1)
    latencies = []
    for _ in range(count):
        begin = time.perf_counter()
        embed([image], 1)
        latencies.append(1e3 * (time.perf_counter() - begin))
    return {"p50_ms": statistics.median(latencies)}


def main(kind: str, address: str, image: Path) -> None:
    """Follows orders until there are none."""
    content, begin = image.read_bytes(), time.perf_counter()
    embed = {"ours": ours, "stubs": stubs}[kind](address)
    loaded = {
        "import_seconds": time.perf_counter() - begin,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    follow(
        {
            "loaded": lambda: loaded,
            "closed": lambda **how: closed(embed, content, **how),
            "single": lambda **how: single(embed, content, **how),
        }
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
