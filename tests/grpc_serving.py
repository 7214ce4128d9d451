"""The gRPC services in this process, with small models, for the tests that call them."""

import contextlib
import queue
import threading

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from serving.answers import Answers
from serving.desk import Desk
from serving.grpc_server import serve
from serving.lifecycle import Lifecycle, Retries
from serving.servable import Servable, ServableOptions
from serving.services import Services
from tests.lifecycles import aspire

PREDICT = "/tensorflow.serving.PredictionService/Predict"


def load(name, version, path):
    return Servable.load(name, version, path, ServableOptions())


@contextlib.contextmanager
def serving(models, *, max_calls=7, health=None, desk=None, reload=None, arguments=None, client=()):
    """A real server on a real port, and a channel to it; gRPC's arguments of both are `arguments` and `client`."""
    lifecycle = Lifecycle(load, Retries(count=0), threading.Event())
    for name, versions in models.items():
        aspire(lifecycle, name, versions)
    server, port = serve(
        Services(Answers(lifecycle), desk or Desk(), max_calls, reload),
        address="127.0.0.1:0",
        health=health,
        arguments=arguments or {},
    )
    limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), *client]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=limits) as channel:
        yield channel
    server.stop(None).wait()
    for name in models:
        aspire(lifecycle, name, {})


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
    """An observer that keeps what it is told."""

    def __init__(self):
        self.ended = queue.SimpleQueue()

    def end(self, call, status, _seconds):
        self.ended.put((call, status))
