import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clients import embed, vector_files
from clients.journal import Journal, journal_file
from tests.standin import StandIn, closed_address, picture, serve
from tests.waiting import until
from vit22b import signature
from vit22b.errors import VitError

PROGRAM = Path(__file__).parents[1] / "clients" / "embed.py"


@pytest.fixture(scope="module")
def standin() -> Iterator[StandIn]:
    with serve(StandIn()) as served:
        yield served


@pytest.fixture
def call(standin: StandIn, run_program: Callable[..., int]) -> Callable[..., int]:
    def call(*arguments: object, address: str = standin.address) -> int:
        return run_program(embed.main, embed.Arguments, f"--address={address}", *arguments, failures=(VitError,))

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


def test_a_name_that_is_no_text_is_shown_all_the_same(standin: StandIn, photos: Path, tmp_path: Path):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    odd.write_bytes((photos / "red.png").read_bytes())
    command = [sys.executable, PROGRAM, odd, f"--address={standin.address}", f"--output={tmp_path}/v.npz"]
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    found = subprocess.run(command, check=False, capture_output=True, text=True, env=strict)
    assert found.returncode == 0, found.stderr
    assert "caf\\udce9.png" in found.stdout


def test_images_beside_and_in_sub_folders_are_all_taken(call, photos: Path, capsys):
    (photos / "more").mkdir()
    (photos / "red.png").rename(photos / "more" / "red.png")
    assert call(photos, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["vectors"]) == 3


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
        (["PHOTOS", "--retries=-1"], 2, "retries is -1; expected 0 or more"),
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
    assert call(photos, "--retries=0", address=closed_address()) == 1
    err = capsys.readouterr().err
    assert "start a model server there" in err
    assert err.count("\n") == 1


def test_an_unknown_flag_ends_with_2(photos: Path):
    found = subprocess.run([sys.executable, PROGRAM, photos, "--outptu=x"], capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert "--outptu" in found.stderr
    assert "Traceback" not in found.stderr


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Forty images of different colours."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(40):
        Image.new("RGB", (2, 2), (6 * number, 255 - 6 * number, 128)).save(folder / f"{number:02}.png")
    return folder


def images_asked(standin: StandIn) -> int:
    """How many images the server was sent so far."""
    asked = standin.asked(signature.EMBED_IMAGE_EACH)
    return sum(request.inputs[signature.IMAGE_BYTES].tensor_shape.dim[0].size for request in asked)


def embedded(output: Path) -> int:
    """How many images the journal of an output has, while a run may write it."""
    path = journal_file(output)
    content = path.read_bytes() if path.exists() else b""
    copy = path.with_name("copy.journal")
    copy.write_bytes(content)
    journal = Journal.resume(copy)
    if journal is None:
        return 0
    with journal:
        return len(journal)


@pytest.fixture
def interrupted(many: Path):
    """Starts the program with a slow server, sends it a signal after some images, and has it end."""

    def interrupt(number: signal.Signals, output: Path) -> subprocess.CompletedProcess[str]:
        with serve(StandIn(delay=0.1)) as slow:
            command = [sys.executable, PROGRAM, many, f"--address={slow.address}", f"--output={output}"]
            running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            until(lambda: embedded(output) >= 8)
            running.send_signal(number)
            out, err = running.communicate(timeout=60)
        return subprocess.CompletedProcess(command, running.returncode, out, err)

    return interrupt


@pytest.mark.parametrize(
    ("suffix", "number", "code"),
    [(".npz", signal.SIGKILL, -9), (".parquet", signal.SIGTERM, -15), (".npz", signal.SIGINT, 130)],
)
def test_a_run_that_was_ended_goes_on(call, standin, interrupted, many, tmp_path, suffix, number, code):
    whole, output = tmp_path / f"whole{suffix}", tmp_path / f"v{suffix}"
    ended = interrupted(number, output)
    assert ended.returncode == code
    assert "Traceback" not in ended.stderr
    assert not output.exists()
    done = embedded(output)
    assert 8 <= done < 40
    if number == signal.SIGINT:
        told = f"interrupted; {done} of 40 images are in {journal_file(output)}; the same command with --resume"
        assert told in ended.stderr
    assert call(many, "--output", output) == 2  # and does not begin anew unless it is told to
    before = images_asked(standin)
    assert call(many, "--output", output, "--resume") == 0
    assert images_asked(standin) - before == 40 - done
    assert not journal_file(output).exists()
    assert call(many, "--output", whole) == 0
    one, other = vector_files.read(output), vector_files.read(whole)
    assert one.names == other.names == tuple(sorted(map(str, many.iterdir())))
    np.testing.assert_array_equal(one.vectors, other.vectors)


def test_a_run_of_another_space_is_not_gone_on_with(call, interrupted, many: Path, tmp_path: Path, capsys):
    output = tmp_path / "v.npz"
    interrupted(signal.SIGKILL, output)
    done = embedded(output)
    with serve(StandIn(version=2, space_id="space-two")) as other:
        assert call(many, "--output", output, "--resume", address=other.address) == 2
    assert "space_id space-one (version 1), now it is space_id space-two (version 2)" in capsys.readouterr().err
    assert call(many, "--output", output, "--resume", "--dimensions=4") == 2
    assert "dimensions 8 (version 1), now it is dimensions 4" in capsys.readouterr().err
    (many / "00.png").unlink()
    assert call(many, "--output", output, "--resume") == 2
    assert "40 images, now it is 39 images" in capsys.readouterr().err
    assert embedded(output) == done


def test_a_model_that_is_replaced_before_its_first_answer_is_the_origin(photos: Path, tmp_path: Path, call):
    output = tmp_path / "v.npz"
    with serve(StandIn(unloads_after=1)) as swapped:  # after it was described
        assert call(photos, "--output", output, address=swapped.address) == 0
    found = vector_files.read(output)
    assert (found.space_id, found.version, len(found)) == ("space-two", 2, 3)


def test_vectors_of_two_spaces_are_not_put_in_one_file(photos: Path, tmp_path: Path, call, capsys):
    bad, output = photos / "notes.png", tmp_path / "v.npz"
    bad.write_text("no image")
    with serve(StandIn()) as swapped:
        assert call(photos, "--on_error=raise", "--output", output, address=swapped.address) == 1
        bad.write_bytes(picture("red"))
        capsys.readouterr()
        swapped.unloads_after = len(swapped.requests) + 1  # after it was described
        assert call(photos, "--output", output, "--resume", address=swapped.address) == 1
        assert swapped.space_id == "space-two"
    assert "lie in space space-one, and version 2 has answered in space space-two" in capsys.readouterr().err
    assert not output.exists()
    assert embedded(output) == 3


def test_resume_begins_where_there_is_nothing_to_go_on_with(call, photos: Path, tmp_path: Path):
    assert call(photos, "--output", tmp_path / "v.npz", "--resume") == 0
    assert len(vector_files.read(tmp_path / "v.npz")) == 3


def test_a_bad_image_that_was_repaired_is_all_that_is_embedded_again(
    call, standin: StandIn, photos: Path, tmp_path: Path, capsys
):
    bad, output = photos / "notes.png", tmp_path / "v.npz"
    bad.write_text("no image")
    assert call(photos, "--on_error=raise", "--output", output) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "3 of 4 images are in" in err
    bad.write_bytes(picture("red"))
    before = images_asked(standin)
    assert call(photos, "--on_error=raise", "--output", output, "--resume") == 0
    assert images_asked(standin) - before == 1
    found = vector_files.read(output)
    assert [Path(name).name for name in found.names] == ["blue.png", "green.png", "notes.png", "red.png"]
    assert found.vectors.argmax(axis=1).tolist() == [2, 1, 0, 0]


def test_no_image_at_all_is_a_file_without_vectors(call, tmp_path: Path):
    (tmp_path / "notes.png").write_text("no image")
    assert call(tmp_path / "notes.png", "--output", tmp_path / "v.npz") == 1
    assert vector_files.read(tmp_path / "v.npz").vectors.shape == (0, 8)


@pytest.mark.parametrize("suffix", vector_files.SUFFIXES)
def test_formats_dimensions_and_encodings(call, photos: Path, tmp_path: Path, suffix: str, capsys):
    output = tmp_path / f"v{suffix}"
    assert call(photos, "--output", output, "--dimensions=4", "--encoding=int8") == 0
    found = vector_files.read(output)
    assert (found.dimensions, found.encoding, found.space_id) == (4, "int8", "space-one")
    assert found.vectors.tolist() == [[0, 0, 127, 0], [0, 127, 0, 0], [127, 0, 0, 0]]
    assert "the first 4 of 4 numbers" in capsys.readouterr().out
    assert call(photos, "--json", "--encoding=binary") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["encoding"], report["width"], [len(row) for row in report["vectors"]]) == ("binary", 8, [1, 1, 1])


def run(standin: StandIn, *arguments: object, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, PROGRAM, f"--address={standin.address}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_paths_come_on_stdin_and_lines_go_to_stdout(standin: StandIn, photos: Path):
    (photos / "notes.png").write_text("no image")
    names = [str(photos / f"{name}.png") for name in ("red", "notes", "blue")]
    found = run(standin, "-", "--output=-", input="\n".join(names) + "\n\n")
    assert found.returncode == 1
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert [(line["name"], line["space_id"]) for line in lines] == [(names[0], "space-one"), (names[2], "space-one")]
    assert np.argmax([line["vector"] for line in lines], axis=1).tolist() == [0, 2]
    assert found.stderr.startswith(f"error: {names[1]} (index 1): no whole JPEG")
    assert found.stderr.count("\n") == 1


def test_a_folder_may_be_on_the_list(call, photos: Path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{photos}\n{photos}/red.png".encode())))
    assert call("-", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["names"]) == 4


@pytest.mark.parametrize("form", ["--output=-", "--json", ""])
def test_who_reads_no_more_is_not_complained_about(standin: StandIn, photos: Path, form: str):
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "wb") as nobody:
        command = [sys.executable, PROGRAM, photos, f"--address={standin.address}", *([form] if form else [])]
        found = subprocess.run(command, stdout=nobody, stderr=subprocess.PIPE, text=True, check=False)
    assert (found.returncode, found.stderr) == (141, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume"], "--resume is given without a file"),
        (["--resume", "--output=-"], "--resume is given without a file"),
        (["--json", "--output=-"], "leave one of them out"),
        (["--on_error=raise", "--output=-"], "leave out --on_error raise"),
        (["--dimensions=9"], "dimensions is 9; expected 1 to 8"),
        (["-", "-"], "- is named twice"),
    ],
)
def test_what_cannot_be_is_told_before_any_work(call, photos: Path, capsys, arguments, message):
    assert call(photos, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
