import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from clients import embed
from tests.standin import StandIn, closed_address, picture, serve
from vit22b import program
from vit22b.errors import VitError

PROGRAM = Path(__file__).parents[1] / "clients" / "embed.py"


@pytest.fixture(scope="module")
def standin() -> Iterator[StandIn]:
    with serve(StandIn()) as served:
        yield served


@pytest.fixture
def call(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def call(*arguments: object, address: str = standin.address) -> int:
        monkeypatch.setattr(sys, "argv", ["embed.py", f"--address={address}", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_info:
            program.run(embed.main, embed.Arguments, None, failures=(VitError,))
        return exit_info.value.code

    return call


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for colour in ("red", "green", "blue"):
        (folder / f"{colour}.png").write_bytes(picture(colour))
    return folder


def test_the_program_writes_vectors_and_what_they_are(standin: StandIn, photos: Path, tmp_path: Path):
    output = tmp_path / "vectors.npz"
    command = [
        sys.executable,
        PROGRAM,
        photos,
        photos / "red.png",
        f"--address={standin.address}",
        f"--output={output}",
    ]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    with np.load(output) as written:
        assert written["names"].tolist() == [str(photos / f"{name}.png") for name in ("blue", "green", "red", "red")]
        assert written["vectors"].dtype == np.float32
        assert written["vectors"].argmax(axis=1).tolist() == [2, 1, 0, 0]
        assert (written["space_id"].item(), written["version"].item()) == ("space-one", 1)
    assert "4 vectors; space space-one, version 1" in found.stdout
    assert found.stderr == ""
    assert sorted(file.name for file in tmp_path.iterdir()) == ["photos", "vectors.npz"]


def test_json_holds_the_vectors_unless_they_go_to_a_file(call, photos: Path, tmp_path: Path, capsys):
    assert call(photos / "green.png", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["vectors"] == [[0, 1, 0, 0, 0, 0, 0, 0]]
    assert (report["space_id"], report["version"], report["width"], report["failures"]) == ("space-one", 1, 8, [])
    assert call(photos / "green.png", "--json", "--output", tmp_path / "v.npz") == 0
    assert "vectors" not in json.loads(capsys.readouterr().out)


def test_a_long_list_is_shown_in_part(call, photos: Path, capsys):
    assert call(*[photos / "red.png"] * 25) == 0
    out = capsys.readouterr().out
    assert "25 vectors, 10 of them shown" in out
    assert out.count("+1.0000") == 10


@pytest.mark.parametrize("on_error", ["skip", "raise"])
def test_a_bad_image_is_named_and_ends_with_1(call, photos: Path, tmp_path: Path, capsys, on_error: str):
    (photos / "notes.png").write_text("no image")
    output = tmp_path / "v.npz"
    assert call(photos, photos / "gone.png", f"--on_error={on_error}", f"--output={output}") == 1
    errors = capsys.readouterr().err
    assert "notes.png (index 2): no whole JPEG, PNG" in errors
    assert "gone.png (index 4): cannot be read: No such file" in errors
    assert output.exists() == (on_error == "skip")
    if on_error == "skip":
        assert len(np.load(output)["vectors"]) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["PHOTOS", "--model=nope"], 1, "Servable not found"),
        (["PHOTOS", "--version=9"], 1, "Servable not found"),
        (["PHOTOS/missing"], 2, "missing is missing; expected a folder"),
        ([], 2, "no image is given"),
        (["PHOTOS", "--output=v.txt"], 2, "ends in .npz"),
        (["PHOTOS", "--output=nowhere/v.npz"], 2, "no folder nowhere"),
        (["PHOTOS", "--timeout=0"], 2, "positive number of seconds"),
        (["PHOTOS", "--address=localhost"], 2, "expected host:port"),
    ],
)
def test_an_error_is_one_line_and_a_code(call, photos: Path, capsys, arguments, code, message):
    assert call(*(argument.replace("PHOTOS", str(photos)) for argument in arguments)) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


def test_no_server(call, photos: Path, capsys):
    assert call(photos, address=closed_address()) == 1
    err = capsys.readouterr().err
    assert "start a model server there" in err
    assert err.count("\n") == 1


def test_an_unknown_flag_ends_with_2(photos: Path):
    found = subprocess.run([sys.executable, PROGRAM, photos, "--outptu=x"], capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert "--outptu" in found.stderr
    assert "Traceback" not in found.stderr
