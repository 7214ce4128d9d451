import pytest

from serving.rest_paths import PREFIX, Route, parse


@pytest.mark.parametrize(
    ("method", "path", "route"),
    [
        ("POST", "/v1/models/m:predict", Route("Predict", "m")),
        ("POST", "/V1/MODELS/m/Versions/007:classify", Route("Classify", "m", 7)),
        ("POST", "/v1/models/a%2Fb/labels/l%20x:regress", Route("Regress", "a/b", None, "l x")),
        ("GET", "/v1/models/m", Route("GetModelStatus", "m")),
        ("GET", "/v1/models/m?x=1", Route("GetModelStatus", "m?x=1")),
        ("GET", "/v1/models/m/versions/1", Route("GetModelStatus", "m", 1)),
        ("GET", "/v1/models/m/labels/l/metadata", Route("GetModelMetadata", "m", None, "l")),
        ("GET", "/v1/models/metadata", Route("GetModelStatus", "metadata")),
        ("GET", "/v1/models", Route("GetModelStatus", error="Missing model name in request.")),
        ("GET", "/v1/models/m/versions/9223372036854775808", Route(model="m", error="")),
        ("POST", f"/v1/models/m/versions/{'9' * 5000}:predict", Route(model="m", error="")),
        ("GET", f"/v1/models/m/versions/{'0' * 5000}7", Route("GetModelStatus", "m", 7)),
        ("GET", "/v1/models/m/versions/00", Route("GetModelStatus", "m", 0)),
    ],
)
def test_a_path_names_a_method_of_a_model(method, path, route):
    assert parse(method, path) == route


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/models/m"),
        ("POST", "/v1/models/m:predict/"),
        ("POST", "/v1/models/m:nope"),
        ("POST", "/v1/models/m/versions/x:predict"),
        ("POST", "/v1/models/m/versions/1/labels/l:predict"),
        ("POST", "/v1/models/:predict"),
        ("GET", "/v1/"),
        ("GET", "/v1/models/"),
        ("GET", "/v1/models/m:predict"),
        ("GET", "/v1/models/m/versions"),
        ("GET", "/v1/models/m/metadata/"),
        ("PUT", "/v1/models/m:predict"),
        ("HEAD", "/v1/models/m"),
    ],
)
def test_a_path_that_names_none_is_malformed(method, path):
    assert parse(method, path) == Route(error=f"Malformed request: {method} {path}")


def test_the_last_word_is_compared_with_its_case():
    assert parse("POST", "/v1/models/m:Predict").error == "Malformed request: POST /v1/models/m:Predict"
    assert parse("GET", "/v1/models/m/Metadata") == Route("GetModelStatus", "m")


def test_a_route_makes_a_spec():
    assert str(parse("POST", "/v1/models/m/versions/3:predict").spec) == 'name: "m"\nversion {\n  value: 3\n}\n'
    assert str(parse("POST", "/v1/models/m/labels/l:predict").spec) == 'name: "m"\nversion_label: "l"\n'
    parse("GET", "/v1/models/%ff").spec.SerializeToString()  # what is no UTF-8 was replaced


def test_the_api_lies_below_one_folder():
    assert [bool(PREFIX.fullmatch(path)) for path in ("/v1/", "/V1/x", "/v1", "/", "/v2/x")] == [1, 1, 0, 0, 0]
