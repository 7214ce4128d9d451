"""The official openai client against the gateway. `make web` runs these."""

import asyncio

import grpc
import numpy as np
import pytest

from serving.keys import KeyFile, line, make_key
from tests import web_gateway
from tests.standin import picture
from tests.web_gateway import data_uri

pytestmark = pytest.mark.web
RED, BLUE = data_uri(picture("red")), data_uri(picture("blue"))


@pytest.fixture
def key(tmp_path):
    made = make_key()
    (tmp_path / "keys").write_text(line("alice", made))
    return made


@pytest.fixture
def gateway(standin, key, tmp_path):
    assert key
    with web_gateway.serve(standin.address, keys=KeyFile(tmp_path / "keys")) as opened:
        yield opened


@pytest.fixture
def client(gateway, key):
    import openai

    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key) as client:
        yield client


def vectors(answer):
    return np.array([entry.embedding for entry in answer.data])


def test_it_embeds_texts_and_images(client):
    answer = client.embeddings.create(model="vit22b", input=["a red", BLUE])
    np.testing.assert_array_equal(vectors(answer), np.eye(8)[[0, 2]])
    assert (answer.object, answer.model) == ("list", "vit22b")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens > 0
    assert answer.space_id == "space-one"  # what OpenAI does not know stays in the answer
    alone = client.embeddings.create(model="vit22b", input="a red")
    np.testing.assert_array_equal(vectors(alone), np.eye(8)[[0]])


def test_its_base64_and_its_floats_are_the_same(client):
    orange = data_uri(picture("orange"))
    by_default = client.embeddings.create(model="vit22b", input=orange, dimensions=3)  # it asks for base64 by itself
    floats = client.embeddings.create(model="vit22b", input=orange, dimensions=3, encoding_format="float")
    np.testing.assert_array_equal(vectors(by_default).astype(np.float32), vectors(floats).astype(np.float32))
    assert vectors(floats).shape == (1, 3)


def test_the_asynchronous_client_does_the_same(gateway, key):
    import openai

    async def embed():
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=key) as client:
            requests = [client.embeddings.create(model="vit22b", input=item) for item in ("a red", "a blue")]
            return await asyncio.gather(*requests)

    np.testing.assert_array_equal(
        np.concatenate([vectors(answer) for answer in asyncio.run(embed())]), np.eye(8)[[0, 2]]
    )


def test_it_sees_the_model(client):
    (model,) = client.models.list().data
    assert (model.id, model.owned_by) == ("vit22b", "vit22b")
    assert client.models.retrieve("vit22b").space_id == "space-one"


def test_what_failed_is_in_the_answer_where_it_is_asked_for(client):
    items = [RED, data_uri(b"no image")]
    answer = client.embeddings.create(model="vit22b", input=items, extra_body={"on_error": "skip"})
    assert [entry.index for entry in answer.data] == [0]
    assert [failure["index"] for failure in answer.failures] == [1]


def test_its_exceptions_say_what_is_wrong(client, gateway):
    import openai

    with pytest.raises(openai.BadRequestError, match="no whole JPEG") as bad:
        client.embeddings.create(model="vit22b", input=[RED, data_uri(b"no image")])
    assert (bad.value.code, bad.value.param, bad.value.type) == ("bad_image", "input[1]", "invalid_request_error")
    assert bad.value.body["failures"][0]["index"] == 1
    with pytest.raises(openai.NotFoundError, match="no model 'gpt'") as unknown:
        client.embeddings.create(model="gpt", input="a red")
    assert unknown.value.code == "model_not_found"
    assert unknown.value.request_id == gateway.lines.entries[-1]["id"]
    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="nobodys") as stranger,
        pytest.raises(openai.AuthenticationError, match="none of this gateway's"),
    ):
        stranger.models.list()


def test_it_comes_again_when_the_models_server_has_too_much_to_do(client, standin):
    client.embeddings.create(model="vit22b", input="a red")
    # So many that the gateway's own client gives up once.
    standin.refusals = [(grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")] * 3
    answer = client.embeddings.create(model="vit22b", input="a red")
    np.testing.assert_array_equal(vectors(answer), np.eye(8)[[0]])
    assert standin.refusals == []
