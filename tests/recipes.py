"""The recipes of serving/docker and serving/kubernetes as what would be applied, for the tests."""

from pathlib import Path

import jsonpatch
import yaml
from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from serving import command_line
from serving.flags import Flags

ROOT = Path(__file__).parents[1]
KUBERNETES = ROOT / "serving" / "kubernetes"
CONFIG = KUBERNETES / "base" / "config"
COMPOSE = ROOT / "serving" / "docker" / "compose.yaml"
OVERLAYS = ("base", "gpu", "tpu", "embedded")


def rendered(overlay):
    """An overlay's objects by kind, as kustomize writes them, as far as the recipes make use of it."""
    asked = yaml.safe_load((KUBERNETES / overlay / "kustomization.yaml").read_text())
    objects = {}
    for resource in asked["resources"]:
        if resource.startswith("../"):
            objects |= rendered(resource.removeprefix("../"))
        else:
            made = yaml.safe_load((KUBERNETES / overlay / resource).read_text())
            objects[made["kind"]] = made
    for generated in asked.get("configMapGenerator", ()):
        objects["ConfigMap"] = _config_map(generated, KUBERNETES / overlay)
    for image in asked.get("images", ()):
        name, _, tag = container(objects)["image"].partition(":")
        assert name == image["name"]
        container(objects)["image"] = f"{image.get('newName', name)}:{image.get('newTag', tag)}"
    for patch in asked.get("patches", ()):
        kind = patch["target"]["kind"]
        assert objects[kind]["metadata"]["name"] == patch["target"]["name"]
        objects[kind] = jsonpatch.apply_patch(objects[kind], yaml.safe_load(patch["patch"]))
    return objects


def _config_map(generated, folder):
    assert generated["options"] == {"disableNameSuffixHash": True}
    files = [folder / path for path in generated["files"]]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": generated["name"]},
        "data": {file.name: file.read_text() for file in files},
    }


def container(objects):
    """The one container of the pods."""
    (one,) = objects["Deployment"]["spec"]["template"]["spec"]["containers"]
    return one


def services():
    """The services of the compose file."""
    return yaml.safe_load(COMPOSE.read_text())["services"]


def settings(program, given):
    """What a command line says; its flags have to be flags of its server, each given once."""
    names = [flag.removeprefix("--").partition("=")[0] for flag in given]
    assert len(names) == len(set(names))
    known = list(Flags.__dataclass_fields__)
    if program == ["tensorflow_model_server"]:
        known = known[: known.index("bind_address")]  # from which on they are the embedded server's own
    else:
        assert program == ["python", "serving/model_server.py"]
    assert set(names) <= set(known)
    return command_line.parse(given)


def pod_settings(objects):
    """What the pods' command line says."""
    return settings(container(objects)["command"], container(objects)["args"])


def service_settings(service):
    """What the command line of a service says."""
    entry = service["entrypoint"]
    count = 2 if entry[0] == "python" else 1
    return settings(entry[:count], [*entry[count:], *service["command"]])


def model_config():
    """The configuration that the recipes begin with."""
    return text_format.Parse((CONFIG / "models.config").read_text(), ModelServerConfig())
