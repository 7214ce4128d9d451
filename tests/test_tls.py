import contextlib
import http.server
import ssl
import threading
import urllib.error
import urllib.request
from concurrent import futures

import grpc
import pytest
import tensorflow as tf
import trustme
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from serving.server_config_pb2 import SSLConfig
from serving.tls import grpc_credentials, ssl_context

OURS, THEIRS = trustme.CA(), trustme.CA()
SERVER = OURS.issue_cert("127.0.0.1", "localhost")


def pem(blob):
    return blob.bytes().decode()


def config(**fields):
    """The server's certificate, with fields in place of others."""
    certificate = "".join(map(pem, SERVER.cert_chain_pems))
    return SSLConfig(**{"server_key": pem(SERVER.private_key_pem), "server_cert": certificate, **fields})


MUTUAL = {"custom_ca": pem(OURS.cert_pem), "client_verify": True}


@contextlib.contextmanager
def grpc_server(config):
    server = grpc.server(futures.ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    port = server.add_secure_port("127.0.0.1:0", grpc_credentials(config))
    server.start()
    yield f"localhost:{port}"
    server.stop(None).wait()


def check(address, *, root=OURS, holder=None):
    """The code of a call to a gRPC server by a client that trusts `root`, with a certificate of `holder`."""
    pair = {}
    if holder is not None:
        issued = holder.issue_cert("client@example.org")
        chain = b"".join(part.bytes() for part in issued.cert_chain_pems)
        pair = {"private_key": issued.private_key_pem.bytes(), "certificate_chain": chain}
    credentials = grpc.ssl_channel_credentials(root.cert_pem.bytes(), **pair)
    with grpc.secure_channel(address, credentials) as channel:
        return outcome(channel)


def outcome(channel):
    try:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


def test_grpc_over_tls_answers_whoever_trusts_its_certificate():
    with grpc_server(config()) as address:
        assert check(address) == "OK"
        assert check(address, holder=THEIRS) == "OK"
        assert check(address, root=THEIRS) == "UNAVAILABLE"
        with grpc.insecure_channel(address) as channel:
            assert outcome(channel) == "UNAVAILABLE"


def test_grpc_over_mutual_tls_answers_who_has_a_certificate_of_its_authority():
    with grpc_server(config(**MUTUAL)) as address:
        assert check(address, holder=OURS) == "OK"
        assert check(address) == "UNAVAILABLE"
        assert check(address, holder=THEIRS) == "UNAVAILABLE"


@contextlib.contextmanager
def https_server(config):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"here")

        def log_message(self, *_arguments):
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_arguments):
            pass  # a handshake that fails is what the test is about

    with Server(("127.0.0.1", 0), Handler) as server:
        server.socket = ssl_context(config).wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"https://localhost:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def get(url, *, root=OURS, holder=None):
    context = ssl.create_default_context(cadata=pem(root.cert_pem))
    if holder is not None:
        holder.issue_cert("client@example.org").configure_cert(context)
    with urllib.request.urlopen(url, context=context, timeout=20) as response:
        return response.read()


def test_https_does_the_same():
    with https_server(config()) as url:
        assert get(url) == b"here"
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            get(url, root=THEIRS)
    with https_server(config(**MUTUAL)) as url:
        assert get(url, holder=OURS) == b"here"
        for holder in (None, THEIRS):
            with pytest.raises((urllib.error.URLError, ssl.SSLError, ConnectionError)):
                get(url, holder=holder)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"server_key": "nonsense"}, "server_key and server_cert are no pair of PEM texts"),
        ({"server_cert": "nonsense"}, "server_key and server_cert are no pair of PEM texts"),
        ({"server_key": pem(THEIRS.issue_cert("x").private_key_pem)}, "no pair of PEM texts: .*KEY_VALUES_MISMATCH"),
        ({"server_key": ""}, "server_key is empty"),
        ({"server_cert": ""}, "server_cert is empty"),
        ({"custom_ca": "nonsense"}, "custom_ca holds no certificate"),
        ({"custom_ca": "Zürich"}, "custom_ca holds no certificate .*ASCII"),
        ({"client_verify": True}, "client_verify is true and custom_ca is empty, so that no client could connect"),
    ],
)
@pytest.mark.parametrize("make", [grpc_credentials, ssl_context])
def test_certificates_of_no_use_are_refused_before_a_port_is_open(make, fields, text):
    with pytest.raises(tf.errors.InvalidArgumentError, match=text):
        make(config(**fields))
