import stat

import pytest

from export.version_folder import choose_version, staged


def entries(model):
    return sorted(path.name for path in model.iterdir())


def write(model, version, text="weights"):
    with staged(model, version) as folder:
        (folder / "saved_model.pb").write_text(text)


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
    with staged(model, 4) as folder:
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
        with staged(tmp_path, 2) as folder:
            (folder / "saved_model.pb").write_text("half")
            raise error

    write(tmp_path, 1)
    with pytest.raises(error):
        fail()
    assert entries(tmp_path) == ["1"]


def test_a_version_that_came_into_being_meanwhile_is_not_overwritten(tmp_path):
    def race():
        with staged(tmp_path, 1) as folder:
            (folder / "saved_model.pb").write_text("ours")
            write(tmp_path, 1, "theirs")

    with pytest.raises(ValueError, match=f"{tmp_path}/1 was written by somebody else meanwhile; export again"):
        race()
    assert entries(tmp_path) == ["1"]
    assert (tmp_path / "1" / "saved_model.pb").read_text() == "theirs"
