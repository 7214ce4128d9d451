import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from train import pretrain
from train.compute import Compute
from train.hosts import Hosts, joined, on_first
from train.optimizer import Optimizer
from vit22b.checkpoint import load

ROOT = Path(__file__).parents[1]
HEARTBEAT_SECONDS = 4
STEPS, SAVE_EVERY = 16, 3
# The first moment is kept in bfloat16, where the last bit of a gradient can turn 0.4% of an update. At this rate that
# is below 1e-5 of the weights, and what is compared moves by 200 times as much.
PEAK = 2e-5
RATES = ("images_per_second", "input_wait", "tokens_per_second_per_chip")  # what no two runs have in common

# Sums over all processes until it is ended, one line a sum; process `fails` raises after the first.
SUMS = """
import sys
import jax
from jax.experimental.multihost_utils import process_allgather
from train.hosts import Hosts, joined

coordinator, processes, process, join_seconds, heartbeat_seconds, fails = sys.argv[1:]
hosts = Hosts(coordinator, int(processes), int(process), int(join_seconds), int(heartbeat_seconds))
with joined(hosts):
    print("everybody is here", flush=True)
    print(f"process {process} has joined", file=sys.stderr, flush=True)
    while True:
        process_allgather(jax.numpy.ones(()))
        if process == fails:
            raise SystemExit("this host has no disk")
"""

# Connects; process `victim` goes no further, and the others go on to tell each other their names.
JOINING = """
import signal
import sys
from train import hosts

coordinator, processes, process, heartbeat_seconds, victim = sys.argv[1:]
connect = hosts._connect

def connect_and_say_so(settings):
    connect(settings)
    print("connected", file=sys.stderr, flush=True)
    if process == victim:
        signal.pause()

hosts._connect = connect_and_say_so
with hosts.joined(hosts.Hosts(coordinator, int(processes), int(process), 60, int(heartbeat_seconds))):
    print("has joined", file=sys.stderr, flush=True)
"""


def free_port():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


class Processes:
    """The same command in several processes, as on several hosts; what they print goes to files."""

    def __init__(self, folder, count, devices, command):
        """Starts them; `command` makes the command line of one from the coordinator's address and its number."""
        address = f"127.0.0.1:{free_port()}"
        flags = os.environ["XLA_FLAGS"] + f" --xla_force_host_platform_device_count={devices}"
        environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self.outputs = [folder / f"{process}.out" for process in range(count)]
        self.errors = [folder / f"{process}.err" for process in range(count)]
        self.running = []
        for process in range(count):
            arguments = [sys.executable, *map(str, command(address, process))]
            with self.outputs[process].open("w") as out, self.errors[process].open("w") as err:
                self.running.append(subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=out, stderr=err))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.running:
            process.kill()
            process.wait()

    def until(self, condition):
        """Waits for what the processes bring about."""
        while not condition():
            assert all(process.poll() is None for process in self.running), self.said()
            time.sleep(0.05)

    def codes(self, timeout):
        """The exit codes, of all that end within so many seconds."""
        end = time.monotonic() + timeout
        return [process.wait(max(0.1, end - time.monotonic())) for process in self.running]

    def said(self):
        return [path.read_text() for path in self.errors]


@pytest.fixture
def sums(tmp_path):
    def start(count=2, of=None, join_seconds=60, fails=None):
        def command(address, process):
            return ["-c", SUMS, address, of or count, process, join_seconds, HEARTBEAT_SECONDS, fails]

        return Processes(tmp_path, count, 1, command)

    return start


def last_line(text):
    return text.strip().splitlines()[-1]


def missing(process, count):
    return f"error: process {process} (host {socket.gethostname()}) of {count} has ended or cannot be reached"


def test_one_process_alone_joins_nothing():
    with joined(Hosts()):
        assert not jax.distributed.is_initialized()
        assert on_first()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coordinator": "a0"}, "--coordinator is 'a0'; expected HOST:PORT of process 0, or auto"),
        ({"coordinator": ":80"}, "--coordinator is ':80'; expected HOST:PORT"),
        ({"coordinator": "a0:80", "processes": 2}, "--coordinator HOST:PORT needs --processes"),
        ({"coordinator": "a0:80", "process": 0}, "--coordinator HOST:PORT needs --processes"),
        ({"coordinator": "a0:80", "processes": 2, "process": 2}, "--process is 2; with --processes 2 expected 0 to 1"),
        ({"processes": 2}, "--processes and --process go with --coordinator HOST:PORT"),
        ({"coordinator": "auto", "process": 1}, "--processes and --process go with --coordinator HOST:PORT"),
        ({"heartbeat_seconds": 0}, "--heartbeat_seconds is 0; expected 1 or more"),
        ({"join_seconds": 0}, "--join_seconds is 0; expected 1 or more"),
    ],
)
def test_settings_that_name_no_run_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Hosts(**settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "number"),
    [
        pytest.param(0, signal.SIGKILL, id="the coordinator is killed"),
        pytest.param(1, signal.SIGKILL, id="another is killed"),
        pytest.param(1, signal.SIGSTOP, id="another falls silent"),
    ],
)
def test_the_rest_end_and_say_who_is_missing(sums, victim, number):
    with sums(3) as processes:
        processes.until(lambda: all("has joined" in said for said in processes.said()))
        processes.running[victim].send_signal(number)
        rest = [process for process in range(3) if process != victim]
        assert [processes.running[process].wait(180) for process in rest] == [1, 1]
        for process in rest:
            told = last_line(processes.said()[process])
            assert told.startswith(missing(victim, 3))
            assert told.endswith("the same command on every host goes on from the last checkpoint")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_who_is_gone_before_names_were_exchanged_is_named_by_number(tmp_path, victim):
    def command(address, process):
        return ["-c", JOINING, address, 3, process, HEARTBEAT_SECONDS, victim]

    with Processes(tmp_path, 3, 1, command) as processes:
        processes.until(lambda: all("connected" in said for said in processes.said()))
        processes.running[victim].kill()
        rest = [process for process in range(3) if process != victim]
        assert [processes.running[process].wait(60) for process in rest] == [1, 1], processes.said()
        for process in rest:
            assert last_line(processes.said()[process]).startswith(f"error: process {victim} (host ?) of 3 has ended")


def run_alone(script):
    arguments = [sys.executable, "-c", f"import os, time\nfrom train import hosts\n{script}\nos.abort()"]
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_an_abort_that_nobody_is_missing_for_is_told_as_it_ever_was():
    done = run_alone(f"hosts._connect(hosts.Hosts('127.0.0.1:{free_port()}', 1, 0))\nhosts._Watch(heartbeat_seconds=4)")
    assert done.returncode == -signal.SIGABRT
    assert "not every process" not in done.stderr
    assert "error: " not in done.stderr


def test_an_abort_ends_the_process_even_where_the_reason_cannot_be_found():
    assert (
        run_alone("hosts._ABORT_SECONDS = 1\nhosts._explain_abort(lambda: time.sleep(1000))").returncode
        == -signal.SIGALRM
    )


def test_a_watch_that_cannot_ask_ends_the_process():
    done = run_alone(
        f"hosts._connect(hosts.Hosts('127.0.0.1:{free_port()}', 1, 0))\n"
        "hosts.distributed.global_state.num_processes = 2\n"
        "hosts._missing = None\nhosts._Watch(heartbeat_seconds=4)\ntime.sleep(1000)"
    )
    assert done.returncode == 1
    assert last_line(done.stderr).startswith("error: process 0 cannot ask any more who is missing: TypeError")


@pytest.mark.slow
def test_a_process_that_fails_says_why_and_ends_the_rest_and_the_first_prints_for_all(sums):
    with sums(2, fails=1) as processes:
        assert processes.codes(60) == [1, 1]
        assert last_line(processes.said()[1]) == "this host has no disk"
        assert last_line(processes.said()[0]).startswith(missing(1, 2))
        printed = [path.read_text() for path in processes.outputs]
    assert ["everybody is here" in text for text in printed] == [True, False]


@pytest.mark.slow
def test_who_waits_in_vain_at_the_start_says_for_what(sums):
    with sums(1, of=2, join_seconds=2) as processes:
        assert processes.codes(60) == [1]
        told = last_line(processes.said()[0])
    assert told.startswith("error: not every process of the run has come to the coordinator 127.0.0.1:")
    assert told.endswith("within 2 s; start the same command on every host")


# Each process sees its own latest step, as where a shared disk shows a folder to one host before the other.
AGREE = """
import sys
from train.hosts import Hosts, joined
from train.resume import agreed

coordinator, process = sys.argv[1], int(sys.argv[2])
with joined(Hosts(coordinator, 2, process)):
    print([agreed(seen[process]) for seen in ((6, 3), (3, 6), (6, None), (None, 6))], file=sys.stderr)
"""


@pytest.mark.slow
def test_all_resume_at_the_step_that_the_first_one_sees(tmp_path):
    with Processes(tmp_path, 2, 1, lambda address, process: ["-c", AGREE, address, process]) as processes:
        assert processes.codes(60) == [0, 0], processes.said()
        assert [last_line(said) for said in processes.said()] == ["[6, 3, 6, None]"] * 2


@dataclasses.dataclass(frozen=True)
class Training:
    """A pretraining of mu on some digits, that one or several processes take part in."""

    data: Path
    workdir: Path

    def start(self, count, devices=1):
        """Starts it, or goes on with it, in new processes."""

        def command(address, process):
            return [
                "train/pretrain.py",
                *("--data", self.data, "--workdir", self.workdir, "--size", "mu", "--pooling", "mean"),
                *("--steps", STEPS, "--batch", 8, "--log_every", 1, "--signals_every", 0, "--save_every", SAVE_EVERY),
                *("--warmup", 2, "--cooldown", 2, "--peak", PEAK, "--mesh", f"{count * devices}x1", "--stop_code", 143),
                *("--coordinator", address, "--processes", count, "--process", process),
                *("--heartbeat_seconds", HEARTBEAT_SECONDS),
            ]

        folder = self.workdir.parent / f"{self.workdir.name}-{time.monotonic_ns()}"
        folder.mkdir()
        return Processes(folder, count, devices, command)

    def alone(self):
        """All of it in this process, on a mesh of as many devices as the others have together."""
        pretrain.pretrain(
            pretrain.Settings(
                data=(str(self.data),),
                workdir=self.workdir,
                size="mu",
                pooling="mean",
                steps=STEPS,
                batch=8,
                log_every=1,
                signals_every=0,
                save_every=SAVE_EVERY,
                optimizer=Optimizer(warmup=2, cooldown=2, peak=PEAK),
                compute=Compute(mesh="4x1"),
            )
        )
        return self

    def metrics(self):
        """What is logged of each step, but for the rates."""
        file = self.workdir / "metrics.jsonl"
        lines = map(json.loads, file.read_text().splitlines()) if file.exists() else ()
        return {line["step"]: {key: value for key, value in line.items() if key not in RATES} for line in lines}

    def copy(self, name):
        """The run as it stands, in a folder of its own."""
        return Training(self.data, Path(shutil.copytree(self.workdir, self.workdir.parent / name)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hosts")


@pytest.fixture(scope="module")
def together(digits, folder):
    """The same run in two processes, of two devices each."""
    training = Training(digits / "train", folder / "together")
    with training.start(2, devices=2) as processes:
        assert processes.codes(300) == [0, 0], processes.said()
    return training


@pytest.fixture(scope="module")
def killed(digits, folder):
    """The same run, after one of its two processes was killed between two checkpoints."""
    training = Training(digits / "train", folder / "killed")
    with training.start(2, devices=2) as processes:
        processes.until(lambda: SAVE_EVERY + 2 in training.metrics() and (training.workdir / "checkpoints/3").exists())
        processes.running[1].kill()
        assert processes.running[0].wait(60) == 1, processes.said()
        assert last_line(processes.said()[0]).startswith(missing(1, 2))
    assert STEPS not in training.metrics()
    return training


@pytest.fixture(scope="module")
def alone(killed):
    """The killed run, gone on with in one process."""
    return killed.copy("alone").alone()


def assert_close(one, other):
    """The same run to rounding: losses within 1e-5, weights within 1e-5 of the largest."""
    assert one.metrics().keys() == other.metrics().keys()
    for step, line in one.metrics().items():
        assert line["loss"] == pytest.approx(other.metrics()[step]["loss"], rel=1e-5)
    here, there = (jax.tree.leaves(load(training.workdir).params) for training in (one, other))
    for leaf, expected in zip(here, there, strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
def test_several_processes_train_as_one_does(alone, together):
    assert list(together.metrics()) == list(range(1, STEPS + 1))
    assert len((together.workdir / "metrics.jsonl").read_text().splitlines()) == STEPS  # one process writes for all
    assert_close(together, alone)


@pytest.mark.slow
def test_after_one_was_killed_the_same_command_goes_on_bit_for_bit(killed, together):
    training = killed.copy("restarted")
    with training.start(2, devices=2) as processes:
        assert processes.codes(300) == [0, 0], processes.said()
    assert training.metrics() == together.metrics()
    states = [load(run.workdir) for run in (training, together)]
    assert states[0].step == states[1].step == STEPS
    jax.tree.map(np.testing.assert_array_equal, *(state.params for state in states))


@pytest.mark.slow
def test_more_processes_go_on_stop_at_one_step_and_go_on_again(killed, alone):
    training = killed.copy("more")
    begin = load(training.workdir).step
    with training.start(4) as processes:
        processes.until(lambda: "parameters" in processes.outputs[0].read_text())
        processes.running[2].terminate()
        assert processes.codes(300) == [143] * 4, processes.said()
        told = {last_line(said) for said in processes.said()}
    step = load(training.workdir).step
    assert begin < step < STEPS
    assert told == {f"stopped at step {step} of {STEPS}; the same command continues from there"}
    assert_close(training.alone(), alone)
