import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tensorflow as tf

from export.version_folder import choose_version, staged
from vit22b.signature import MANIFEST_FILE

EXPORT = Path(__file__).parents[1] / "export" / "to_savedmodel.py"


def entries(model):
    return sorted(path.name for path in model.iterdir())


def write(model, version, text="weights"):
    with staged(model, version) as stage:
        (stage.folder / "saved_model.pb").write_text(text)


def test_the_next_version_is_above_all_there_are(tmp_path):
    assert choose_version(tmp_path / "new", None) == 1
    for name in ("2", "10", ".11.partial-x", "12-old", "notes"):
        (tmp_path / name).mkdir()
    assert choose_version(tmp_path, None) == 11


def test_a_free_version_may_be_any_number(tmp_path):
    (tmp_path / "10").mkdir()
    assert [choose_version(tmp_path, wanted) for wanted in (0, 9, 20_300_101)] == [0, 9, 20_300_101]


def test_a_version_that_exists_is_refused_with_the_remedy(tmp_path):
    for version in ("3", "7"):
        (tmp_path / version).mkdir()
    with pytest.raises(ValueError, match=f"{tmp_path}/3 exists already .* leave --version out to write 8, or remove"):
        choose_version(tmp_path, 3)


def test_a_number_that_is_no_version_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="--version is -1; expected 0 or more"):
        choose_version(tmp_path, -1)


def test_a_version_appears_only_once_it_is_whole(tmp_path):
    model = tmp_path / "models" / "digits"
    with staged(model, 4) as stage:
        folder = stage.folder
        (folder / "variables").mkdir()
        (folder / "variables" / "data").write_text("weights")
        assert folder.parent == model
        (name,) = entries(model)
        assert not name.isdecimal()
    assert entries(model) == ["4"]
    assert (model / "4" / "variables" / "data").read_text() == "weights"
    assert stat.S_IMODE((model / "4").stat().st_mode) == 0o755


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_nothing(tmp_path, error):
    def fail():
        with staged(tmp_path, 2) as stage:
            (stage.folder / "saved_model.pb").write_text("half")
            raise error

    write(tmp_path, 1)
    with pytest.raises(error):
        fail()
    assert entries(tmp_path) == ["1"]


@pytest.fixture
def race(tmp_path):
    """Writes a version while somebody else, who knows no locks, writes version 1."""

    def run(wanted):
        with staged(tmp_path, wanted) as stage:
            (stage.folder / "saved_model.pb").write_text("ours")
            (tmp_path / "1").mkdir()
            (tmp_path / "1" / "saved_model.pb").write_text("theirs")
        return stage.version

    return run


def test_a_version_that_came_into_being_meanwhile_is_not_overwritten(race, tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path}/1 was written by somebody else meanwhile; export again"):
        race(1)
    assert entries(tmp_path) == ["1"]
    assert (tmp_path / "1" / "saved_model.pb").read_text() == "theirs"


def test_a_version_without_a_wanted_number_goes_beside_one_that_came_into_being(race, tmp_path):
    assert race(None) == 2
    assert [(tmp_path / name / "saved_model.pb").read_text() for name in entries(tmp_path)] == ["theirs", "ours"]


def test_exports_at_once_take_different_numbers(tmp_path):
    count = 16
    start, versions = threading.Barrier(count), []

    def export():
        start.wait()
        with staged(tmp_path, None) as stage:
            (stage.folder / "saved_model.pb").write_text("weights")
            start.wait()
            claimed = stage.version
        versions.append((claimed, stage.version))

    threads = [threading.Thread(target=export) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(versions) == [(number, number) for number in range(1, count + 1)]
    assert entries(tmp_path) == sorted(str(number) for number in range(1, count + 1))


def test_another_failure_of_the_rename_is_told_as_it_is(tmp_path, monkeypatch):
    """The file system goes wrong between two calls, which no test can make a real one do."""
    rename = Path.rename

    def fail(path, target):
        if Path(target).name == "1":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="Input/output error"):
        write(tmp_path, 1)
    assert entries(tmp_path) == []


def test_what_is_being_written_is_neither_free_nor_removed(tmp_path, capsys):
    with staged(tmp_path, 1) as stage:
        first = stage.folder
        assert choose_version(tmp_path, None) == 2
        with pytest.raises(ValueError, match=f"another export is writing {tmp_path}/1, in {first}; wait for its end"):
            choose_version(tmp_path, 1)
        with pytest.raises(ValueError, match=f"another export is writing {tmp_path}/1, in {first}"):
            write(tmp_path, 1)
        write(tmp_path, 2)
        assert first.is_dir()
    assert entries(tmp_path) == ["1", "2"]
    assert "removed" not in capsys.readouterr().err


def test_what_a_killed_export_left_is_removed_by_the_next(tmp_path, capsys):
    left = tmp_path / f".1.partial-abc@{socket.gethostname()}"
    left.mkdir()
    (left / "saved_model.pb").write_text("half")
    assert choose_version(tmp_path, 1) == 1
    write(tmp_path, 1)
    assert entries(tmp_path) == ["1"]
    assert capsys.readouterr().err == f"removed {left}, which an export that was killed had left\n"


def test_what_another_host_writes_stays(tmp_path, capsys):
    """Its lock need not be seen here."""
    left = tmp_path / ".1.partial-abc@elsewhere"
    left.mkdir()
    write(tmp_path, None)
    assert entries(tmp_path) == [left.name, "2"]
    assert capsys.readouterr().err == f"{left} is of an export on elsewhere; remove it if there is none any more\n"
    with pytest.raises(ValueError, match=r"another export is writing .*/1, in "):
        choose_version(tmp_path, 1)


@pytest.mark.parametrize(
    "fill", [lambda: Path("/dev/full").write_bytes(b"x"), lambda: tf.io.write_file("/dev/full", "x" * 2**20)]
)
def test_a_full_disk_leaves_nothing_and_says_what_to_do(tmp_path, fill):
    def export():
        with staged(tmp_path, 2) as stage:
            (stage.folder / "saved_model.pb").write_text("half")
            fill()

    write(tmp_path, 1)
    with pytest.raises(OSError, match="the disk is full: nothing is left of version 2; make room and export again"):
        export()
    assert entries(tmp_path) == ["1"]


def test_what_the_disk_has_no_room_for_is_not_begun(tmp_path):
    told = r"the version takes 1000000000\.0 GB and [\d.]+ GB are free; make room"
    with pytest.raises(OSError, match=told), staged(tmp_path, 1, size=10**18):
        pass
    assert entries(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "golden"), [("variables/*", "none"), (MANIFEST_FILE, "recorded")], ids=["variables", "record"]
)
def test_an_export_that_is_killed_leaves_no_version(tuned, tmp_path, capfd, moment, golden):
    """A real export, killed as it writes the variables, and as the second process runs what it wrote."""
    model = tmp_path / "digits"
    command = [sys.executable, EXPORT, "--checkpoint", tuned, "--output", model, "--batch_sizes", "1"]
    options = ["--batching", "none", "--platforms", "cpu", "--golden", golden]
    export = subprocess.Popen([*command, *options], start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 300
        while not list(model.glob(f".1.partial-*/{moment}")):
            assert export.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert choose_version(model, None) == 2
    finally:
        os.killpg(export.pid, signal.SIGKILL)
    assert export.wait(timeout=60) == -signal.SIGKILL
    (left,) = entries(model)
    assert not left.isdecimal()
    capfd.readouterr()
    write(model, choose_version(model, 1))
    assert entries(model) == ["1"]
    assert f"removed {model / left}" in capfd.readouterr().err
