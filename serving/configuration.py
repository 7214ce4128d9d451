"""Which models a server is to have: a ModelServerConfig, checked before anything of it takes effect.

Where the server begins on the way SavedModel -> [server] -> client. The configuration comes from the flags of one
model, from --model_config_file or from a HandleReloadConfigRequest. Checks, their order and their texts are TensorFlow
Serving's, which has done a part of what is asked before it finds the rest to be wrong; here it is all or nothing.
"""

import logging
from collections.abc import Mapping

from tensorflow_serving.config import model_server_config_pb2
from tensorflow_serving.config.model_server_config_pb2 import ModelConfig, ModelServerConfig

from serving.flags import Flags
from serving.status import invalid, unmet
from serving.text_protos import read_text_proto

PLATFORM = "tensorflow"
LIST = "model_config_list"

_UNSPECIFIED, _TENSORFLOW = model_server_config_pb2.MODEL_TYPE_UNSPECIFIED, model_server_config_pb2.TENSORFLOW

logger = logging.getLogger(__name__)


def first_configuration(flags: Flags) -> ModelServerConfig:
    """What --model_config_file has, or the one model of --model_name and --model_base_path.

    Raises:
        tf.errors.OpError: the file cannot be read, or is no ModelServerConfig.
    """
    if flags.model_config_file:
        return read_text_proto(flags.model_config_file, ModelServerConfig())
    return one_model(flags.model_name, flags.model_base_path)


def one_model(name: str, base_path: str) -> ModelServerConfig:
    """The configuration that --model_name and --model_base_path stand for."""
    logger.info("Building single TensorFlow model file config:  model_name: %s model_base_path: %s", name, base_path)
    config = ModelServerConfig()
    config.model_config_list.config.add(name=name, base_path=base_path, model_platform=PLATFORM)
    return config


def is_list(config: ModelServerConfig, *, first: bool) -> bool:
    """Whether a configuration lists models; an empty one is none, and fine if it is the first.

    Raises:
        tf.errors.InvalidArgumentError: it is of another kind.
        tf.errors.FailedPreconditionError: it is empty, and not the first.
    """
    kind = config.WhichOneof("config")
    if kind == "custom_model_config":
        text = f"ModelServer does not yet support custom model config; expected {LIST}"
        raise invalid(text)
    if kind is None and not first:
        text = "Cannot transition to requested config. It is only legal to transition from one ModelConfigList to "
        raise unmet(f"{text}another.")
    if kind is None:
        logger.info("Taking no action for empty config.")
    return kind == LIST


def check_list(config: ModelServerConfig, before: Mapping[str, ModelConfig]) -> dict[str, ModelConfig]:
    """The models of a configuration by name, as far as names, paths and changes of platform go.

    Args:
        config: with a model_config_list.
        before: the models that are served so far.

    Raises:
        tf.errors.InvalidArgumentError: a name is there twice, a path is not absolute, a platform changes.
    """
    models: dict[str, ModelConfig] = {}
    for model in config.model_config_list.config:
        if model.name in models:
            raise invalid(f"Illegal to list model {model.name} multiple times in config list")
        models[model.name] = model
    for model in models.values():
        _check_path(model)
    for name in models.keys() & before.keys():
        old, new = platform(before[name]), platform(models[name])
        if old != new:
            raise invalid(
                f"Illegal to change a model's platform. For model {name} platform was {old} and new platform requested "
                f"is {new}"
            )
    return models


def check_models(models: Mapping[str, ModelConfig]) -> None:
    """What is checked of each model behind its labels.

    Raises:
        tf.errors.InvalidArgumentError: a platform is missing or not TensorFlow's, or requests are to be logged.
    """
    for model in models.values():
        asked = platform(model)
        if asked != PLATFORM:
            raise invalid(f"Model {model.name} requests unsupported platform {asked}")
    if any(model.HasField("logging_config") for model in models.values()):
        raise invalid("No request-logger-creator provided.")


def platform(model: ModelConfig) -> str:
    """The platform of a model, by whichever of its two fields.

    Raises:
        tf.errors.InvalidArgumentError: it has both, or none.
    """
    if model.model_type == _UNSPECIFIED:
        if not model.model_platform:
            raise invalid(
                "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
                f"ModelServerConfig::model_platform, model name is {model.name}"
            )
        return model.model_platform
    logger.warning("Deprecated ModelServerConfig::model_type field used. Prefer ModelServerConfig::model_platform.")
    if model.model_platform:
        raise invalid(
            "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform, "
            f"model name is {model.name}"
        )
    if model.model_type != _TENSORFLOW:
        raise invalid(f"ModelServerConfig::model_type choice {model.model_type} not supported.")
    return PLATFORM


def _check_path(model: ModelConfig) -> None:
    """A path is absolute, and of this host: the real server reads URIs of object stores too."""
    path = model.base_path
    if "://" in path:
        raise invalid(
            f"Model {model.name} has the URI {path} as its base_path; expected the absolute path of a directory: "
            "mount the store, or copy the versions to a disk"
        )
    if not path.startswith("/"):
        raise invalid(f"Expected model {model.name} to have an absolute path or URI; got base_path()={path}")
