import json
import re
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import jax
import pytest

from train import plan
from train.abstract_step import Planned
from train.compilation import Program
from train.compute import Compute
from train.hlo_module import parse
from train.prediction import impossible, keep, layer_bodies, predict, question, read_rows
from vit22b import topology

RECORDED = Path(__file__).parent / "hlo"  # made by tests/hlo/record.py, on the mesh of RUN
RUN = Planned(size="mu", topology="v5p:2x2x2", batch=64, classes=10, compute=Compute(mesh="4x2", parallel="ring"))
GIB = 2**30
REFUSAL = (
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (512.00G) exceeds "
    "available HBM (95.74G)."
)
USED = (
    "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 120.50G of 95.74G hbm. Exceeded hbm capacity by "
    "24.76G."
)


def compiled(name):
    return Program(10**15, 1.0, 3 * GIB, 5 * GIB, (RECORDED / f"{name}.txt").read_text(), "")


def refused(message):
    return Program(10**15, 1.0, None, None, "", message)


@pytest.fixture
def without_libtpu(monkeypatch):
    monkeypatch.setattr(topology, "has_compiler", lambda: False)


def test_a_row_says_what_the_compiled_program_has():
    row = predict(RUN, compiled("asynchronous"))
    layer = row["layer"]
    assert (row["fits"], row["hbm_bytes"]) == (True, int(95.74 * GIB))
    assert (row["images_per_chip"], row["flops_per_step"]) == (8, 10**15)
    assert layer["synchronous"] == 2
    assert layer["ring_bytes"] == 3 * 2048 * 1024 * 2
    assert {one["pass"] for one in layer["collectives"]} == {"forward", "backward"}
    assert 0 < layer["overlapped_fraction"] <= 1
    assert layer["ms"] == pytest.approx(layer["matmul_ms"] + layer["other_ms"] + layer["exposed_ms"])
    assert row["step"]["ms"] > 4 * layer["ms"] * 0.99, "the step has four layers"
    assert row["prediction"].startswith("A prediction, run on no TPU")
    json.dumps(row)


def test_the_mfu_is_the_model_s_flops_over_what_the_chips_can_do():
    row = predict(RUN, compiled("asynchronous"))
    seconds = row["step"]["ms"] / 1e3
    assert row["predicted_mfu"] == pytest.approx(row["model_flops_per_step"] / (8 * 459e12 * seconds))
    layer = row["model_flops_per_step"] / 4 / (8 * 459e12 * row["layer"]["ms"] / 1e3)
    assert row["layer"]["predicted_mfu"] == pytest.approx(layer)


def test_a_program_without_the_two_loops_has_no_layer():
    deeper = Planned(size="S", topology="v5p:2x2x2", batch=64, compute=Compute(mesh="4x2"))
    assert predict(deeper, compiled("synchronous"))["layer"] is None


def loop(name, body):
    config = 'backend_config={"known_trip_count":{"n":"4"}}'
    return f"  %{name} = bf16[8,8] while(%p), condition=%goes_on, body=%{body}, {config}"


def computation(name, *lines):
    return "\n".join([f"%{name} (p: bf16[8,8]) -> bf16[8,8] {{", "  %p = bf16[8,8] parameter(0)", *lines, "}"])


def test_the_layers_are_the_innermost_loops_where_a_batch_has_as_many_parts_as_there_are_layers():
    matmul = "  %c = bf16[8,8] convolution(%p, %p), dim_labels=bf_io->bf"
    module = parse(
        "\n".join(
            [
                "HloModule accumulated, is_scheduled=true",
                computation("goes_on"),
                computation("forward", matmul),
                computation("backward", matmul),
                computation("part", loop("f", "forward"), loop("b", "backward")),
                "ENTRY " + computation("main", loop("parts", "part")),
            ]
        )
    )
    assert [body.name for body in layer_bodies(module, 4)] == ["forward", "backward"]
    assert layer_bodies(module, 5) == []


def test_a_plan_says_when_the_program_has_no_layer(capsys):
    plan.show({**predict(RUN, compiled("asynchronous")), "layer": None}, plan.Console(width=200))
    out = capsys.readouterr().out
    assert "the program has no two loops over the layers" in out
    assert "predicted: " in out


def test_a_closed_form_is_of_the_rings_alone():
    gspmd = RUN.with_compute(parallel="gspmd")
    assert predict(gspmd, compiled("synchronous"))["layer"]["ring_bytes_closed_form"] is None
    assert predict(RUN, compiled("synchronous"))["layer"]["ring_bytes_closed_form"] > 0


@pytest.mark.parametrize(("message", "lacks"), [(REFUSAL, 512 - 95.74), (USED, 120.5 - 95.74)])
def test_what_does_not_fit_is_told_by_how_much_and_what_to_change(message, lacks):
    run = Planned(topology="v5p:4x4x4", batch=2048, compute=Compute(mesh="16x4", remat="none"))
    row = predict(run, refused(message))
    assert (row["fits"], row["layer"], row["predicted_mfu"]) == (False, None, None)
    assert row["bytes_missing"] == pytest.approx(lacks * GIB, rel=1e-6)
    told = plan.missing(run, row)
    assert f"does not fit: {lacks:.1f} GiB a chip are missing. Take --remat full" in told
    assert message.splitlines()[0] in told


def test_another_memory_than_the_chip_s_is_told_apart():
    message = "RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 19.31M of 16.00M vmem."
    row = predict(RUN, refused(message))
    assert (row["fits"], row["bytes_missing"]) == (False, None)
    assert "HBM was not the limit" in plan.missing(RUN, row)
    assert "GiB" not in plan.missing(RUN, row)


def test_a_refusal_without_sizes_is_told_as_one():
    row = predict(RUN, refused("RESOURCE_EXHAUSTED: out of something"))
    assert row["bytes_missing"] is None
    assert "the compiler does not say by how much" in plan.missing(RUN, row)


@pytest.mark.usefixtures("without_libtpu")
def test_without_libtpu_the_answer_is_a_closed_form_and_says_so(run_program, capsys):
    flags = ["--batch", 2048, "--mesh", "16x4", "--remat", "full", "--parallel", "ring"]
    assert run_program(plan.main, plan.Settings, *flags) == 0
    out = capsys.readouterr().out
    assert "1509.9" in out
    assert "These are closed forms: libtpu is not installed, so nothing was compiled" in out
    assert "pip install 'jax[tpu]'" in out


@pytest.mark.usefixtures("without_libtpu")
def test_without_libtpu_a_mesh_that_divides_no_parameter_is_told(run_program, capsys):
    assert run_program(plan.main, plan.Settings, "--size", "Ti") == 2
    assert re.search(r"error: image/blocks/\S+ has shape .* does not divide over 4 devices", capsys.readouterr().err)


def test_a_bare_plan_is_of_a_batch_that_fits(monkeypatch, run_program):
    monkeypatch.setattr(topology, "has_compiler", lambda: False)
    assert run_program(plan.main, plan.Settings) == 0


@pytest.mark.usefixtures("without_libtpu")
def test_without_libtpu_a_search_shows_the_closed_forms_of_every_mesh(run_program, capsys):
    assert run_program(plan.main, plan.Settings, "--batch", 2048, "--search") == 0
    out = capsys.readouterr().out
    assert all(f"{mesh} " in out for mesh in ("64x1", "32x2", "16x4", "8x8", "4x16"))
    assert "These are closed forms" in out


@pytest.mark.usefixtures("without_libtpu")
def test_a_search_does_not_look_at_the_mesh_that_is_set(run_program, capsys):
    flags = ["--topology", "v4:8x8x16", "--batch", 65_536, "--accumulate", 4, "--search"]
    assert run_program(plan.main, plan.Settings, *flags) == 0
    out = capsys.readouterr().out
    assert all(f"{mesh} " in out for mesh in ("1024x1", "256x4", "64x16"))


@pytest.mark.usefixtures("without_libtpu")
def test_a_search_leaves_out_the_meshes_that_the_batch_does_not_divide_over(run_program, capsys):
    assert run_program(plan.main, plan.Settings, "--batch", 16, "--search") == 0
    out = capsys.readouterr().out
    assert "32x2: --batch 16 does not divide over the 32 devices" in out
    assert "16x4 " in out
    assert run_program(plan.main, plan.Settings, "--batch", 17, "--search") == 2
    assert "the run can be on no mesh of v5p:4x4x4" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        BrokenProcessPool("a process was killed"),
        jax.errors.JaxRuntimeError("INTERNAL: the compiler[tpu] failed\nat length"),
        ValueError("no such mesh"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_mesh_that_the_compiler_fails_on_is_a_row_and_the_search_goes_on(error, tmp_path, monkeypatch, capsys):
    kept = []

    def answer(run, _):
        kept.append(read_rows(tmp_path / "search.json"))
        if run.compute.mesh == "8x1":
            raise error
        return compiled("asynchronous")

    monkeypatch.setattr(plan, "compile_apart", answer)
    runs = [RUN.with_compute(mesh="8x1"), RUN, RUN.with_compute(mesh="2x4")]
    rows = plan.search(runs, tmp_path, plan.Console(width=200))
    assert [len(rows) for rows in kept] == [0, 1, 2], "each is kept before the next begins"
    assert rows == read_rows(tmp_path / "search.json")
    assert rows[-1] == impossible(runs[0], str(error).splitlines()[0])
    assert all(row["fits"] for row in rows[:2])
    told = f"8x1: none: {str(error).splitlines()[0]}\n"
    assert told in capsys.readouterr().out
    plan.show_ranking(rows, plan.Console(width=200))
    assert told.strip().partition(" ")[2] in capsys.readouterr().out


@pytest.mark.usefixtures("without_libtpu")
def test_without_libtpu_a_run_that_does_not_fit_is_told_too(run_program, capsys):
    flags = ["--topology", "v4:4x4x4", "--batch", 2048, "--mesh", "16x4", "--remat", "none"]
    assert run_program(plan.main, plan.Settings, *flags) == 1
    assert "GiB a chip are missing. Take --remat full" in capsys.readouterr().err


def test_a_mesh_that_the_topology_has_not_is_told_by_the_command_line(run_program, capsys):
    assert run_program(plan.main, plan.Settings, "--mesh", "3x5") == 2
    assert "--mesh 3x5 has 15 devices, v5p:4x4x4 has 64" in capsys.readouterr().err


def test_rows_are_ranked_and_those_asked_again_replaced(tmp_path):
    slow, fast = predict(RUN, compiled("synchronous")), predict(RUN, compiled("asynchronous"))
    other = predict(RUN.with_compute(mesh="8x1"), refused(REFUSAL))
    assert plan.ranked([other, slow, fast]) == [fast, slow, other]
    path = tmp_path / "tpu" / "search.json"
    keep([slow, other], path)
    keep([fast], path)
    kept = json.loads(path.read_text())
    assert [question(row) for row in kept] == [question(other), question(fast)]
    assert kept[1]["predicted_mfu"] == fast["predicted_mfu"]


def test_a_ranking_shows_why_a_mesh_is_not_there(capsys):
    rows = [predict(RUN, compiled("asynchronous")), predict(RUN.with_compute(mesh="8x1"), refused(REFUSAL))]
    console = plan.Console(width=200)
    assert plan.show_ranking(rows, console) == 0
    assert plan.show_ranking(rows[1:], console) == 1
    assert "none: RESOURCE_EXHAUSTED" in capsys.readouterr().out


def test_a_plan_is_shown_with_its_collectives(capsys):
    plan.show(predict(RUN, compiled("asynchronous")), plan.Console(width=200))
    out = capsys.readouterr().out
    assert "arguments: state and batch" in out
    assert "collective-permute" in out
    assert "MFU of the layer" in out


@pytest.mark.tpu
def test_the_tpu_compiler_plans_a_small_run_and_remembers_it(tmp_path, run_program, capsys):
    flags = ["--size", "mu", "--topology", "v5p:2x2x1", "--mesh", "2x2", "--batch", 64, "--classes", 10]
    assert run_program(plan.main, plan.Settings, *flags, "--folder", tmp_path) == 0
    assert "predicted: " in capsys.readouterr().out
    (program,) = (tmp_path / "programs").iterdir()
    stamp = program.stat().st_mtime_ns
    assert run_program(plan.main, plan.Settings, *flags, "--folder", tmp_path) == 0
    assert [file.stat().st_mtime_ns for file in (tmp_path / "programs").iterdir()] == [stamp]


@pytest.mark.tpu
def test_a_search_tries_every_mesh_of_the_topology(tmp_path, run_program):
    flags = ["--size", "mu", "--topology", "v5p:2x2x1", "--mesh", "2x2", "--batch", 64, "--classes", 10, "--search"]
    assert run_program(plan.main, plan.Settings, *flags, "--folder", tmp_path) == 0
    rows = json.loads((tmp_path / "search.json").read_text())
    assert {row["mesh"] for row in rows} == {"4x1", "2x2", "1x4"}
    assert all(row["fits"] for row in rows)
    assert [row["predicted_mfu"] for row in rows] == sorted((row["predicted_mfu"] for row in rows), reverse=True)


@pytest.mark.tpu
def test_a_step_that_is_too_large_is_refused_by_the_compiler(tmp_path, run_program, capsys):
    flags = ["--size", "g", "--topology", "v5e:2x2", "--mesh", "2x2", "--batch", 1024, "--remat", "none"]
    assert run_program(plan.main, plan.Settings, *flags, "--folder", tmp_path) == 1
    assert "GiB a chip are missing" in capsys.readouterr().err


@pytest.mark.tpu
def test_a_topology_that_libtpu_does_not_know_is_told():
    with pytest.raises(ValueError, match="libtpu describes no topology 'v5p:3x5x7'"):
        topology.devices("v5p:3x5x7")
