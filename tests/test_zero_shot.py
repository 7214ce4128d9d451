import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clients import zero_shot
from clients.class_lists import CLASS_LISTS
from tests.standin import StandIn, closed_address, picture, serve
from vit22b import signature
from vit22b.errors import VitError
from vit22b.prompts import find_templates, prompts

PROGRAM = Path(__file__).parents[1] / "clients" / "zero_shot.py"
RED = (208, 2, 27)


@pytest.fixture(scope="module")
def standin() -> Iterator[StandIn]:
    with serve(StandIn()) as served:
        yield served


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the programs of a test keep vectors of classes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vit22b" / "classes"


@pytest.fixture
def call(standin: StandIn, run_program: Callable[..., int]) -> Callable[..., int]:
    def call(*arguments: object, address: str = standin.address) -> int:
        return run_program(
            zero_shot.main, zero_shot.Arguments, f"--address={address}", *arguments, failures=(VitError,)
        )

    return call


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Three images in sub-folders of classes; the one in Green is blue."""
    folder = tmp_path / "labelled"
    for label, colour in [("Red", "red"), ("Green", "blue"), ("Blue", "blue")]:
        (folder / label).mkdir(parents=True)
        (folder / label / "1.png").write_bytes(picture(colour, size=28))
    return folder


def test_the_program_counts_what_is_right(standin: StandIn, labelled: Path, tmp_path: Path):
    output, sheet = tmp_path / "report.json", tmp_path / "sheet.png"
    flags = [f"--address={standin.address}", f"--output={output}", f"--sheet={sheet}", "--top=2"]
    found = subprocess.run([sys.executable, PROGRAM, labelled, *flags], capture_output=True, text=True, check=True)
    assert "zero-shot top-1 66.7% of 3 images, 3 classes, chance 33.3%" in found.stdout
    assert found.stderr == ""
    report = json.loads(output.read_text())
    assert (report["zero_shot_top1"], report["n"], report["chance"]) == (pytest.approx(2 / 3), 3, pytest.approx(1 / 3))
    assert (report["classes"], report["space_id"], report["version"]) == (["Blue", "Green", "Red"], "space-one", 1)
    wrong = report["predictions"][1]
    assert (wrong["labels"], wrong["right"]) == (["Green"], False)
    assert [guess["class"] for guess in wrong["top"]] == ["Blue", "Green"]
    assert wrong["top"][0]["score"] == pytest.approx(1, abs=1e-6)
    with Image.open(sheet) as drawn:
        assert (np.asarray(drawn.convert("RGB")) == RED).all(axis=-1).sum() > 100


def test_files_without_labels(call, tmp_path: Path, capsys):
    image = tmp_path / "a.png"
    image.write_bytes(picture("green"))
    assert call(image, "--json", "--classes", "red", "green", "--templates", "a photo of a {}", "name") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["zero_shot_top1"], report["n"]) == (None, 0)
    assert report["predictions"][0]["top"][0]["class"] == "green"
    assert report["templates"] == ["a photo of a {}", "name"]


def test_classes_of_a_file(call, labelled: Path, tmp_path: Path, capsys):
    names = tmp_path / "classes.txt"
    names.write_text("red\n\n  green \nblue\n", encoding="utf-8")
    assert call(labelled, "--classes_file", names, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["classes"], report["n"]) == (["red", "green", "blue"], 3)


def test_a_sheet_that_fails_loses_no_result(call, labelled: Path, tmp_path: Path, capsys, monkeypatch):
    def draw(*_arguments: object) -> Image.Image:
        raise OSError("no space left")

    monkeypatch.setattr(zero_shot, "draw", draw)
    sheet, output = tmp_path / "sheet.png", tmp_path / "report.json"
    assert call(labelled, "--sheet", sheet, "--output", output) == 1
    out, err = capsys.readouterr()
    assert "zero-shot top-1 66.7%" in out
    assert err == "error: no space left\n"
    assert json.loads(output.read_text())["n"] == 3
    assert not sheet.exists()


def test_an_image_whose_label_is_no_class_is_not_counted(call, labelled: Path, capsys):
    assert call(labelled, "--json", "--classes", "red", "green") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["n"] == 2
    assert [guess["right"] for guess in report["predictions"]].count(None) == 1


def test_a_bad_image_is_named_and_the_others_keep_their_labels(call, labelled: Path, capsys):
    (labelled / "Blue" / "0.png").write_text("no image")
    assert call(labelled, "--json") == 1
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert (report["n"], report["zero_shot_top1"]) == (3, pytest.approx(2 / 3))
    assert report["failures"][0]["index"] == 0
    assert "0.png (index 0): no whole JPEG, PNG" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["FOLDER", "--model=nope"], 1, "Servable not found"),
        (["FOLDER/Red/1.png"], 2, "class list is empty"),
        (["FOLDER", "--classes_file=EMPTY"], 2, "class list is empty"),
        (["FOLDER", "--classes_file=gone.txt"], 2, "no file gone.txt"),
        (["FOLDER", "--classes_file=EMPTY", "--classes", "a"], 2, "expected one of them"),
        (["FOLDER", "--classes", "red", "Red"], 2, "one class"),
        (["FOLDER", "--classes", "cat", "dog"], 2, "is a class"),
        (["FOLDER", "--templates", "nope"], 2, "no template"),
        (["FOLDER", "--class_list=cats"], 2, "expected one of digits, cifar10"),
        (["FOLDER", "--class_list=digits", "--classes", "a"], 2, "expected one of them"),
        (["FOLDER", "--json", "--csv"], 2, "leave one of them out"),
        (["FOLDER", "--cache=.", "--no_cache"], 2, "leave one of them out"),
        (["FOLDER", "--top=0"], 2, "top is 0"),
        (["FOLDER", "--sheet=a.jpg"], 2, "ends in .png"),
        (["FOLDER/missing"], 2, "expected a folder"),
    ],
)
def test_an_error_is_one_line_and_a_code(call, labelled: Path, tmp_path: Path, capsys, arguments, code, message):
    (tmp_path / "empty.txt").write_text("\n")
    places = {"FOLDER": str(labelled), "EMPTY": str(tmp_path / "empty.txt")}
    for name, path in places.items():
        arguments = [argument.replace(name, path) for argument in arguments]
    assert call(*arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


def test_no_server(call, labelled: Path, capsys):
    assert call(labelled, "--retries=0", address=closed_address()) == 1
    assert "start a model server there" in capsys.readouterr().err


def test_a_class_file_that_is_no_text_is_named(
    call, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "classes.txt").write_bytes(b"\x89PNG")
    assert call(labelled, "--classes_file", tmp_path / "classes.txt") == 2
    assert "classes.txt is no UTF-8 text; expected a class name a line" in capsys.readouterr().err


def test_a_class_list_that_comes_with_the_program():
    """Its classes and its templates, unless others are given; the stand-in has no words for digits."""
    arguments = zero_shot.Arguments((), class_list="digits")
    assert zero_shot.class_names(arguments, []) == list(CLASS_LISTS["digits"].names)
    assert arguments.chosen_templates() == ("digits",)
    assert zero_shot.Arguments((), class_list="digits", templates=("name",)).chosen_templates() == ("name",)


@pytest.mark.parametrize("name", CLASS_LISTS)
def test_every_list_of_ours_makes_prompts(name: str):
    classes = CLASS_LISTS[name]
    assert len(prompts(classes.names, find_templates(classes.templates))) == len(classes.names)


def test_the_lists_are_of_the_sets_that_they_are_named_after():
    sizes = {name: len(classes.names) for name, classes in CLASS_LISTS.items()}
    assert (sizes["digits"], sizes["cifar10"], sizes["cifar100"], sizes["stl10"]) == (10, 10, 100, 10)
    assert (sizes["fashion_mnist"], sizes["eurosat"]) == (10, 10)


def test_csv(call, labelled: Path, capsys):
    (labelled / "Blue" / "a, b.png").write_bytes(picture("blue"))
    assert call(labelled, "--csv", "--top=2") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [Path(row["name"]).name for row in rows] == ["1.png", "a, b.png", "1.png", "1.png"]
    assert [(row["labels"], row["right"], row["class_1"]) for row in rows[1:3]] == [
        ("Blue", "true", "Blue"),
        ("Green", "false", "Blue"),
    ]
    assert float(rows[0]["score_1"]) > float(rows[0]["score_2"])


def test_paths_come_on_stdin(call, labelled: Path, monkeypatch, capsys):
    text = f"{labelled}/Red/1.png\n{labelled}/Blue/1.png\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert call("-", "--classes", "red", "blue", "--csv") == 0
    assert [line.split(",")[3] for line in capsys.readouterr().out.splitlines()[1:]] == ["red", "blue"]


def texts_asked(standin: StandIn) -> int:
    return len(standin.asked(signature.EMBED_TEXT))


def test_classes_are_embedded_once(call, standin: StandIn, labelled: Path, capsys):
    assert call(labelled, "--json") == 0
    first, asked = capsys.readouterr().out, texts_asked(standin)
    assert call(labelled, "--json") == 0
    assert (capsys.readouterr().out, texts_asked(standin)) == (first, asked)
    for other in (["--templates", "name"], ["--classes", "red", "blue"], ["--classes", "Red", "Green", "Blue"]):
        assert call(labelled, *other) == 0
        assert texts_asked(standin) > asked
        asked = texts_asked(standin)
    with serve(StandIn(space_id="space-two")) as another:
        assert call(labelled, address=another.address) == 0
        assert texts_asked(another) > 0


@pytest.mark.parametrize("harm", [lambda whole: whole[:-1], lambda whole: whole[:0], lambda whole: whole[:-1] + b"?"])
def test_a_damaged_cache_is_no_cache(call, standin: StandIn, labelled: Path, cache: Path, capsys, harm):
    assert call(labelled, "--json") == 0
    first, asked = capsys.readouterr().out, texts_asked(standin)
    (entry,) = cache.iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(harm(whole))
    assert call(labelled, "--json") == 0
    assert capsys.readouterr().out == first
    assert texts_asked(standin) > asked
    assert entry.read_bytes() == whole


def test_a_model_that_is_replaced_after_the_classes_is_an_error_of_the_server(call, labelled: Path, capsys):
    with serve(StandIn()) as counted:
        assert call(labelled, "--no_cache", address=counted.address) == 0
        before = len(counted.requests) - len(counted.asked(signature.EMBED_IMAGE_EACH))
    capsys.readouterr()
    with serve(StandIn(unloads_after=before)) as swapped:
        assert call(labelled, "--no_cache", address=swapped.address) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "lie in space space-one, and version 2 has answered in space space-two" in err


def test_a_cache_that_cannot_be_written_is_a_warning(call, labelled: Path, tmp_path: Path, capsys):
    (tmp_path / "file").write_text("no folder")
    assert call(labelled, "--cache", tmp_path / "file") == 0
    assert capsys.readouterr().err.startswith("warning: the classes' vectors cannot be kept: ")


def test_the_version_is_the_one_that_answered_the_images(call, labelled: Path, cache: Path, capsys):
    assert call(labelled, "--json") == 0
    assert json.loads(capsys.readouterr().out)["version"] == 1
    assert len(list(cache.iterdir())) == 1
    with serve(StandIn(version=2)) as later:  # of the same space: the classes come from the cache
        assert call(labelled, "--json", address=later.address) == 0
        assert later.asked(signature.EMBED_TEXT) == []
    assert json.loads(capsys.readouterr().out)["version"] == 2


def test_no_cache(call, standin: StandIn, labelled: Path, cache: Path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    for flags in (["--no_cache"], ["--no_cache"], [], []):  # who has no home has none either
        asked = texts_asked(standin)
        assert call(labelled, *flags) == 0
        assert texts_asked(standin) > asked
    assert not cache.exists()


def test_a_bar_is_full_for_the_best_class_and_empty_for_the_worst(call, labelled: Path, capsys):
    assert call(labelled, "--top=3") == 0
    lines = [
        line for line in capsys.readouterr().out.splitlines() if "Green" in line or "Red" in line or "Blue" in line
    ]
    assert "█" * 12 in lines[0]
    assert "█" not in lines[2]


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1", "FORCE_COLOR": "1"}])
def test_what_is_piped_or_wished_so_has_no_colours(standin: StandIn, labelled: Path, variables: dict[str, str]):
    command = [sys.executable, PROGRAM, labelled, f"--address={standin.address}"]
    environment = {**os.environ, **variables}
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "Green" in found.stdout  # in red, where there are colours
    assert "\x1b[31m" not in found.stdout


def test_with_on_error_raise_there_is_no_result(call, labelled: Path, tmp_path: Path, capsys):
    (labelled / "Blue" / "0.png").write_text("no image")
    (labelled / "Red" / "0.png").write_text("no image")
    assert call(labelled, "--on_error=raise", "--json", "--output", tmp_path / "r.json") == 1
    out, err = capsys.readouterr()
    assert (out, err.count("no whole JPEG")) == ("", 2)
    assert not (tmp_path / "r.json").exists()
