import logging
import subprocess
import sys

import pytest

from serving import keys
from serving.keys import KeyFile, line, make_key


@pytest.fixture(autouse=True)
def _look_at_once(monkeypatch):
    monkeypatch.setattr(keys, "_LOOK", 0)


def test_a_key_is_its_holders_and_nobody_elses(tmp_path):
    made = {name: make_key() for name in ("alice", "bob@example.org")}
    path = tmp_path / "keys"
    path.write_text("# who\n\n" + "".join(f"{line(name, key)}  # since May\n" for name, key in made.items()))
    file = KeyFile(path)
    assert {name: file.holder(key) for name, key in made.items()} == {name: name for name in made}
    for wrong in ("", make_key(), made["alice"][:-1], made["alice"] + " ", "\udcff", "alice"):
        assert file.holder(wrong) is None
    assert not any(key in path.read_text() for key in made.values())


def test_keys_do_not_repeat():
    assert len({make_key() for _ in range(100)}) == 100


def test_the_file_is_read_again_when_it_changes(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    old, new = make_key(), make_key()
    path = tmp_path / "keys"
    path.write_text(line("old", old))
    file = KeyFile(path)
    path.write_text(f"{line('old', old)}\n{line('new', new)}\n")
    assert (file.holder(old), file.holder(new)) == ("old", "new")
    (tmp_path / "next").write_text(line("new", new))
    (tmp_path / "next").replace(path)
    assert (file.holder(old), file.holder(new)) == (None, "new")
    assert "Read 2 keys" in caplog.text
    path.write_text("")
    assert file.holder(new) is None
    assert "has no keys" in caplog.text


def test_a_file_that_is_broken_or_gone_leaves_the_keys_as_they_were(tmp_path, caplog):
    key = make_key()
    path = tmp_path / "keys"
    path.write_text(line("alice", key))
    file = KeyFile(path)
    path.write_text("alice: secret")
    for _ in range(3):
        assert file.holder(key) == "alice"
    assert len(caplog.records) == 1
    assert "line 1" in caplog.text
    assert "secret" not in caplog.text
    path.unlink()
    assert file.holder(key) == "alice"
    path.write_text(line("bob", key))
    assert file.holder(key) == "bob"


@pytest.mark.parametrize("content", ["alice", "alice sha256:12", "alice md5:" + "0" * 64, "a b sha256:" + "0" * 64])
def test_a_line_that_is_no_keys_is_refused_with_its_number(tmp_path, content):
    path = tmp_path / "keys"
    path.write_text(f"# a comment\n{content}\n")
    with pytest.raises(ValueError, match=r"line 2: expected 'NAME sha256:HEX'; serving/make_key.py"):
        KeyFile(path)


def test_a_file_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        KeyFile(tmp_path / "nope")


def run(*arguments):
    return subprocess.run(
        [sys.executable, "serving/make_key.py", *arguments], capture_output=True, text=True, check=False
    )


def test_the_program_makes_a_key_and_adds_its_line(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# no line end")
    path.chmod(0o600)
    made = {name: run(name, "--file", str(path)).stdout.strip() for name in ("alice", "bob")}
    file = KeyFile(path)
    assert {name: file.holder(key) for name, key in made.items()} == {"alice": "alice", "bob": "bob"}
    key, shown = run("carol").stdout.splitlines()
    assert shown == line("carol", key)


def test_the_program_makes_a_file_that_is_its_owners_alone(tmp_path):
    assert run("alice", "--file", str(tmp_path / "keys")).returncode == 0
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o600


def test_the_program_says_what_is_wrong(tmp_path):
    refused = run("a name")
    assert refused.returncode == 2
    assert "'a name' is no name of a key" in refused.stderr
    refused = run("alice", "--file", str(tmp_path / "no" / "keys"))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "No such file" in refused.stderr
