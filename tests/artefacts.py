"""The walk's artefacts as fixtures, each made once a session by the program that users run."""

import contextlib
import dataclasses
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.standin import closed_address
from vit22b import program

ROOT = Path(__file__).parents[1]
BATCH_SIZES = (1, 4, 8)
FEATURE_LAYERS = (2, 0)
CLASSES = ("Zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = ("the number {}.", "a drawing of the numeral {}.")


@pytest.fixture(scope="session")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the walk's artefacts are made in."""
    return tmp_path_factory.mktemp("walk")


@pytest.fixture(scope="session")
def digits(artefacts: Path) -> Path:
    """The folders train/ (400 digits with labels and captions) and heldout/ (100 with labels)."""
    from train import mnist

    mnist.write(mnist.Settings(output=artefacts / "digits", limit=500))
    return artefacts / "digits"


@pytest.fixture(scope="session")
def pretrained(artefacts: Path, digits: Path) -> Path:
    """Work directory of a short pretraining: the paper's head, pooling and optimizer, a schedule for 12 steps."""
    from train import pretrain
    from train.optimizer import Optimizer

    workdir = artefacts / "pretrain"
    pretrain.pretrain(
        pretrain.Settings(
            data=(str(digits / "train"),),
            workdir=workdir,
            size="mu",
            steps=12,
            batch=32,
            log_every=4,
            optimizer=Optimizer(warmup=4, cooldown=4),
        )
    )
    return workdir


@pytest.fixture(scope="session")
def tuned(artefacts: Path, digits: Path, pretrained: Path) -> Path:
    """Work directory of a short locked-image tuning of `pretrained`."""
    from train import lit
    from train.optimizer import Optimizer

    workdir = artefacts / "lit"
    optimizer = Optimizer(warmup=4, cooldown=4, body_decay=0.0)
    lit.tune(
        lit.Settings(
            checkpoint=pretrained,
            data=digits / "train",
            workdir=workdir,
            steps=12,
            batch=64,
            vocabulary=300,
            log_every=4,
            optimizer=optimizer,
        )
    )
    return workdir


@pytest.fixture(scope="session")
def repository(artefacts: Path, tuned: Path) -> Path:
    """A model repository with the model `digits`, version 1: the export of `tuned` with every signature there is."""
    from export import to_savedmodel
    from export.batching import Batching
    from export.class_bank import Classes

    to_savedmodel.export(
        to_savedmodel.Settings(
            checkpoint=tuned,
            output=artefacts / "models" / "digits",
            feature_layers=FEATURE_LAYERS,
            classes=Classes(CLASSES, templates=TEMPLATES, top=3),
            batching=Batching(sizes=BATCH_SIZES),
        )
    )
    return artefacts / "models"


@dataclasses.dataclass(frozen=True)
class Served:
    """A model that a server of its own process serves."""

    address: str
    model: str


@contextlib.contextmanager
def serving(base_path: Path) -> Iterator[Served]:
    """Serves the model in a folder, by the folder's name, in a process of its own, its golden answers checked."""
    command = [
        sys.executable,
        ROOT / "serving" / "model_server.py",
        f"--port={closed_address().rpartition(':')[2]}",
        "--bind_address=127.0.0.1",
        f"--model_name={base_path.name}",
        f"--model_base_path={base_path}",
        "--max_num_load_retries=0",
        "--check_golden",
    ]
    # As users run it, without the flags by which the tests compile fast (see conftest.py).
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "NPROC")}
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    lines = []
    for line in server.stderr:
        lines.append(line)
        if found := re.search(r"Running gRPC ModelServer at (\S+:\d+)", line):
            break
    else:
        pytest.fail("the server did not start:\n" + "".join(lines))
    drain = threading.Thread(target=server.stderr.read, daemon=True)
    drain.start()
    yield Served(found[1], base_path.name)
    server.terminate()
    assert server.wait(timeout=60) == 0
    drain.join()
    server.stderr.close()


@pytest.fixture(scope="session")
def served(repository: Path) -> Iterator[Served]:
    """The model `digits` behind serving/model_server.py on a free port, its golden answers checked."""
    with serving(repository / "digits") as found:
        yield found


@pytest.fixture
def run_program(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs a program's main on a command line, in this process; its exit code."""

    def run(main: Callable, settings: type, *arguments: object, failures: tuple = ()) -> int:
        monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            program.run(main, settings, None, failures)
        return stopped.value.code

    return run
