"""The gRPC services in this process, with small models, for the tests that call them."""

import contextlib
import queue
import threading
import time

import grpc
import tensorflow as tf
from tensorflow_serving.apis import (
    predict_pb2,
)

from serving.answers import Answers
from serving.desk import Desk
from serving.grpc_server import serve
from serving.lifecycle import Lifecycle, Retries
from serving.servable import Options, Servable
from serving.services import Services

PREDICT = "/tensorflow.serving.PredictionService/Predict"


def load(name, version, path):
    return Servable.load(name, version, path, Options())


@contextlib.contextmanager
def serving(models, *, max_calls=7, health=None, desk=None, reload=None):
    """A real server on a real port, and a channel to it."""
    lifecycle = Lifecycle(load, Retries(count=0), threading.Event())
    for name, versions in models.items():
        lifecycle.aspire(name, versions)
    server, port = serve(
        Services(Answers(lifecycle), desk or Desk(), max_calls, reload),
        address="127.0.0.1:0",
        health=health,
    )
    limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=limits) as channel:
        yield channel
    server.stop(None).wait()
    for name in models:
        lifecycle.aspire(name, {})


@contextlib.contextmanager
def half_sent():
    """Makes requests of which nothing comes; with them a call sends its headers alone."""
    end = threading.Event()

    def requests():
        end.wait(60)
        yield from ()

    yield requests
    end.set()


def request(signature="", **inputs):
    message = predict_pb2.PredictRequest()
    message.model_spec.name, message.model_spec.signature_name = "p", signature
    for alias, value in inputs.items():
        message.inputs[alias].CopyFrom(tf.make_tensor_proto(value))
    return message


class Seen:
    """An observer that keeps what it is told, and can hold a call up until its caller has gone."""

    def __init__(self, *, hold=False):
        self.began, self.ended = queue.SimpleQueue(), queue.SimpleQueue()
        self._hold = hold

    def begin(self, call):
        self.began.put(call)
        deadline = time.monotonic() + 30
        while self._hold and not call.gone():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def end(self, call, status, _seconds):
        self.ended.put((call, status))
