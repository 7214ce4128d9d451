"""The recipes of serving/docker and serving/kubernetes: held to the schemas, to each other, and to the servers' flags.

No image was pulled and no cluster was at hand. What a running server says to them is in test_production.py.
"""

import ast
import dataclasses
import re
import shutil
import subprocess
import sys

import jsonpatch
import kubernetes_validate
import pytest
import yaml
from google.protobuf import text_format

from serving import flags, metrics_page
from serving.call import Call
from serving.monitoring import Monitoring
from serving.server_config_pb2 import BatchingParameters, MonitoringConfig
from tests.recipes import (
    COMPOSE,
    CONFIG,
    KUBERNETES,
    OVERLAYS,
    ROOT,
    container,
    model_config,
    pod_settings,
    rendered,
    service_settings,
    services,
)

SERVICES = ("cpu", "gpu", "embedded")
VERSION = "1.33"

# What the drain of a pod has to outlive, in seconds.
LEAVES_ENDPOINTS = 10
LONGEST_REQUEST = 60  # the timeout of clients/, unless they say another
AGE_JITTER = 1.1  # gRPC lets a connection be older by a tenth


@pytest.fixture(params=OVERLAYS)
def overlay(request):
    return request.param


@pytest.fixture
def objects(overlay):
    return rendered(overlay)


@pytest.fixture(params=SERVICES)
def service(request):
    return services()[request.param]


def validate(objects):
    for one in objects.values():
        kubernetes_validate.validate(one, VERSION, strict=True)


def test_what_is_applied_is_what_kubernetes_takes(objects):
    kinds = {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "PersistentVolumeClaim"}
    assert objects.keys() == kinds | {"NetworkPolicy", "ConfigMap"}
    validate(objects)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Deployment", "/spec/template/spec/containers/0/readinessProbe/httpGet/port", None),
        ("Deployment", "/spec/template/spec/terminationGracePeriod", 120),
        ("Deployment", "/spec/template/spec/containers/0/resources/limits/memory", ["8Gi"]),
        ("HorizontalPodAutoscaler", "/spec/metrics/0/pods/metric/name", None),
        ("PodDisruptionBudget", "/spec/maximum", 1),
        ("NetworkPolicy", "/spec/ingress/0/ports/0/protocol", 6),
    ],
)
def test_a_mistake_in_what_is_applied_is_found(kind, path, value):
    objects = rendered("base")
    changed = jsonpatch.apply_patch(objects[kind], [{"op": "add", "path": path, "value": value}])
    with pytest.raises(kubernetes_validate.ValidationError):
        validate({kind: changed})


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl, which has kustomize, is not installed")
def test_kustomize_writes_the_same(overlay, objects):
    run = ["kubectl", "kustomize", str(KUBERNETES / overlay)]
    written = yaml.safe_load_all(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    assert {one["kind"]: one for one in written} == objects


def test_the_pod_that_copies_is_what_kubernetes_takes_and_writes_what_the_servers_read():
    pod = yaml.safe_load((KUBERNETES / "copy.yaml").read_text())
    kubernetes_validate.validate(pod, VERSION, strict=True)
    base = rendered("base")
    server = base["Deployment"]["spec"]["template"]["spec"]
    claim = base["PersistentVolumeClaim"]["metadata"]["name"]
    assert pod["spec"]["volumes"][0]["persistentVolumeClaim"] == {"claimName": claim}
    assert server["volumes"][0]["persistentVolumeClaim"] == {"claimName": claim, "readOnly": True}
    assert pod["spec"]["securityContext"]["runAsUser"] == server["securityContext"]["runAsUser"]
    assert pod["spec"]["containers"][0]["image"] == container(base)["image"]
    assert base["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]


def mistakes(path):
    """What is wrong with a compose file by the schema of the Compose Specification; nothing is fetched."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    return checked.stdout if checked.returncode else ""


def test_the_compose_file_is_what_the_specification_takes(tmp_path):
    assert mistakes(COMPOSE) == ""
    broken = yaml.safe_load(COMPOSE.read_text())
    broken["services"]["cpu"]["healthcheck"]["start"] = "30m"
    (tmp_path / "compose.yaml").write_text(yaml.safe_dump(broken))
    assert "start" in mistakes(tmp_path / "compose.yaml")


def test_a_recipe_passes_flags_of_its_server_that_do_not_contradict_each_other(objects):
    options = pod_settings(objects)
    assert flags.contradiction(options) == ""
    assert options.xla_cpu_compilation_enabled
    assert options.enable_model_warmup
    assert options.allow_version_labels_for_unavailable_models
    assert not options.enable_batching
    for path in (options.model_config_file, options.monitoring_config_file):
        assert path.removeprefix("/etc/serving/") in objects["ConfigMap"]["data"]
    ports = {port["name"]: port["containerPort"] for port in container(objects)["ports"]}
    assert ports == {"grpc": options.port, "rest": options.rest_api_port}
    assert {port["name"] for port in objects["Service"]["spec"]["ports"]} == ports.keys()


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_of_compose_has_the_flags_of_the_pod(name):
    assert services().keys() == set(SERVICES)
    objects, service = rendered({"cpu": "base"}.get(name, name)), services()[name]
    # The age of connections is for pods that come and go.
    assert service_settings(service) == dataclasses.replace(pod_settings(objects), grpc_channel_arguments="")
    if name != "embedded":
        assert service["image"] == container(objects)["image"]


def test_images_have_versions(objects):
    image = container(objects)["image"]
    assert re.fullmatch(r"(tensorflow/serving:\d+\.\d+\.\d+(-gpu)?|REGISTRY/[\w-]+:VERSION)", image)


def test_no_pod_is_ready_before_its_version_answers(objects):
    pod = container(objects)
    (model,) = model_config().model_config_list.config
    allowed = pod["startupProbe"]["failureThreshold"] * pod["startupProbe"]["periodSeconds"]
    assert pod["startupProbe"]["tcpSocket"] == {"port": "rest"}
    assert objects["Deployment"]["spec"]["progressDeadlineSeconds"] > allowed >= 1800
    ready = pod["readinessProbe"]["httpGet"]
    assert ready == {"path": f"/v1/models/{model.name}/labels/stable/metadata", "port": "rest"}
    assert "stable" in model.version_labels
    alive = pod["livenessProbe"]
    monitoring = text_format.Parse((CONFIG / "monitoring.config").read_text(), MonitoringConfig())
    assert alive["httpGet"] == {"path": monitoring.prometheus_config.path, "port": "rest"}
    assert alive["failureThreshold"] * alive["periodSeconds"] > 60


def test_a_pod_ends_when_its_last_request_has_been_answered(objects):
    options = pod_settings(objects)
    name, age = options.grpc_channel_arguments.split("=")
    assert name == "grpc.max_connection_age_ms"
    command, seconds = container(objects)["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    assert int(seconds) >= LEAVES_ENDPOINTS + int(age) / 1000 * AGE_JITTER + LONGEST_REQUEST
    drain = options.drain_seconds if container(objects)["command"][0] == "python" else 0
    assert objects["Deployment"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > int(seconds) + drain


def test_a_pod_has_resources_and_no_rights(overlay, objects):
    spec, pod = objects["Deployment"]["spec"]["template"]["spec"], container(objects)
    resources, rights = pod["resources"], pod["securityContext"]
    assert resources["requests"]["memory"] == resources["limits"]["memory"]
    assert "cpu" in resources["requests"]
    assert rights["readOnlyRootFilesystem"]
    chip = {"gpu": "nvidia.com/gpu", "tpu": "google.com/tpu"}.get(overlay)
    assert resources["limits"].keys() == {"memory", chip} - {None}
    if overlay != "tpu":  # whose devices are root's
        assert spec["securityContext"]["runAsNonRoot"]
        assert not rights["allowPrivilegeEscalation"]
        assert rights["capabilities"] == {"drop": ["ALL"]}
    mounts = {mount["name"]: mount for mount in pod["volumeMounts"]}
    assert mounts["models"]["readOnly"]
    assert mounts["config"]["readOnly"]
    assert all("subPath" not in mount for mount in mounts.values())


def test_a_service_of_compose_has_no_rights_and_is_open_to_this_host_alone(service):
    assert service["user"].partition(":")[0] != "0"
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert all(volume.endswith(":ro") for volume in service["volumes"])
    assert service["image"].rpartition(":")[2] in ("2.20.0", "2.20.0-gpu", "local")
    if "stop_grace_period" in service:
        assert int(service["stop_grace_period"].removesuffix("s")) > service_settings(service).drain_seconds


def test_compose_mounts_the_configuration_of_the_pods(service):
    (config,) = (volume for volume in service["volumes"] if ":/etc/serving" in volume)
    assert (COMPOSE.parent / config.partition(":")[0]).resolve() == CONFIG


def adapter_rules():
    return yaml.safe_load((KUBERNETES / "monitoring" / "adapter.yaml").read_text())["rules"]["custom"]


def test_pods_are_scaled_by_a_metric_that_the_adapter_makes(objects):
    scaler, deployment = objects["HorizontalPodAutoscaler"]["spec"], objects["Deployment"]
    (metric,) = scaler["metrics"]
    assert metric["pods"]["metric"]["name"] in [rule["name"]["as"] for rule in adapter_rules()]
    assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert scaler["minReplicas"] > 1
    assert "replicas" not in deployment["spec"]


def test_every_object_is_about_the_pods(objects):
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for kind in ("PodDisruptionBudget", "Deployment"):
        assert objects[kind]["spec"]["selector"]["matchLabels"] == labels
    assert objects["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    assert objects["Service"]["spec"]["selector"] == labels
    assert objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels


def queries():
    """What Prometheus is asked, by what it is asked for."""
    for rule in adapter_rules():
        yield rule["name"]["as"], rule["seriesQuery"] + rule["metricsQuery"]
    for group in yaml.safe_load((KUBERNETES / "monitoring" / "alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def shown():
    """The names of the samples on the embedded server's page, with the labels that each has."""
    monitoring = Monitoring()
    monitoring.end(Call("Predict", "GRPC", model="m", seconds={"run": 0.1}, admitted=1.0), "OK", 0.1)
    monitoring.end(Call("Predict", "GRPC", model="m", refused="threads"), "RESOURCE_EXHAUSTED", 0)
    monitoring.loaded("/m/1", "success", 1)
    monitoring.warmed_up("/m/1", "OK", 1, 1)
    samples = re.findall(r"^([\w:]+)\{(.*)\} ", metrics_page.text(monitoring), flags=re.MULTILINE)
    return {name: set(re.findall(r"(\w+)=", labels)) for name, labels in samples}


def test_every_metric_that_is_asked_for_is_on_the_page_with_the_labels_asked_for():
    samples, named = shown(), set()
    for name, query in queries():
        asked = set(re.findall(r"(\w+)[=!]~?\"", query)) - {"__name__", "namespace", "pod", "deployment"}
        for group in re.findall(r"by \((\w[^)]*)\)", query):
            asked |= set(group.split(", "))
        for metric in re.findall(r":(?:tensorflow|vit22b):[a-z0-9_:]+", query):
            named.add(metric)
            if ":batching:" not in metric:  # TensorFlow's own, which the embedded server does not show
                assert asked <= samples[metric], (name, metric)
    assert len(named) == 9


def test_the_batching_that_is_there_to_be_asked_for_is_whole():
    batching = text_format.Parse((CONFIG / "batching.config").read_text(), BatchingParameters())
    assert batching.allowed_batch_sizes[-1] == batching.max_batch_size.value
    assert list(batching.allowed_batch_sizes) == sorted(batching.allowed_batch_sizes)
    assert min(batching.num_batch_threads.value, batching.max_enqueued_batches.value) > 0


# What the image of the embedded server installs, by the package that is imported.
INSTALLED = {
    "aiohttp": "aiohttp",
    "google": "tensorflow",
    "grpc": "tensorflow-serving-api",
    "grpc_health": "grpcio-health-checking",
    "numpy": "tensorflow",
    "opentelemetry": "opentelemetry-sdk",
    "prometheus_client": "prometheus_client",
    "tensorflow": "tensorflow",
    "tensorflow_serving": "tensorflow-serving-api",
}


def imported():
    """The packages that the server imports and that are neither Python's nor this project's."""
    names = set()
    for path in (ROOT / "serving").glob("*.py"):
        if path.name.startswith("gateway"):  # another program, which is a client of the server
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {"serving", "vit22b"}


def test_the_image_of_the_embedded_server_has_what_it_imports():
    dockerfile = (COMPOSE.parent / "Dockerfile").read_text()
    installed = set(re.findall(r"^    ([\w-]+)(?: \\)?$", dockerfile, flags=re.MULTILINE))
    assert {INSTALLED[name] for name in imported()} == installed - {"opentelemetry-exporter-otlp-proto-grpc"}
    for copied in ("vit22b", "serving", "pyproject.toml", "constraints.txt", "README.md"):
        assert (ROOT / copied).exists()
        assert copied in dockerfile
