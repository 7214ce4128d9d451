from pathlib import Path

import pytest

from vit22b.folder import METADATA_FILE, Record, read_folder, write_metadata


def _touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def test_plain_images_are_sorted_and_have_no_labels(tmp_path):
    _touch(tmp_path, "b.PNG", "a.jpg", "c.webp", "notes.txt", ".hidden.png")
    folder = read_folder(str(tmp_path))
    assert [record.name for record in folder.records] == ["a.jpg", "b.PNG", "c.webp"]
    assert folder.labels == ()
    assert folder.records[0] == Record(tmp_path / "a.jpg", "a.jpg")


def test_a_sub_folder_for_each_class(tmp_path):
    _touch(tmp_path, "dog/2.png", "cat/deep/1.png", "cat/0.gif", ".git/x.png", "README.md")
    folder = read_folder(tmp_path)
    assert [(record.name, record.labels) for record in folder.records] == [
        ("cat/0.gif", ("cat",)),
        ("cat/deep/1.png", ("cat",)),
        ("dog/2.png", ("dog",)),
    ]
    assert folder.labels == ("cat", "dog")


def test_metadata_makes_the_round_trip_and_rules_over_the_tree(tmp_path):
    _touch(tmp_path, "x/1.png", "x/2.png", "x/3.png")
    records = [
        Record(tmp_path / "x/2.png", "x/2.png", ("zwei", "even"), "the numéro “two”"),
        Record(tmp_path / "x/1.png", "x/1.png", (), None),
    ]
    write_metadata(tmp_path, records)
    folder = read_folder(tmp_path)
    assert list(folder.records) == records[::-1]
    assert folder.labels == ("even", "zwei")
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == [METADATA_FILE]


def test_unknown_fields_and_blank_lines_are_passed_over(tmp_path):
    _touch(tmp_path, "1.png")
    (tmp_path / METADATA_FILE).write_text('\n{"file_name": "1.png", "author": "me"}\n\n')
    assert read_folder(tmp_path).records == (Record(tmp_path / "1.png", "1.png"),)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[]", 'string "file_name"'),
        ('{"file_name": 3}', 'string "file_name"'),
        ('{"file_name": "gone.png"}', "no file 'gone.png'"),
        ('{"file_name": "../1.png"}', "out of the folder"),
        ('{"file_name": "/etc/passwd"}', "out of the folder"),
        ('{"file_name": "1.png", "labels": "cat"}', "expected a list of strings"),
        ('{"file_name": "1.png", "labels": [1]}', "expected a list of strings"),
        ('{"file_name": "1.png", "caption": []}', "expected a string"),
        ('{"file_name": "0.png"}', "comes a second time"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, message):
    _touch(tmp_path, "0.png", "1.png")
    (tmp_path / METADATA_FILE).write_text('{"file_name": "0.png"}\n' + line + "\n")
    with pytest.raises(ValueError, match=f"line 2: .*{message}"):
        read_folder(tmp_path)


def test_what_is_no_folder_of_images(tmp_path):
    _touch(tmp_path, "file.png", "empty/notes.txt", "mixed/1.png", "mixed/cat/2.png", "sets/train/1.png")
    write_metadata(tmp_path / "sets/train", [])
    for name, message in [
        ("missing", "is missing"),
        ("file.png", "is a file"),
        ("empty", "holds no image"),
        ("mixed", r"1\.png beside the sub-folder cat"),
        ("sets", "sub-folders have: train"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_folder(tmp_path / name)
