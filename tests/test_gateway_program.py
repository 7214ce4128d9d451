"""serving/gateway.py as a program: its port, its log, its keys, HTTPS, and the way it ends."""

import contextlib
import dataclasses
import http.client
import json
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading

import pytest
import trustme

from serving import gateway
from tests.standin import StandIn, serve
from tests.waiting import until
from tests.web_gateway import SECONDS

RED = json.dumps({"input": "a red"})
JSON = {"Content-Type": "application/json"}


@dataclasses.dataclass
class Noting(StandIn):
    """A stand-in that notes how it is asked, and can let requests wait."""

    keys: list[str] = dataclasses.field(default_factory=list)
    hold: bool = False
    held: int = 0
    released: threading.Event = dataclasses.field(default_factory=threading.Event)

    def predict(self, request, context):
        self.keys += [value for name, value in context.invocation_metadata() if name == "authorization"]
        if self.hold:
            self.held += 1
            self.released.wait(SECONDS)
        return super().predict(request, context)


@pytest.fixture
def noting():
    with serve(Noting()) as standin:
        yield standin
        standin.released.set()


@contextlib.contextmanager
def started(*arguments):
    """The program, and the port that it says it listens on."""
    command = [sys.executable, "serving/gateway.py", "--port=0", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if found := re.search(r"is at https?://127\.0\.0\.1:(\d+)$", line):
                break
        else:
            pytest.fail("the gateway did not start")
        yield process, int(found[1])
    finally:
        process.kill()
        process.communicate()


def ask(connection, method="POST", path="/v1/embeddings", body=RED):
    connection.request(method, path, body, JSON)
    return connection.getresponse()


def test_it_serves_and_on_sigterm_finishes_what_is_under_way(noting, tmp_path):
    (tmp_path / "key").write_text("of-the-server\n")
    with started(f"--address={noting.address}", f"--upstream_key_file={tmp_path / 'key'}") as (process, port):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)) as connection:
            assert ask(connection).read().startswith(b'{"object":"list"')
            assert set(noting.keys) == {"Bearer of-the-server"}
            noting.hold = True
            connection.request("POST", "/v1/embeddings", RED, JSON)
            until(lambda: noting.held)
            process.send_signal(signal.SIGTERM)
            until(lambda: is_closed(port))
            noting.released.set()
            assert connection.getresponse().status == 200
        out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    assert "Traceback" not in err
    assert [json.loads(line)["code"] for line in out.splitlines()] == [200, 200]


def is_closed(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=SECONDS).close()
    except ConnectionRefusedError:
        return True
    return False


def test_it_speaks_https(noting, tmp_path):
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    for place, text in enumerate(certificate.cert_chain_pems):
        text.write_to_path(tmp_path / "certificate.pem", append=place > 0)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    files = (f"--tls_certificate={tmp_path / 'certificate.pem'}", f"--tls_key={tmp_path / 'key.pem'}")
    with started(f"--address={noting.address}", "--no_request_log", *files) as (process, port):
        connection = http.client.HTTPSConnection("localhost", port, timeout=SECONDS, context=trust)
        with contextlib.closing(connection):
            assert ask(connection).status == 200
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=SECONDS)
    assert (process.returncode, out) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--tls_key=key.pem"], 2, "HTTPS needs both --tls_certificate and --tls_key"),
        (["--max_pending=0"], 2, "--max_pending is 0; expected more than 0"),
        (["--address=nowhere"], 2, "the address is 'nowhere'"),
        (["--api_keys_file=no/such/file"], 1, "No such file"),
        (["--upstream_key_file=no/such/file"], 1, "No such file"),
    ],
)
def test_wrong_arguments_are_told(run_program, capsys, arguments, code, words):
    assert run_program(gateway.main, gateway.Arguments, "--port=0", *arguments) == code
    # tyro puts what a dataclass refuses in a box.
    assert words in " ".join(capsys.readouterr().err.replace("│", "").split())


def test_a_port_that_is_taken_is_told(run_program, capsys, noting):
    taken = noting.address.rpartition(":")[2]
    assert run_program(gateway.main, gateway.Arguments, f"--port={taken}") == 1
    assert "Address already in use" in capsys.readouterr().err


def test_it_loads_neither_tensorflow_nor_jax():
    code = "import sys, serving.gateway; print([m for m in ('tensorflow', 'jax', 'clients') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
