import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from clients.journal import Journal, journal_file, stamp
from clients.origin import Origin

ORIGIN = Origin("space-one", 1, 4)
VECTORS = np.arange(24, dtype=np.float32).reshape(6, 4)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    found = [tmp_path / f"{number}.png" for number in range(6)]
    for path in found:
        path.write_bytes(b"image of " + path.name.encode())
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return journal_file(tmp_path / "v.npz")


def begin(file: Path, paths: list[Path]) -> Journal:
    return Journal.create(file, ORIGIN, [str(path) for path in paths])


def test_it_begins_again_with_what_is_known_at_the_first_vectors(file: Path, paths: list[Path]):
    other = Origin("space-two", 2, 2)
    with begin(file, paths) as journal:
        journal.begin(other)
        journal.append([1], VECTORS[:1, :2], stamps(paths))
    resumed = Journal.resume(file)
    assert resumed is not None
    with resumed:
        assert (resumed.origin, resumed.embedded()) == (other, [str(paths[1])])
        np.testing.assert_array_equal(resumed.first(1), VECTORS[:1, :2])


def stamps(paths: list[Path]):
    return {place: stamp(path) for place, path in enumerate(paths)}


def half(file: Path, paths: list[Path]) -> None:
    """A run that has ended with images 0, 1 and 3 embedded, in two frames."""
    with begin(file, paths) as journal:
        journal.append([0, 1], VECTORS[:2], stamps(paths))
        journal.append([3], VECTORS[3:4], stamps(paths))


def content(journal: Journal) -> tuple[list[str], np.ndarray]:
    parts = list(journal.parts())
    return [Path(name).name for names, _ in parts for name in names], np.concatenate([rows for _, rows in parts])


def test_what_was_in_it_and_what_is_missing(file: Path, paths: list[Path]):
    half(file, paths)
    journal = Journal.resume(file)
    assert journal is not None
    with journal:
        journal.check(ORIGIN, paths)
        assert (len(journal), journal.missing(), journal.origin) == (3, [2, 4, 5], ORIGIN)
        journal.append([2, 5], VECTORS[[2, 5]], stamps(paths))
        names, vectors = content(journal)
        assert names == ["0.png", "1.png", "2.png", "3.png", "5.png"]
        np.testing.assert_array_equal(vectors, VECTORS[[0, 1, 2, 3, 5]])
        np.testing.assert_array_equal(journal.first(2), VECTORS[:2])


def test_cut_at_any_byte_it_has_what_was_whole(file: Path, paths: list[Path]):
    with begin(file, paths) as journal:
        sizes = [file.stat().st_size]
        for place in range(3):
            journal.append([place], VECTORS[place : place + 1], stamps(paths))
            sizes.append(file.stat().st_size)
    whole = file.read_bytes()
    for length in range(len(whole) + 1):
        file.write_bytes(whole[:length])
        journal = Journal.resume(file)
        if length < sizes[0]:
            assert journal is None
            continue
        assert journal is not None
        expected = sum(size <= length for size in sizes) - 1
        assert len(journal) == expected
        journal.append([5], VECTORS[5:], stamps(paths))
        journal.close()
        again = Journal.resume(file)
        assert again is not None
        with again:
            np.testing.assert_array_equal(content(again)[1], VECTORS[[*range(expected), 5]])


def test_a_frame_that_is_damaged_is_done_again_with_all_behind_it(file: Path, paths: list[Path]):
    half(file, paths)
    written = bytearray(file.read_bytes())
    written[-1] ^= 1
    file.write_bytes(written)
    journal = Journal.resume(file)
    assert journal is not None
    with journal:
        assert journal.missing() == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space_id": "space-two"}, r"begun with space_id space-one .*now it is space_id space-two"),
        ({"dimensions": 2}, r"begun with dimensions 4 .*now it is dimensions 2"),
        ({"encoding": "int8"}, r"begun with encoding float32 .*now it is encoding int8"),
    ],
)
def test_another_space_or_other_settings_are_refused(file: Path, paths: list[Path], changes, message: str):
    half(file, paths)
    journal = Journal.resume(file)
    assert journal is not None
    with journal, pytest.raises(ValueError, match=message):
        journal.check(dataclasses.replace(ORIGIN, **changes), paths)


def test_another_version_of_the_same_space_goes_on(file: Path, paths: list[Path]):
    half(file, paths)
    journal = Journal.resume(file)
    assert journal is not None
    with journal:
        journal.check(dataclasses.replace(ORIGIN, version=2), paths)


def test_other_images_are_refused(file: Path, paths: list[Path], tmp_path: Path):
    half(file, paths)
    journal = Journal.resume(file)
    assert journal is not None
    with journal:
        with pytest.raises(ValueError, match="begun with 6 images, now it is 5 images"):
            journal.check(ORIGIN, paths[:5])
        with pytest.raises(ValueError, match=r"begun with .*2\.png as image 2, now it is .*other\.png"):
            journal.check(ORIGIN, [*paths[:2], tmp_path / "other.png", *paths[3:]])
        os.utime(paths[4], ns=(0, 0))
        journal.check(ORIGIN, paths)  # it is not embedded yet
        paths[3].write_bytes(b"larger than it was before")
        with pytest.raises(ValueError, match=r"3\.png of 14 bytes, written at .* now it is 25 bytes"):
            journal.check(ORIGIN, paths)
        paths[3].unlink()
        with pytest.raises(ValueError, match="now it is gone"):
            journal.check(ORIGIN, paths)


def test_a_new_run_does_not_throw_away_an_old_one(file: Path, paths: list[Path]):
    half(file, paths)
    with pytest.raises(ValueError, match="3 vectors of a run that did not end; go on with it by --resume, or remove"):
        begin(file, paths)


def test_one_without_a_vector_is_no_work(file: Path, paths: list[Path]):
    with begin(file, paths):
        assert file.exists()
    assert not file.exists()
    assert Journal.resume(file) is None


def test_two_runs_cannot_have_it_at_once(file: Path, paths: list[Path]):
    with begin(file, paths) as journal:
        journal.append([0], VECTORS[:1], stamps(paths))
        with pytest.raises(ValueError, match="another process is writing"):
            Journal.resume(file)
        with pytest.raises(ValueError, match="another process is writing"):
            begin(file, paths)


def test_another_file_is_not_touched(file: Path, paths: list[Path]):
    file.write_text("my diary of the year")
    with pytest.raises(ValueError, match=r"is no journal of clients/embed\.py"):
        Journal.resume(file)
    with pytest.raises(ValueError, match=r"is no journal of clients/embed\.py"):
        begin(file, paths)
    assert file.read_text() == "my diary of the year"
