"""The examples of docs/examples.md do what they say."""

import base64
import contextlib
import io
import json
import re
import runpy
import subprocess
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf import json_format
from tensorflow_serving.apis import predict_pb2

from tests.standin import StandIn, picture, serve
from vit22b import wire_pb2
from vit22b.tensors import from_wire
from vit22b.transport import PREDICT

PAGE = (Path(__file__).parents[1] / "docs" / "examples.md").read_text()


def blocks(language: str) -> dict[str, str]:
    """The blocks in a language, by their headings."""
    return dict(re.findall(rf"^## ([^\n]*)\n(?:(?!^## ).)*?```{language}\n(.*?)```", PAGE, re.M | re.S))


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server where the examples look for it, and their images."""
    monkeypatch.chdir(tmp_path)
    Path("cat.jpg").write_bytes(picture("red", size=16, kind="JPEG"))
    Path("dog.jpg").write_bytes(picture("blue", size=16, kind="JPEG"))
    with serve(StandIn(model="mine")) as standin:
        yield standin


def run(block: str, address: str) -> str:
    """What a block prints, with the port that is free here in the place of the usual one."""
    Path("example.py").write_text(block.replace("localhost:8500", address))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        runpy.run_path("example.py")
    return printed.getvalue()


def test_python(server: StandIn):
    found = blocks("python")
    assert len(found) == 5
    embeddings = run(found["Embeddings in ten lines"], server.address)
    assert "cat.jpg (8,) space-one 1" in embeddings
    assert run(found["Zero-shot in ten lines"], server.address).startswith("cat.jpg [('red', ")
    assert [line.split()[0] for line in run(found["Search"], server.address).splitlines()] == ["cat.jpg", "dog.jpg"]
    assert "(1, 8) (1, 1, 8)" in run(found["Features: the pooled vector, tokens, a layer"], server.address)
    assert run(found["Several servers, a key, TLS"], server.address) == ""
    for name, block in found.items():
        if "ten lines" in name:
            assert len([line for line in block.splitlines() if line.strip()]) <= 10


def test_the_message_of_grpcurl_is_one_of_tensorflow_serving(server: StandIn):
    (message,) = re.findall(r"-d '(\{.*\})'", blocks("sh")["grpcurl"], re.S)
    image = base64.b64encode(Path("dog.jpg").read_bytes()).decode()
    message = message.replace("""'"$image"'""", image)
    trimmed = json_format.Parse(message, wire_pb2.PredictRequest())
    theirs = json_format.Parse(message, predict_pb2.PredictRequest())
    assert theirs.SerializeToString(deterministic=True) == trimmed.SerializeToString(deterministic=True)
    with grpc.insecure_channel(server.address) as channel:
        answer = channel.unary_unary(PREDICT)(trimmed.SerializeToString())
    vectors = from_wire(wire_pb2.PredictResponse.FromString(answer).outputs["embedding"])
    np.testing.assert_allclose(vectors[0, 2], 1, atol=0.01)


def test_the_body_of_curl_is_a_request(server: StandIn):
    del server
    (body,) = re.findall(r"-d '(\{.*\})'", blocks("sh")["curl"], re.S)
    script = f"image=$(base64 -w0 cat.jpg); printf %s '{body}'"
    printed = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True).stdout
    request = json.loads(printed)
    assert base64.b64decode(request["inputs"]["image_bytes"][0]["b64"]) == Path("cat.jpg").read_bytes()
    assert request["signature_name"] == "embed_image"
