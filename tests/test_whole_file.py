from pathlib import Path

import pytest

from vit22b.whole_file import write_whole


def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path: Path):
    target = tmp_path / "report.json"
    write_whole(target, lambda file: file.write(b"old"))

    def half(file):
        file.write(b"ne")
        assert target.read_bytes() == b"old"
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        write_whole(target, half)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]
