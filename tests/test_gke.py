import copy
import math
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from train import pretrain

FOLDER = Path(__file__).parent.parent / "train" / "gke"
RECIPES = sorted(FOLDER.glob("*.yaml"))
KUBERNETES = "1.33"

STRINGS = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}


def fields(required=(), **properties):
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


# JobSet's own fields, as its API v1alpha2 has them; the job inside is Kubernetes' own.
ACTIONS = ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts", "RestartJob"]
REASONS = ["BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes", "MaxFailedIndexesExceeded", "PodFailurePolicy"]
RULE = fields(
    ["name", "action"],
    name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
    action={"enum": ACTIONS},
    onJobFailureReasons={**STRINGS, "items": {"enum": REASONS}},
    onJobFailureMessagePatterns=STRINGS,
    targetReplicatedJobs=STRINGS,
)
JOBSET = fields(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata={"type": "object", "required": ["name"]},
    spec=fields(
        ["replicatedJobs"],
        failurePolicy=fields(
            maxRestarts={"type": "integer", "minimum": 0},
            restartStrategy={"enum": ["Recreate", "BlockingRecreate"]},
            rules={"type": "array", "items": RULE},
        ),
        network=fields(
            enableDNSHostnames={"type": "boolean"},
            publishNotReadyAddresses={"type": "boolean"},
            subdomain={"type": "string"},
        ),
        replicatedJobs={
            "type": "array",
            "minItems": 1,
            "items": fields(
                ["name", "template"],
                name={"type": "string"},
                replicas={"type": "integer", "minimum": 0},
                template=fields(["spec"], metadata={"type": "object"}, spec={"type": "object"}),
            ),
        },
    ),
)


@pytest.fixture(params=RECIPES, ids=lambda path: path.stem)
def recipe(request):
    return yaml.safe_load(request.param.read_text())


def jobs(recipe):
    """The jobs of a JobSet, as Kubernetes would get them."""
    for job in recipe["spec"]["replicatedJobs"]:
        yield {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]}, **job["template"]}


def pod(recipe):
    """The one kind of pod of a recipe."""
    (job,) = jobs(recipe)
    return job["spec"]["template"]["spec"]


def validate(recipe):
    jsonschema.validate(recipe, JOBSET)
    for job in jobs(recipe):
        kubernetes_validate.validate(job, KUBERNETES, strict=True)


def test_there_is_a_recipe():
    assert RECIPES


def test_a_recipe_is_what_kubernetes_and_jobset_take(recipe):
    validate(recipe)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.failurePolicy.rules.0.action", "Restart"),
        ("spec.failurePolicy.maxRestart", 3),
        ("spec.replicatedJobs.0.template.spec.parallelism", "sixteen"),
        ("spec.replicatedJobs.0.template.spec.template.spec.terminationGracePeriod", 300),
        ("spec.replicatedJobs.0.template.spec.podFailurePolicy.rules.0.onExitCodes.operator", None),
        ("spec.replicatedJobs.0.template.spec.template.spec.containers.0.ports.0.containerPort", "8471"),
    ],
)
def test_a_mistake_in_a_recipe_is_found(recipe, path, value):
    recipe = copy.deepcopy(recipe)
    *inner, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    place = recipe
    for key in inner:
        place = place[key]
    place[last] = value
    with pytest.raises(jsonschema.ValidationError):
        validate(recipe)


def test_the_chips_of_a_recipe_are_those_of_its_topology_and_of_its_mesh(recipe, settings):
    (job,) = recipe["spec"]["replicatedJobs"]
    topology = pod(recipe)["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = math.prod(int(side) for side in topology.split("x"))
    (container,) = pod(recipe)["containers"]
    spec = job["template"]["spec"]
    assert container["resources"]["limits"] == container["resources"]["requests"]
    assert spec["parallelism"] == spec["completions"]
    assert job["replicas"] * spec["parallelism"] * container["resources"]["limits"]["google.com/tpu"] == chips
    data, model = (int(side) for side in settings.compute.mesh.split("x"))
    assert data * model == chips
    assert settings.batch % (data * settings.compute.accumulate) == 0


@pytest.fixture
def settings(recipe, run_program):
    """What the recipe's command line says to the trainer."""
    (container,) = pod(recipe)["containers"]
    assert container["command"] == ["python", "train/pretrain.py"]
    parsed = []
    assert run_program(parsed.append, pretrain.Settings, *container["args"]) == 0
    return parsed[0]


def test_what_was_stopped_is_started_again_and_what_is_wrong_is_not(recipe, settings):
    (job,) = jobs(recipe)
    (exits, disrupted) = job["spec"]["podFailurePolicy"]["rules"]
    assert exits["action"] == disrupted["action"] == "FailJob"
    assert settings.stop_code in exits["onExitCodes"]["values"]
    assert exits["onExitCodes"]["containerName"] == pod(recipe)["containers"][0]["name"]
    rules = {rule["name"]: rule["action"] for rule in recipe["spec"]["failurePolicy"]["rules"]}
    assert rules == {"wrongSettings": "FailJobSet", "stopped": "RestartJobSetAndIgnoreMaxRestarts"}


def test_the_hosts_find_each_other_and_have_time_to_save(recipe, settings):
    assert settings.hosts.coordinator == "auto"
    assert recipe["spec"]["network"] == {"enableDNSHostnames": True, "publishNotReadyAddresses": True}
    assert pod(recipe)["terminationGracePeriodSeconds"] > settings.hosts.heartbeat_seconds


def test_the_image_has_what_the_command_runs():
    dockerfile = (FOLDER / "Dockerfile").read_text()
    assert "COPY vit22b vit22b" in dockerfile
    assert "COPY train train" in dockerfile
    for name in ("pyproject.toml", "constraints.txt", "README.md"):
        assert (FOLDER.parent.parent / name).is_file()
        assert name in dockerfile
