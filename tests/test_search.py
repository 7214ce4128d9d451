import functools
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from clients import search, vector_files
from clients.origin import Origin
from tests.standin import StandIn, picture, serve
from vit22b import encodings
from vit22b.client import Client
from vit22b.encodings import Encoding
from vit22b.errors import VitError

PROGRAM = Path(__file__).parents[1] / "clients" / "search.py"
COLOURS = ("red", "green", "blue", "yellow", "magenta")


@pytest.fixture(scope="module")
def standin() -> Iterator[StandIn]:
    with serve(StandIn()) as served:
        yield served


@pytest.fixture
def call(run_program: Callable[..., int]) -> Callable[..., int]:
    return functools.partial(run_program, search.main, search.Arguments, failures=(VitError,))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for colour in COLOURS:
        (folder / f"{colour}.png").write_bytes(picture(colour))
    return folder


def vectors(standin: StandIn, photos: Path, output: Path, encoding: Encoding = "float32", dimensions: int = 8) -> Path:
    paths = sorted(photos.iterdir())
    with Client(standin.address) as client:
        found = client.embed_images(paths, encoding=encoding, dimensions=dimensions)
    vector_files.write(output, Origin.of(found), len(found), [([path.name for path in paths], found.vectors)])
    return output


@pytest.fixture
def index(call, standin: StandIn, photos: Path, tmp_path: Path) -> Path:
    assert call("build", vectors(standin, photos, tmp_path / "v.npz"), "--output", tmp_path / "index") == 0
    return tmp_path / "index"


@pytest.mark.parametrize("exact", [[], ["--exact"]])
def test_texts_and_images_find_what_is_like_them(call, standin, index, photos, capsys, exact):
    capsys.readouterr()
    asked = ["--text", "a photo of a red", "blue", "--image", photos / "green.png", "--count=2", "--json", *exact]
    assert call("query", index, f"--address={standin.address}", *asked) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["space_id"], report["vectors"]) == ("space-one", 5)
    found = {answer["query"]: answer["matches"] for answer in report["answers"]}
    assert [found[name][0]["name"] for name in found] == ["red.png", "blue.png", "green.png"]
    assert [len(matches) for matches in found.values()] == [2, 2, 2]
    assert found["blue"][0]["cosine"] == pytest.approx(1, abs=1e-5)
    assert found["blue"][1]["name"] == "magenta.png"
    assert found["blue"][1]["cosine"] == pytest.approx(np.sqrt(0.5), abs=1e-5)


@pytest.mark.parametrize("encoding", ["float16", "int8", "binary"])
def test_what_is_looked_for_is_encoded_as_the_index_is(call, standin, photos, tmp_path, capsys, encoding):
    file = vectors(standin, photos, tmp_path / "v.parquet", encoding, dimensions=4)
    assert call("build", file, "--output", tmp_path / "index") == 0
    capsys.readouterr()
    asked = ["--image", photos / "red.png", "--json", "--count=1"]
    assert call("query", tmp_path / "index", f"--address={standin.address}", *asked) == 0
    (answer,) = json.loads(capsys.readouterr().out)["answers"]
    assert answer["matches"][0]["cosine"] == pytest.approx(1, abs=1e-2)


def test_the_program_shows_a_table_for_each(standin: StandIn, index: Path):
    command = [sys.executable, PROGRAM, "query", index, f"--address={standin.address}", "--text", "-"]
    found = subprocess.run(command, capture_output=True, text=True, check=True, input="red\n\nblue\n")
    assert found.stderr == ""
    assert [found.stdout.count(word) for word in ("red.png", "\x1b", "█" * 20)] == [2, 0, 2]
    assert found.stdout.startswith("red ")


def test_an_image_comes_on_stdin(call, standin: StandIn, index: Path, monkeypatch, capsys):
    capsys.readouterr()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(picture("green"))))
    assert call("query", index, f"--address={standin.address}", "--image", "-", "--json") == 0
    assert json.loads(capsys.readouterr().out)["answers"][0]["matches"][0]["name"] == "green.png"


def test_a_model_of_another_space_is_refused(call, index: Path, capsys):
    with serve(StandIn(version=2, space_id="space-two")) as other:
        assert call("query", index, f"--address={other.address}", "--text", "red") == 2
        assert other.asked("embed_text") == []
    err = capsys.readouterr().err
    assert "vectors of space space-one, and version 2 of vit22b" in err
    assert "answers in space space-two" in err


@pytest.mark.parametrize("asked", [["--text=red"], ["--image=RED"]])
def test_a_model_that_is_replaced_after_it_was_described_is_no_answer(call, index, photos, capsys, asked):
    capsys.readouterr()
    words = [word.replace("RED", str(photos / "red.png")) for word in asked]
    with serve(StandIn(unloads_after=1)) as swapped:
        assert call("query", index, f"--address={swapped.address}", *words) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "lie in space space-one, and version 2 has answered in space space-two" in err


def test_files_of_two_spaces_make_no_index(call, standin: StandIn, photos: Path, tmp_path: Path, capsys):
    one, two = vectors(standin, photos, tmp_path / "one.npz"), tmp_path / "two.npz"
    vector_files.write(two, Origin("space-two", 1, 8), 1, [(["a"], encodings.unit(np.ones((1, 8), np.float32)))])
    assert call("build", one, two, "--output", tmp_path / "index") == 2
    assert "two spaces, space-one and space-two" in capsys.readouterr().err
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["query", "INDEX"], 2, "nothing is looked for"),
        (["query", "INDEX", "--text="], 2, "the text to look for is empty"),
        (["query", "INDEX", "--text=red", "--count=0"], 2, "count is 0"),
        (["query", "INDEX", "--text=-", "--image=-"], 2, "both --text and --image are to come from stdin"),
        (["query", "INDEX", "--image=gone.png"], 1, "gone.png (index 0): cannot be read"),
        (["query", "gone", "--text=red"], 2, "gone is no index"),
        (["build", "gone.npz", "--output=i"], 1, "No such file"),
        (["build", "gone.txt", "--output=i"], 2, "ends in .npz"),
        (["build", "--output=i"], 2, "no file of vectors is given"),
        (["build", "gone.npz", "--output=nowhere/i"], 2, "no folder nowhere"),
    ],
)
def test_an_error_is_one_line_and_a_code(call, standin, index, capsys, arguments, code, message):
    capsys.readouterr()
    address = [f"--address={standin.address}"] if arguments[0] == "query" else []
    assert call(*(argument.replace("INDEX", str(index)) for argument in arguments), *address) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
