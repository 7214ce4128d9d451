"""The gateway's routes, in front of a stand-in whose answers can be checked by hand, and of the true model."""

import base64
import threading

import grpc
import numpy as np
import pytest

from tests import web_gateway
from tests.standin import StandIn, picture, serve
from tests.waiting import until
from tests.web_gateway import data_uri, form
from vit22b.client import Client

RED, GREEN, BLUE = (data_uri(picture(colour)) for colour in ("red", "green", "blue"))
BROKEN = data_uri(b"no image")
NO_IMAGE = "no whole JPEG, PNG, WebP, GIF or BMP"


@pytest.fixture(scope="module")
def gateway():
    with serve(StandIn()) as standin, web_gateway.serve(standin.address) as opened:
        yield opened


def vectors(answer):
    assert answer.status == 200
    return np.array([entry["embedding"] for entry in answer.json["data"]])


def colour(*places):
    """The stand-in's vectors of colours: red is 0, green 1, blue 2."""
    return np.eye(8)[list(places)]


def refused(answer, status, code, param=None):
    assert (answer.status, answer.error["code"], answer.error["param"]) == (status, code, param)
    return answer.error["message"]


def test_embeddings_are_in_openais_form_with_what_a_vector_needs(gateway):
    answer = gateway.post("/v1/embeddings", {"input": "a red", "model": "vit22b", "user": "someone"})
    np.testing.assert_array_equal(vectors(answer), colour(0))
    assert {name: answer.json[name] for name in ("object", "model", "space_id", "version", "failures")} == {
        "object": "list",
        "model": "vit22b",
        "space_id": "space-one",
        "version": 1,
        "failures": [],
    }


def test_texts_and_images_come_in_one_list_and_are_answered_in_its_order(gateway):
    items = ["a blue", RED, {"text": "a green"}, {"image": BLUE}, {"image": base64.b64encode(picture("lime")).decode()}]
    answer = gateway.post("/v1/embeddings", {"input": items})
    np.testing.assert_allclose(vectors(answer), colour(2, 0, 1, 2, 1))
    assert [entry["index"] for entry in answer.json["data"]] == [0, 1, 2, 3, 4]


def test_base64_is_of_little_endian_float32_and_the_same_numbers(gateway):
    body = {"input": [data_uri(picture("orange")), "a red"], "encoding_format": "base64"}
    written = [entry["embedding"] for entry in gateway.post("/v1/embeddings", body).json["data"]]
    decoded = np.stack([np.frombuffer(base64.b64decode(text), "<f4") for text in written])
    plain = vectors(gateway.post("/v1/embeddings", body | {"encoding_format": "float"}))
    np.testing.assert_array_equal(decoded, plain.astype(np.float32))
    assert 0.1 < decoded[0, 1] < 0.9


def test_numbers_are_written_in_the_digits_of_float32(gateway):
    answer = gateway.post("/v1/embeddings", {"input": data_uri(picture("orange"))})
    texts = answer.body.decode().partition("[")[2].partition("]")[0]
    assert max(len(text) for text in texts.split('"embedding":[')[-1].split(",")) <= 11


def test_dimensions_are_the_first_ones_at_unit_length(gateway):
    answer = gateway.post(
        "/v1/embeddings", {"input": [data_uri(picture("orange")), BROKEN], "dimensions": 2, "on_error": "skip"}
    )
    found = vectors(answer)
    assert found.shape == (1, 2)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    for wrong in (0, 9, 1.5, True, "4"):
        message = refused(
            gateway.post("/v1/embeddings", {"input": "a red", "dimensions": wrong}), 400, "invalid_value", "dimensions"
        )
        assert "expected a whole number from 1 to 8" in message


def test_usage_counts_tokens_of_texts_and_patches_of_images(gateway):
    def used(items):
        return gateway.post("/v1/embeddings", {"input": items}).json["usage"]["total_tokens"]

    assert used([RED]) == 1  # one patch of 4 x 4 pixels
    assert used(["a red", "a red"]) == 2 * used(["a red"])
    assert used(["a red", RED]) == used(["a red"]) + 1
    assert used(["a red"]) < used(["a red and a green and a blue"])


def test_a_bad_image_refuses_the_request_by_its_index_and_reason(gateway):
    answer = gateway.post("/v1/embeddings", {"input": [RED, BROKEN, "data:image/png;base64,?"]})
    message = refused(answer, 400, "bad_image", "input[1]")
    assert message.startswith(f"input[1]: {NO_IMAGE}")
    assert "1 more" in message
    failures = answer.error["failures"]
    assert [failure["index"] for failure in failures] == [1, 2]
    assert failures[1]["reason"] == "it is no base64"
    refused(gateway.post("/v1/embeddings", {"input": BROKEN}), 400, "bad_image", "input")


def test_a_bad_image_harms_no_other_if_it_is_to_be_skipped(gateway):
    answer = gateway.post(
        "/v1/embeddings", {"input": [BROKEN, RED, "data:text/plain;base64,AAAA", "a blue"], "on_error": "skip"}
    )
    np.testing.assert_array_equal(vectors(answer), colour(0, 2))
    assert [entry["index"] for entry in answer.json["data"]] == [1, 3]
    assert [failure["index"] for failure in answer.json["failures"]] == [0, 2]
    assert answer.json["failures"][1]["reason"] == "its data URI is of the type text/plain; expected an image's"
    alone = gateway.post("/v1/embeddings", {"input": [BROKEN], "on_error": "skip"})
    assert (alone.json["data"], alone.json["space_id"]) == ([], "space-one")
    assert gateway.post("/v1/embeddings", {"input": ["data:,"], "on_error": "skip"}).json["space_id"] == "space-one"


def test_another_model_is_not_found(gateway):
    for path, rest in (
        ("/v1/embeddings", {"input": "a"}),
        ("/v1/rank", {"query": "a", "items": "b"}),
        ("/v1/classify", {"images": RED, "classes": ["a"]}),
    ):
        answer = gateway.post(path, rest | {"model": "gpt"})
        assert "this gateway has 'vit22b'" in refused(answer, 404, "model_not_found", "model")


def test_an_order_is_by_the_cosine_with_the_query(gateway):
    items = [BLUE, data_uri(picture("purple")), BROKEN, "a red", {"text": "a blue"}]
    answer = gateway.post("/v1/rank", {"query": "a blue", "items": items, "model": "vit22b"})
    assert [entry["index"] for entry in answer.json["data"]] == [0, 4, 1, 3]
    scores = [entry["score"] for entry in answer.json["data"]]
    np.testing.assert_allclose(scores, [1, 1, 0.5**0.5, 0], atol=1e-6)
    assert [failure["index"] for failure in answer.json["failures"]] == [2]
    best = gateway.post("/v1/rank", {"query": {"image": RED}, "items": items, "top": 1})
    assert [entry["index"] for entry in best.json["data"]] == [3]
    assert best.json["space_id"] == "space-one"


def test_a_query_that_is_no_image_is_refused(gateway):
    refused(gateway.post("/v1/rank", {"query": BROKEN, "items": [RED, BROKEN]}), 400, "bad_image", "query")


def test_images_are_classified_by_names(gateway):
    body = {"images": [BLUE, BROKEN, RED], "classes": ["red", "green", "blue"], "templates": "a {}", "top": 2}
    answer = gateway.post("/v1/classify", body)
    first, second, third = answer.json["data"]
    assert [guess["class"] for guess in first["top"]] == ["blue", "red"]
    np.testing.assert_allclose([guess["score"] for guess in first["top"]], [1, 0], atol=1e-6)
    assert (second["object"], second["index"], second["error"]["code"]) == ("error", 1, "bad_image")
    assert second["error"]["message"].startswith(NO_IMAGE)
    assert (third["index"], third["top"][0]["class"]) == (2, "red")
    assert answer.json["templates"] == ["a {}"]
    assert (answer.json["space_id"], answer.json["version"]) == ("space-one", 1)


def test_a_form_is_classified_as_json_is(gateway):
    fields = [("images", picture("blue")), ("images", b"no image"), ("images", picture("red"))]
    fields += [("classes", "red"), ("classes", "green"), ("classes", "blue"), ("templates", "a {}"), ("top", "2")]
    body, headers = form([*fields, ("model", "vit22b")])
    found = gateway.send("POST", "/v1/classify", body, headers)
    same = {"images": [BLUE, BROKEN, RED], "classes": ["red", "green", "blue"], "templates": ["a {}"], "top": 2}
    assert found.json == gateway.post("/v1/classify", same).json


def test_a_form_may_have_one_class(gateway):
    body, headers = form([("images", picture("red")), ("classes", "red")])
    answer = gateway.send("POST", "/v1/classify", body, headers)
    assert [guess["class"] for guess in answer.json["data"][0]["top"]] == ["red"]


def test_templates_that_come_several_times_are_taken_once(gateway):
    answer = gateway.post("/v1/classify", {"images": RED, "classes": ["red"], "templates": ["general"] * 200})
    assert len(answer.json["templates"]) == 8


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ([("classes", "a"), ("classes", "b")], "missing_field", "images"),
        ([("images", b"x")], "missing_field", "classes"),
        ([("images", "x"), ("classes", "a"), ("classes", "b")], "invalid_value", "images"),
        ([("images", b"x"), ("classes", b"a")], "invalid_value", "classes"),
        ([("images", b"x"), ("classes", "a"), ("classes", "b"), ("top", "many")], "invalid_value", "top"),
        ([("images", b"x"), ("classes", "a"), ("classes", "b"), ("colour", "red")], "unknown_field", "colour"),
        ([("images", b"x"), ("classes", "a"), ("class_set", "b")], "invalid_value", "class_set"),
    ],
)
def test_a_form_that_is_wrong_is_refused_by_its_field(gateway, fields, code, param):
    body, headers = form(fields)
    refused(gateway.send("POST", "/v1/classify", body, headers), 400, code, param)


def test_a_body_that_is_no_form_is_refused(gateway):
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert "no form" in refused(gateway.send("POST", "/v1/classify", b"--y\r\n", headers), 400, "invalid_form")
    refused(gateway.send("POST", "/v1/classify", b"", {"Content-Type": "multipart/form-data"}), 400, "invalid_form")


def test_a_form_that_is_cut_is_refused(gateway):
    body, headers = form([("classes", "red"), ("images", picture("red")), ("images", picture("blue"))])
    for end in (-60, body.rindex(b"--", 0, -3) - 2, -4):
        answer = gateway.send("POST", "/v1/classify", body[:end], headers)
        assert "closing boundary" in refused(answer, 400, "invalid_form")


@pytest.mark.parametrize("charset", ["utf-7", "idna", "latin-1"])
def test_a_form_in_other_characters_than_utf_8_is_refused(gateway, charset):
    body = b'--x\r\nContent-Disposition: form-data; name="+2AA-"\r\n\r\nabc\r\n--x--\r\n'
    headers = {"Content-Type": f"multipart/form-data; boundary=x; charset={charset}"}
    assert "expected utf-8" in refused(gateway.send("POST", "/v1/classify", body, headers), 400, "invalid_form")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"\ud800": 1}),
        ("/v1/embeddings", {"input": "data:\ud800;base64,AAAA"}),
        ("/v1/embeddings", {"input": "a", "encoding_format": "\ud800"}),
        ("/v1/classify", {"images": RED, "classes": ["\ud800"]}),
        ("/v1/classify", {"images": RED, "classes": "\ud800"}),
        ("/v1/rank", {"query": "data:\ud800;base64,AAAA", "items": ["a red"]}),
    ],
)
def test_half_of_a_character_is_repeated_as_it_was_escaped(gateway, path, body):
    answer = gateway.post(path, body)
    assert answer.status in (400, 404)
    assert "ud800" in answer.error["message"]


def test_half_of_a_character_in_an_image_harms_no_other(gateway):
    images = ["data:\ud800;base64,AAAA", RED]
    skipped = gateway.post("/v1/embeddings", {"input": images, "on_error": "skip"}).json
    assert "ud800" in skipped["failures"][0]["reason"]
    bad, good = gateway.post("/v1/classify", {"images": images, "classes": ["red", "blue"]}).json["data"]
    assert "ud800" in bad["error"]["message"]
    assert good["top"][0]["class"] == "red"


def test_no_more_than_the_start_of_what_came_is_repeated(gateway):
    long = "x" * 10_000
    for path, body in (
        ("/v1/embeddings", {long: 1}),
        ("/v1/embeddings", {"input": "a", "encoding_format": long}),
        ("/v1/embeddings", {"input": "a", "dimensions": 10**4000}),
        ("/v1/classify", {"images": RED, "classes": long}),
        ("/v1/classify", {"images": RED, "classes": ["red"], "templates": long}),
    ):
        answer = gateway.post(path, body)
        assert answer.status in (400, 404, 501)
        assert len(answer.body) < 600
    body, headers = form([(long, b"x")])
    assert len(gateway.send("POST", "/v1/classify", body, headers).body) < 600


@pytest.mark.parametrize(
    ("path", "body", "param", "words"),
    [
        ("/v1/embeddings", {}, "input", "is missing"),
        ("/v1/embeddings", {"input": None}, "input", "is missing"),
        ("/v1/embeddings", {"input": []}, "input", "at least one item"),
        ("/v1/embeddings", {"input": "  "}, "input", "an empty text"),
        ("/v1/embeddings", {"input": ["a", ""]}, "input[1]", "an empty text"),
        ("/v1/embeddings", {"input": [1, 2]}, "input[0]", "tokens are not taken"),
        ("/v1/embeddings", {"input": [[1, 2]]}, "input[0]", "tokens are not taken"),
        ("/v1/embeddings", {"input": {"text": 1}}, "input.text", "a number; expected a string"),
        ("/v1/embeddings", {"input": {"image": None}}, "input.image", "null; expected an image"),
        ("/v1/embeddings", {"input": {"text": "a", "image": RED}}, "input", "an object; expected"),
        ("/v1/embeddings", {"input": ["a"] * 2049}, "input", "2049 items; expected at most 2048"),
        ("/v1/embeddings", {"input": "a", "model": 1}, "model", "a number; expected a string"),
        (
            "/v1/embeddings",
            {"input": "a", "encoding_format": "hex"},
            "encoding_format",
            "expected one of float, base64",
        ),
        ("/v1/embeddings", {"input": "a", "on_error": "return"}, "on_error", "expected one of raise, skip"),
        ("/v1/embeddings", {"input": "a", "dimension": 3}, "dimension", "did you mean dimensions?"),
        ("/v1/embeddings", {"input": "a", "zzz": 3}, "zzz", "the fields are input, model"),
        ("/v1/embeddings", ["a"], None, "a list; expected an object"),
        ("/v1/rank", {"items": ["a"]}, "query", "is missing"),
        ("/v1/rank", {"query": "a"}, "items", "is missing"),
        ("/v1/rank", {"query": "a", "items": ["b"], "top": 0}, "top", "from 1 to 2048"),
        ("/v1/classify", {"images": [RED]}, "classes", "is missing"),
        ("/v1/classify", {"classes": ["a"]}, "images", "is missing"),
        ("/v1/classify", {"images": [], "classes": ["a"]}, "images", "at least one item"),
        ("/v1/classify", {"images": {"image": RED}, "classes": ["a"]}, "images", "an object; expected a list"),
        ("/v1/classify", {"images": [1], "classes": ["a"]}, "images[0]", "a number; expected an image"),
        ("/v1/classify", {"images": RED, "classes": []}, "classes", "an empty list"),
        ("/v1/classify", {"images": RED, "classes": {"a": 1}}, "classes", "an object; expected a list"),
        ("/v1/classify", {"images": RED, "classes": ["a", 1]}, "classes[1]", "a number; expected a string"),
        ("/v1/classify", {"images": RED, "classes": ["a", "A"]}, "classes", "which are one class"),
        ("/v1/classify", {"images": RED, "classes": ["a", " "]}, "classes", "an empty name"),
        ("/v1/classify", {"images": RED, "classes": ["a"] * 10001}, "classes", "at most 10000"),
        ("/v1/embeddings", {"input": ["a", "b" * 8193]}, "input[1]", "8193 characters; expected at most 8192"),
        ("/v1/rank", {"query": "b" * 8193, "items": ["a"]}, "query", "8193 characters"),
        ("/v1/rank", {"query": "a", "items": [{"text": "b" * 8193}]}, "items[0].text", "8193 characters"),
        ("/v1/classify", {"images": RED, "classes": ["a", "b" * 201]}, "classes[1]", "expected at most 200"),
        (
            "/v1/classify",
            {"images": RED, "classes": ["a"], "templates": ["{}" + "b" * 200]},
            "templates[0]",
            "expected at most 200",
        ),
        (
            "/v1/classify",
            {"images": RED, "classes": [f"{i}" for i in range(10_000)], "templates": [f"{i} {{}}" for i in range(11)]},
            "templates",
            "110000 texts; at most 100000",
        ),
        ("/v1/classify", {"images": RED, "classes": ["a"], "templates": "none"}, "templates", "no set of them"),
        ("/v1/classify", {"images": RED, "classes": ["a"], "templates": ["{} {}"]}, "templates", "2 times"),
    ],
)
def test_what_is_wrong_is_named(gateway, path, body, param, words):
    answer = gateway.post(path, body)
    assert (answer.status, answer.error["param"], answer.error["type"]) == (400, param, "invalid_request_error")
    assert words in answer.error["message"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "Expecting value"),
        (b'{"input": "a"', "delimiter"),
        (b'{"input": "\xff"}', "utf-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"input": "\\ud800"}', "half of a character"),
    ],
)
def test_a_body_that_is_no_json_is_refused(gateway, body, words):
    answer = gateway.send("POST", "/v1/embeddings", body, {"Content-Type": "application/json; charset=utf-8"})
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    assert words in answer.error["message"]


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1/a.png", "https://example.org/a", " HTTPS://example.org", "file:///etc/passwd", "s3://a/b"]
)
def test_urls_are_refused_with_the_reason(gateway, url):
    for body, param in (({"input": ["a", url]}, "input[1]"), ({"input": {"image": url}}, "input.image")):
        assert "the gateway fetches none" in refused(gateway.post("/v1/embeddings", body), 400, "url_refused", param)
    refused(gateway.post("/v1/classify", {"images": [url], "classes": ["a"]}), 400, "url_refused", "images[0]")
    assert gateway.post("/v1/embeddings", {"input": {"text": f"a red at {url}"}}).status == 200


def test_the_model_is_shown_in_openais_form(gateway):
    (shown,) = gateway.get("/v1/models").json["data"]
    assert (shown["id"], shown["version"], shown["space_id"], shown["dimensions"]) == ("vit22b", 1, "space-one", 8)
    assert gateway.get("/v1/models/vit22b").json == shown
    refused(gateway.get("/v1/models/gpt"), 404, "model_not_found", "model")


def test_other_paths_and_methods_are_refused_in_the_same_form(gateway):
    refused(gateway.get("/v1/chat/completions"), 404, "not_found")
    answer = gateway.send("DELETE", "/v1/embeddings")
    refused(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "POST"
    assert gateway.send("HEAD", "/healthz").status == 200


def test_no_redirect_leads_to_the_host_that_a_caller_names(gateway):
    answer = gateway.get("/v1/models/", Host="example.org")
    assert (answer.status, answer.headers["Location"]) == (404, None)


def test_the_gateway_is_alive_and_ready(gateway):
    assert gateway.get("/healthz").json == {"status": "alive"}
    assert gateway.get("/readyz").json == {"status": "ready"}


def test_items_are_counted_by_what_became_of_them(gateway):
    series = [("image", "ok"), ("image", "failed"), ("text", "ok")]

    def counted():
        return [
            gateway.metric("items_total", route="/v1/embeddings", kind=kind, outcome=outcome)
            for kind, outcome in series
        ]

    before = counted()
    gateway.post("/v1/embeddings", {"input": [RED, BLUE, BROKEN, "a red"], "on_error": "skip"})
    assert [now - then for now, then in zip(counted(), before, strict=True)] == [2, 1, 1]


@pytest.mark.parametrize(
    ("code", "details", "status", "word", "retry"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted", 429, "upstream_overloaded", True),
        (grpc.StatusCode.INTERNAL, "it broke", 502, "upstream_failed", False),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "too late", 504, "upstream_timeout", False),
        (grpc.StatusCode.UNAUTHENTICATED, "no key", 502, "upstream_failed", False),
        (grpc.StatusCode.INVALID_ARGUMENT, "it is wrong", 400, "refused_by_model", False),
    ],
)
def test_errors_of_the_models_server_have_their_own_answers(standin, code, details, status, word, retry):
    with web_gateway.serve(standin.address) as gateway:
        standin.refusals = [(code, details)] * 10
        answer = gateway.post("/v1/embeddings", {"input": "a red"})
        message = refused(answer, status, word)
        assert message == details
        assert standin.address not in answer.body.decode()
        assert ("Retry-After" in answer.headers) == retry
        assert gateway.metric("upstream_errors_total", code=word) == 1


def test_a_server_that_is_away_is_told_and_is_found_when_it_is_back(unused_address):
    with web_gateway.serve(unused_address) as gateway:
        refused(gateway.post("/v1/embeddings", {"input": "a red"}), 502, "upstream_unreachable")
        refused(gateway.get("/v1/models"), 502, "upstream_unreachable")
        refused(gateway.get("/readyz"), 503, "not_ready")
        assert gateway.get("/healthz").status == 200
        with serve(StandIn(), unused_address):
            until(lambda: gateway.get("/readyz").status == 200)
            assert gateway.post("/v1/embeddings", {"input": "a red"}).status == 200


def test_a_model_or_a_version_that_is_not_served_is_not_ready(standin):
    with web_gateway.serve(standin.address, model="other") as gateway:
        refused(gateway.get("/readyz"), 503, "not_ready")
        refused(gateway.post("/v1/embeddings", {"input": "a red"}), 503, "model_not_served")
    with web_gateway.serve(standin.address, version=7) as gateway:
        assert "served: [1]; version 7 is asked for" in refused(gateway.get("/readyz"), 503, "not_ready")


def test_a_model_without_a_text_tower_takes_images_alone():
    with serve(StandIn(text=False, without=("embed_text",))) as standin, web_gateway.serve(standin.address) as gateway:
        np.testing.assert_array_equal(vectors(gateway.post("/v1/embeddings", {"input": RED})), colour(0))
        for path, body in (
            ("/v1/embeddings", {"input": [RED, "a red"]}),
            ("/v1/classify", {"images": RED, "classes": ["a", "b"]}),
        ):
            assert "no text tower" in refused(gateway.post(path, body), 400, "refused_by_model")
        assert gateway.get("/v1/models").json["data"][0]["text"] is False


def test_vectors_of_two_spaces_never_meet_in_one_answer(standin):
    with web_gateway.serve(standin.address) as gateway:
        body = {"input": [RED, "a red"]}
        assert gateway.post("/v1/embeddings", body).json["space_id"] == "space-one"
        # The version goes after the images and before the texts.
        standin.unloads_after = len(standin.requests) + 1
        answer = gateway.post("/v1/embeddings", body)
        assert (answer.json["space_id"], answer.json["version"]) == ("space-two", 2)
        np.testing.assert_array_equal(vectors(answer), colour(0, 0))
        assert len(standin.asked("embed_image_each")) == 3  # before, in the old space, and again


def test_more_dimensions_than_the_next_version_has_are_refused(monkeypatch):
    with serve(StandIn()) as standin, web_gateway.serve(standin.address) as gateway:
        gateway.get("/v1/models")
        standin.swap(2, "space-two")
        monkeypatch.setattr("tests.standin.WIDTH", 6)
        answer = gateway.post("/v1/embeddings", {"input": "a red", "dimensions": 8})
        assert "6" in refused(answer, 400, "invalid_value", "dimensions")


def test_a_version_that_changes_all_the_time_is_told(standin, monkeypatch):
    def refusal(spec, refusal=standin._refusal):
        """Whenever images were answered, a new version of a new space comes before the texts."""
        if spec.signature_name == "embed_text" and standin.version == len(standin.asked("embed_image_each")):
            standin.swap(standin.version + 1, f"space-{standin.version + 1}")
        return refusal(spec)

    monkeypatch.setattr(standin, "_refusal", refusal)
    with web_gateway.serve(standin.address) as gateway:
        answer = gateway.post("/v1/embeddings", {"input": [RED, "a red"]})
        assert answer.status == 503
        assert answer.error["code"] == "space_changed"
        assert answer.headers["Retry-After"] == "1"


def test_the_true_models_vectors_are_the_clients(served, digits):
    paths = sorted((digits / "heldout").rglob("*.png"))[:3]
    with Client(served.address, served.model) as client, web_gateway.serve(served.address, served.model) as gateway:
        images = client.embed_images(paths)
        texts = client.embed_texts(["the number 3."])
        encoded = [data_uri(path.read_bytes()) for path in paths]
        answer = gateway.post("/v1/embeddings", {"input": [*encoded, "the number 3."], "model": "digits"})
        expected = np.concatenate([images.vectors, texts.vectors])
        np.testing.assert_allclose(vectors(answer), expected, atol=1e-6)
        assert answer.json["space_id"] == images.space_id
        classes = ["two", "three"]
        found = gateway.post("/v1/classify", {"images": encoded, "classes": classes, "templates": "digits", "top": 1})
        scores = client.classify(paths, classes, ["digits"])
        assert [entry["top"][0]["class"] for entry in found.json["data"]] == [best[0][0] for best in scores.top()]


def test_requests_are_answered_side_by_side(standin):
    standin.delay = 0.2
    with web_gateway.serve(standin.address) as gateway:
        gateway.get("/v1/models")
        threads = [threading.Thread(target=gateway.post, args=("/v1/embeddings", {"input": "a red"})) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert standin.most_under_way > 1
