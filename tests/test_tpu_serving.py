"""The scripts of serving/tpu. Docker, converter and TPU are stood in for: only what is asked of them is shown."""

import os
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "serving" / "tpu"
# Writes down what it is asked, and stands in for the converter: the output has a saved_model.pb and nothing else.
DOCKER = """#!/bin/bash
printf '%s\\n' "$@" > "$ASKED"
for argument; do
  case $argument in type=bind,source=*,target=/tmp/output) folder=${argument#*source=}; folder=${folder%%,*} ;; esac
done
[[ -z ${folder:-} ]] || echo converted > "$folder/saved_model.pb"
exit "${DOCKER_EXIT:-0}"
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text(DOCKER)
    (tmp_path / "bin" / "docker").chmod(0o755)

    def run_script(name, *arguments, **environment):
        known = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "ASKED": str(tmp_path / "asked")}
        command = [FOLDER / name, *map(str, arguments)]
        return subprocess.run(command, env={**known, **environment}, capture_output=True, text=True, check=False)

    return run_script


@pytest.fixture
def version(tmp_path):
    folder = tmp_path / "models" / "digits" / "3"
    (folder / "assets.extra").mkdir(parents=True)
    (folder / "saved_model.pb").write_text("exported")
    (folder / "assets.extra" / "converter_options.textproto").write_text('tpu_functions { function_alias: "a" }\n')
    (folder / "assets.extra" / "vit22b.json").write_text("{}")
    (folder / "assets.extra" / "tf_serving_warmup_requests").write_text("requests")
    return folder


@pytest.mark.parametrize("script", sorted(FOLDER.glob("*.sh")), ids=lambda path: path.name)
def test_a_script_is_one_of_bash_and_can_be_run(script):
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK)


def test_the_converter_gets_the_options_and_its_version_appears_whole(run, version, tmp_path):
    ran = run("convert.sh", version, tmp_path / "tpu" / "digits", CONVERTER_IMAGE="an/image:1")
    assert ran.returncode == 0, ran.stderr
    asked = (tmp_path / "asked").read_text()
    assert "an/image:1\n--input_model_dir=/tmp/input\n--output_model_dir=/tmp/output\n" in asked
    assert '--converter_options_string=tpu_functions { function_alias: "a" }' in asked
    assert f"type=bind,source={version},target=/tmp/input,readonly" in asked
    written = tmp_path / "tpu" / "digits" / "3"
    assert (written / "saved_model.pb").read_text() == "converted\n"
    assert [path.name for path in (written / "assets.extra").iterdir()] == ["tf_serving_warmup_requests"]
    assert [path.name for path in written.parent.iterdir()] == ["3"]


def test_where_the_converter_fails_nothing_is_left(run, version, tmp_path):
    ran = run("convert.sh", version, tmp_path / "tpu" / "digits", CONVERTER_IMAGE="an/image:1", DOCKER_EXIT="7")
    assert ran.returncode == 7
    assert not list((tmp_path / "tpu" / "digits").iterdir())


def test_the_server_gets_the_model_and_the_devices_of_the_host(run, version, tmp_path):
    ran = run("serve.sh", version.parent, "digits", 8500, SERVER_IMAGE="a/server:1")
    assert ran.returncode == 0, ran.stderr
    asked = (tmp_path / "asked").read_text()
    assert "--privileged\n--publish\n8500:8500\n" in asked
    assert f"type=bind,source={version.parent},target=/models/digits,readonly" in asked
    assert "a/server:1\n--port=8500\n--model_name=digits\n--model_base_path=/models/digits\n" in asked


def test_what_is_missing_is_told_in_a_line(run, version, tmp_path):
    image = {"CONVERTER_IMAGE": "an/image:1"}
    plain = tmp_path / "plain" / "1"
    plain.mkdir(parents=True)
    (plain / "saved_model.pb").write_text("exported")
    (tmp_path / "there" / "3").mkdir(parents=True)
    cases = [
        (["convert.sh", version], {}, "expected VERSION and MODEL"),
        (["convert.sh", version, tmp_path / "out"], {}, "CONVERTER_IMAGE is not set"),
        (["convert.sh", tmp_path, tmp_path / "out"], image, "is no SavedModel version"),
        (["convert.sh", plain, tmp_path / "out"], image, "export again with --target tpu"),
        (["convert.sh", version, tmp_path / "there"], image, "exists already and may be served"),
        (["serve.sh", version.parent, "digits"], {}, "expected MODEL, NAME and PORT"),
        (["serve.sh", version.parent, "digits", 8500], {}, "SERVER_IMAGE is not set"),
        (["serve.sh", tmp_path / "none", "digits", 8500], {"SERVER_IMAGE": "a/server:1"}, "is no folder"),
        (["serve.sh", version.parent, "digits", "grpc"], {"SERVER_IMAGE": "a/server:1"}, "expected a number"),
    ]
    for arguments, environment, message in cases:
        ran = run(*arguments, **environment)
        assert (ran.returncode, ran.stderr.count("\n")) == (2, 1), arguments
        assert message in ran.stderr
    assert not (tmp_path / "asked").exists()
