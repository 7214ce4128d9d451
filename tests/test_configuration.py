import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from serving import configuration


def parsed(models):
    return text_format.Parse(f"model_config_list {{ {models} }}", ModelServerConfig())


def config(name="a", base_path="/m", rest='model_platform: "tensorflow"'):
    return f'config {{ name: "{name}" base_path: "{base_path}" {rest} }}'


def check(models, before=""):
    checked = configuration.check_list(parsed(models), configuration.check_list(parsed(before), {}))
    configuration.check_models(checked)
    return checked


def test_the_flags_of_one_model_stand_for_a_configuration():
    assert configuration.one_model("a", "/m") == parsed(config())


def test_models_are_found_by_name_and_may_share_a_path():
    checked = check(config() + config("b"))
    assert [(name, model.base_path) for name, model in checked.items()] == [("a", "/m"), ("b", "/m")]
    assert check("") == {}


def test_the_deprecated_type_is_understood(caplog):
    assert list(check(config(rest="model_type: TENSORFLOW"), before=config())) == ["a"]
    assert "Deprecated ModelServerConfig::model_type field used." in caplog.text


NEITHER = (
    "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform, "
    "model name is a"
)


@pytest.mark.parametrize(
    ("models", "text"),
    [
        (config() + config(), "Illegal to list model a multiple times in config list"),
        (
            config(base_path="models/a"),
            "Expected model a to have an absolute path or URI; got base_path()=models/a",
        ),
        (config(base_path=""), "Expected model a to have an absolute path or URI; got base_path()="),
        (config(rest=""), NEITHER),
        (config("b", rest='model_platform: "onnx"'), "Model b requests unsupported platform onnx"),
        (
            config(rest='model_platform: "tensorflow" model_type: TENSORFLOW'),
            (
                "Illegal setting both ModelServerConfig::model_type (deprecated) and "
                "ModelServerConfig::model_platform, model name is a"
            ),
        ),
        (config("b", rest="model_type: OTHER"), "ModelServerConfig::model_type choice 2 not supported."),
        (
            config(rest='model_platform: "tensorflow" logging_config {}'),
            "No request-logger-creator provided.",
        ),
        (
            config(rest='model_platform: "onnx"'),
            (
                "Illegal to change a model's platform. For model a platform was tensorflow and new platform requested "
                "is onnx"
            ),
        ),
        # The first of two mistakes is the real server's first.
        (config(base_path="x", rest="") + config(), "Illegal to list model a multiple times in config list"),
    ],
)
def test_what_is_wrong_is_refused_with_the_real_servers_words(models, text):
    with pytest.raises(tf.errors.InvalidArgumentError) as refused:
        check(models, before=config())
    assert refused.value.message == text


def test_a_uri_is_refused_with_the_remedy():
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"has the URI gs://bucket/m .* mount the store"):
        check(config(base_path="gs://bucket/m"))
