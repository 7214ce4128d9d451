import gzip
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clients import bulk_embed
from clients.arguments import Server
from clients.bulk.columns import choose_columns
from clients.bulk.inputs import find_files, sources
from clients.bulk.job import BulkError, Settings, blocks
from clients.bulk.models import ServedVersion
from clients.bulk.reading import Reading
from clients.bulk.shards import Target, complete
from tests import bulk_inputs
from tests.standin import StandIn
from tests.waiting import until
from vit22b import program, signature, wire_pb2
from vit22b.client import Client
from vit22b.errors import VitError
from vit22b.tensors import from_wire

ROOT = Path(__file__).parents[1]
ROWS = 5
EMPTY: dict[str, Callable[[Path], object]] = {
    "empty.tar": lambda path: tarfile.open(path, "w").close(),
    "empty.tgz": lambda path: tarfile.open(path, "w:gz").close(),
    "empty.tfrecord": Path.touch,
    "empty.tfrecord.gz": lambda path: path.write_bytes(gzip.compress(b"")),
    "empty.parquet": lambda path: pq.write_table(pa.table({"uri": pa.array([], "string")}), path),
}


@pytest.fixture
def call(standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the program in this process, on the stand-in, into tmp_path/out."""

    def call(*arguments: object) -> int:
        flags = (f"--address={standin.address}", f"--output={tmp_path / 'out'}", f"--shard_rows={ROWS}", *arguments)
        monkeypatch.setattr(sys, "argv", ["bulk_embed.py", *map(str, flags)])
        with pytest.raises(SystemExit) as stopped:
            program.run(bulk_embed.main, bulk_embed.Arguments, None, failures=(VitError, BulkError), rest=True)
        return stopped.value.code

    return call


def start(standin: StandIn, output: Path, *arguments: object) -> subprocess.Popen:
    """Starts the program as users do."""
    command = [sys.executable, ROOT / "clients" / "bulk_embed.py", f"--address={standin.address}", f"--output={output}"]
    return subprocess.Popen(
        [*command, f"--shard_rows={ROWS}", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def images_of(request: wire_pb2.PredictRequest) -> list[bytes]:
    return from_wire(request.inputs[signature.IMAGE_BYTES]).tolist() if request.inputs else []


def receipts(output: Path) -> list[Path]:
    return sorted((output / "receipts").glob("*.json"))


@pytest.mark.parametrize("form", bulk_inputs.FORMS)
def test_every_input_gives_the_vectors_of_its_images_in_order(
    form: str, client: Client, tmp_path: Path, call: Callable[..., int]
):
    given = bulk_inputs.images(12, bad={7: b"no image"})
    inputs = bulk_inputs.FORMS[form](tmp_path, given)
    assert call("--input", *inputs) == 1
    names, found = bulk_inputs.vectors(tmp_path / "out")
    expected = client.embed_images(list(given.values()), on_error="skip")
    assert np.array_equal(found, expected.vectors)
    assert len(names) == len(set(names)) == 11
    if form != "records" and form != "compressed records" and form != "bytes in Parquet":
        assert [Path(name).stem for name in names] == [Path(name).stem for name in given if name != "007.png"]
    (failure,) = bulk_inputs.failures(tmp_path / "out")
    assert "no whole JPEG" in failure["reason"]
    assert failure["name"] not in names


def test_the_manifest_says_what_the_shards_are(tmp_path: Path, call: Callable[..., int], capsys):
    call("--input", *bulk_inputs.folder(tmp_path, bulk_inputs.images(12, bad={7: b"", 8: b"?"})), "--json")
    output = tmp_path / "out"
    manifest = json.loads((output / "manifest.json").read_text())
    assert (manifest["space_id"], manifest["version"], manifest["model"]) == ("space-one", 1, "vit22b")
    assert (manifest["rows"], manifest["failures"]) == (10, 2)
    assert [(shard["start"], shard["stop"], shard["rows"]) for shard in manifest["shards"]] == [
        (0, 5, 5),
        (5, 10, 3),
        (10, 12, 2),
    ]
    sums = {name: digest for shard in manifest["shards"] for name, digest in shard["files"].items()}
    files = bulk_inputs.written(output)
    assert sums == {
        name: hashlib.sha256(content).hexdigest()
        for name, content in files.items()
        if name.startswith(("shards/", "failures/"))
    }
    empty, nonsense = bulk_inputs.failures(output)
    assert (empty["index"], empty["name"], empty["reason"]) == (7, "007.png", "the file is empty")
    assert (nonsense["index"], nonsense["uri"]) == (8, str(tmp_path / "photos" / "008.png"))
    assert not (output / "partial").exists()
    printed = json.loads(capsys.readouterr().out)
    assert (printed["images"], printed["failures"], printed["new_shards"]) == (12, 2, 3)


@pytest.mark.parametrize("encoding", ["float16", "int8", "binary"])
def test_npy_shards_have_the_dimensions_and_the_encoding_asked_for(
    encoding: str, client: Client, tmp_path: Path, call: Callable[..., int]
):
    given = bulk_inputs.images(7)
    inputs = bulk_inputs.folder(tmp_path, given)
    assert call("--input", *inputs, "--format=npy", "--dimensions=5", f"--encoding={encoding}") == 0
    names, found = bulk_inputs.vectors(tmp_path / "out", ".npy")
    expected = client.embed_images(list(given.values()), dimensions=5, encoding=encoding)
    assert names == list(given)
    assert found.dtype == expected.vectors.dtype
    assert np.array_equal(found, expected.vectors)


def test_a_killed_run_goes_on_where_it_was(standin: StandIn, tmp_path: Path, call: Callable[..., int], capsys):
    given = bulk_inputs.images(40, bad={3: b"?", 33: b""})
    inputs = bulk_inputs.folder(tmp_path, given)
    assert call("--input", *inputs) == 1
    whole = bulk_inputs.written(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "whole")

    standin.delay = 0.1
    run = start(standin, tmp_path / "out", "--input", *inputs)
    until(lambda: len(receipts(tmp_path / "out")) >= 2)
    run.send_signal(signal.SIGKILL)
    run.communicate(timeout=120)
    standin.delay = 0.0
    done = [json.loads(file.read_text()) for file in receipts(tmp_path / "out")]
    assert 2 <= len(done) < 8
    assert not (tmp_path / "out" / "manifest.json").exists()
    (tmp_path / "out" / "partial").mkdir(exist_ok=True)
    (tmp_path / "out" / "partial" / "half").write_bytes(b"of a shard")

    until(lambda: not standin.under_way)
    before = len(standin.requests)
    capsys.readouterr()
    assert call("--input", *inputs, "--json") == 1
    assert json.loads(capsys.readouterr().out)["new_shards"] == 8 - len(done)
    contents = list(given.values())
    kept = {content for shard in done for content in contents[shard["start"] : shard["stop"]]}
    sent = [content for request in standin.requests[before:] for content in images_of(request)]
    assert len(sent) >= 35 - 5 * len(done)
    assert not kept & set(sent)
    assert bulk_inputs.written(tmp_path / "out") == whole


@pytest.mark.parametrize("name", EMPTY)
@pytest.mark.parametrize("shards", ["parquet", "npy"])
def test_an_input_that_is_empty_has_an_empty_shard(
    name: str, shards: str, standin: StandIn, tmp_path: Path, call: Callable[..., int]
):
    EMPTY[name](tmp_path / name)
    kind, files = find_files([str(tmp_path / name)], None)
    columns = choose_columns(kind, [str(tmp_path / name)], None, None)
    settings = Settings("vit22b", 1, "space-one", 8, "float32", shards, ROWS, kind, *columns)
    target = Target(str(tmp_path / "alone"), "0" * 12, settings, Reading())
    (block,) = blocks(*sources(files, kind), ROWS)
    model = ServedVersion(Server(standin.address), settings)
    first = list(itertools.islice(complete(target, block, model), 2))
    assert first == list(itertools.islice(complete(target, block, model), 2))
    assert [(receipt.start, receipt.stop, receipt.last) for receipt in first] == [(0, 0, True)]
    model.close()

    assert call("--input", tmp_path / name, f"--format={shards}") == 0
    before = bulk_inputs.written(tmp_path / "out")
    assert call("--input", tmp_path / name, f"--format={shards}") == 0
    assert bulk_inputs.written(tmp_path / "out") == before
    assert bulk_inputs.vectors(tmp_path / "out", f".{shards}")[1].shape == (0, 8)


def test_an_empty_file_among_others_costs_them_nothing(tmp_path: Path, call: Callable[..., int]):
    given = bulk_inputs.images(12)
    bulk_inputs.tars(tmp_path, given)
    tarfile.open(tmp_path / "1a.tar", "w").close()
    assert call("--input", tmp_path / "*.tar") == 0
    assert [Path(name).stem for name in bulk_inputs.vectors(tmp_path / "out")[0]] == [Path(name).stem for name in given]


def test_a_name_that_is_no_text_is_escaped(tmp_path: Path, call: Callable[..., int]):
    inputs = bulk_inputs.folder(tmp_path, bulk_inputs.images(2))
    photos = tmp_path / "photos"
    (photos / os.fsdecode(b"caf\xe9.png")).write_bytes((photos / "000.png").read_bytes())
    (photos / os.fsdecode(b"d\xe9.png")).touch()
    assert call("--input", *inputs) == 1
    assert bulk_inputs.vectors(tmp_path / "out")[0] == ["000.png", "001.png", r"caf\udce9.png"]
    (failure,) = bulk_inputs.failures(tmp_path / "out")
    assert (failure["name"], failure["reason"]) == (r"d\udce9.png", "the file is empty")
    before = bulk_inputs.written(tmp_path / "out")
    assert call("--input", *inputs) == 1
    assert bulk_inputs.written(tmp_path / "out") == before


def test_a_tar_whose_name_is_no_text_is_read(tmp_path: Path, call: Callable[..., int]):
    bulk_inputs.tars(tmp_path, bulk_inputs.images(2), files=1)
    (tmp_path / "0.tar").rename(tmp_path / os.fsdecode(b"caf\xe9.tar"))
    assert call("--input", tmp_path / "*.tar") == 0
    names = bulk_inputs.vectors(tmp_path / "out")[0]
    assert names == [rf"{tmp_path}/caf\udce9.tar/{number:03}" for number in range(2)]


def test_an_interrupted_run_says_so_in_a_line(standin: StandIn, tmp_path: Path):
    inputs = bulk_inputs.folder(tmp_path, bulk_inputs.images(40))
    standin.delay = 0.1
    run = start(standin, tmp_path / "out", "--input", *inputs)
    until(lambda: receipts(tmp_path / "out"))
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=120)
    assert (run.returncode, errors.splitlines()[-1]) == (130, "interrupted")
    assert "Traceback" not in errors


def test_a_job_that_is_done_asks_for_nothing(standin: StandIn, tmp_path: Path, call: Callable[..., int]):
    inputs = bulk_inputs.folder(tmp_path, bulk_inputs.images(12))
    assert call("--input", *inputs) == 0
    before = bulk_inputs.written(tmp_path / "out"), len(standin.asked(signature.EMBED_IMAGE_EACH))
    assert call("--input", *inputs) == 0
    assert (bulk_inputs.written(tmp_path / "out"), len(standin.asked(signature.EMBED_IMAGE_EACH))) == before


@pytest.mark.parametrize(
    "flags",
    [
        ("--direct_num_workers=2", "--direct_running_mode=multi_processing"),
        # Beam's protocol between submission, job server and workers, by which it is run on Flink and Spark.
        ("--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"),
    ],
    ids=["two workers", "portable"],
)
def test_every_runner_writes_the_same(flags: tuple, standin: StandIn, tmp_path: Path, call: Callable[..., int]):
    inputs = bulk_inputs.folder(tmp_path, bulk_inputs.images(40, bad={3: b"?"}))
    assert call("--input", *inputs) == 1
    run = start(standin, tmp_path / "other", "--input", *inputs, *flags)
    printed, errors = run.communicate(timeout=120)
    assert run.returncode == 1, errors
    assert "space space-one, version 1" in printed
    assert bulk_inputs.written(tmp_path / "other") == bulk_inputs.written(tmp_path / "out")


def test_a_version_that_goes_ends_the_job_and_mixes_nothing(
    standin: StandIn, tmp_path: Path, call: Callable[..., int], capsys
):
    inputs = bulk_inputs.folder(tmp_path, bulk_inputs.images(40))
    standin.unloads_after = 5  # describe twice, then a shard and a half
    assert call("--input", *inputs) == 1
    printed = capsys.readouterr().err
    assert "serve version 1 of vit22b (space space-one) again and repeat the command" in printed
    assert len(printed.strip().splitlines()) == 1
    done = receipts(tmp_path / "out")
    assert done
    assert not (tmp_path / "out" / "manifest.json").exists()

    assert (standin.version, standin.space_id) == (2, "space-two")
    assert call("--input", *inputs) == 1
    printed = capsys.readouterr().err
    assert (
        "serves version 2 (space space-two); what is done stays: serve version 1 of vit22b (space space-one)" in printed
    )
    assert call("--input", *inputs, "--version=2") == 2
    printed = capsys.readouterr().err
    assert "its version is 1, this one's 2; its space_id is space-one, this one's space-two" in printed
    assert receipts(tmp_path / "out") == done

    standin.swap(1, "space-one")
    assert call("--input", *inputs) == 0
    names, found = bulk_inputs.vectors(tmp_path / "out")
    assert len(names) == len(set(names)) == len(found) == 40


def test_a_version_that_is_another_one_all_of_a_sudden_is_refused(
    standin: StandIn, tmp_path: Path, call: Callable[..., int], capsys
):
    inputs = bulk_inputs.folder(tmp_path, bulk_inputs.images(12))
    assert call("--input", *inputs) == 0
    standin.swap(1, "space-two")
    assert call("--input", *inputs) == 2
    assert "its space_id is space-one, this one's space-two" in capsys.readouterr().err


def test_an_output_takes_no_other_job(tmp_path: Path, call: Callable[..., int], capsys):
    inputs = bulk_inputs.folder(tmp_path, bulk_inputs.images(12))
    assert call("--input", *inputs) == 0
    before = bulk_inputs.written(tmp_path / "out")
    assert call("--input", *inputs, "--dimensions=4") == 2
    assert "its dimensions is 8, this one's 4" in capsys.readouterr().err
    (tmp_path / "photos" / "new.png").write_bytes(b"?")
    assert call("--input", *inputs) == 2
    assert "its input is" in capsys.readouterr().err
    assert bulk_inputs.written(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--shard_rows=0",), "shard_rows is 0; expected at least 1"),
        (("--readers=0",), "readers is 0"),
        (("--dimensions=9",), "dimensions is 9; expected 1 to 8"),
        (("--shard_row=5",), "neither this program nor Beam has a flag --shard_row"),
        (("--column=x",), "the column x is given for images, which have none"),
    ],
)
def test_wrong_arguments_are_told(wrong: tuple, message: str, tmp_path: Path, call: Callable[..., int], capsys):
    inputs = bulk_inputs.folder(tmp_path, bulk_inputs.images(2))
    assert call("--input", *inputs, *wrong) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_server_that_is_away_is_told_in_a_line(unused_address: str, tmp_path: Path, call: Callable[..., int], capsys):
    inputs = bulk_inputs.folder(tmp_path, bulk_inputs.images(2))
    assert call("--input", *inputs, f"--address={unused_address}", "--timeout=1", "--retries=0") == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
