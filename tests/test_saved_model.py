import datetime

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

from serving import saved_model
from tests.manifests import manifest
from tests.small_models import plus, put
from vit22b.signature import MANIFEST_FILE

SERVE = frozenset({"serve"})


def load(path, tags=SERVE):
    return saved_model.restore(path, saved_model.read_meta_graph(path, tags), config_pb2.ConfigProto())


@pytest.fixture
def version(tmp_path):
    return put(plus(1), tmp_path / "m", 1)


def test_a_version_runs_with_its_variables(version):
    meta_graph = saved_model.read_meta_graph(version, SERVE)
    runtime = load(version)
    signature = meta_graph.signature_def["serving_default"]
    (y,) = runtime.run({signature.inputs["x"].name: np.array([2, 4], np.float32)}, [signature.outputs["y"].name])
    assert y.tolist() == [2, 3]
    runtime.close()


def test_assets_are_found_where_the_version_lies(tmp_path):
    module = tf.Module()
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    table = tf.lookup.TextFileInitializer(
        str(tmp_path / "names.txt"), tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER, tf.string,
        tf.lookup.TextFileIndex.WHOLE_LINE,
    )  # fmt: skip
    module.table = tf.lookup.StaticHashTable(table, "?")
    module.look_up = tf.function(
        lambda i: {"name": module.table.lookup(i)}, input_signature=[tf.TensorSpec([None], tf.int64, name="i")]
    )
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures={"serving_default": module.look_up})
    moved = (tmp_path / "saved").rename(tmp_path / "moved")
    (tmp_path / "names.txt").unlink()
    signature = saved_model.read_meta_graph(moved, SERVE).signature_def["serving_default"]
    runtime = load(moved)
    (names,) = runtime.run({signature.inputs["i"].name: np.array([1, 9])}, [signature.outputs["name"].name])
    assert names.tolist() == [b"dog", b"?"]
    runtime.close()


def test_a_directory_without_a_model_is_named(tmp_path):
    with pytest.raises(tf.errors.NotFoundError) as refused:
        load(tmp_path)
    assert refused.value.message == (
        "Specified file path does not appear to contain a SavedModel bundle (should have a file called "
        f"`saved_model.pb`)\nSpecified file path: {tmp_path}"
    )


def test_a_damaged_graph_is_data_loss(version):
    (version / "saved_model.pb").write_bytes(b"garbage")
    with pytest.raises(tf.errors.DataLossError) as refused:
        load(version)
    assert refused.value.message == f"Can't parse {version}/saved_model.pb as binary proto"


def test_an_empty_graph_has_no_tags(version):
    (version / "saved_model.pb").write_bytes(b"")
    with pytest.raises(tf.errors.NotFoundError, match=r"matching supplied tags: \{ serve \}"):
        load(version)


def test_a_graph_that_cannot_be_read_is_named(version):
    (version / "saved_model.pb").unlink()
    (version / "saved_model.pb").mkdir()
    with pytest.raises(tf.errors.FailedPreconditionError) as refused:
        load(version)
    assert refused.value.message == f"{version}/saved_model.pb; Is a directory"


@pytest.mark.parametrize("raised", [RuntimeError("a defect"), tf.errors.DataLossError(None, None, "damaged")])
def test_a_runtime_whose_variables_fail_is_closed(version, monkeypatch, raised):
    closed = []

    class Failing(saved_model.Runtime):
        def run(self, *_):
            raise raised

        def close(self):
            closed.append(self)
            super().close()

    monkeypatch.setattr(saved_model, "Runtime", Failing)
    with pytest.raises(type(raised)):
        load(version)
    assert len(closed) == 1


def test_other_tags_are_not_found(version):
    with pytest.raises(tf.errors.NotFoundError, match=r"matching supplied tags: \{ serve tpu \}"):
        load(version, frozenset({"tpu", "serve"}))


def test_damaged_variables_fail_the_load(version, caplog):
    (data,) = (version / "variables").glob("*.data-*")
    data.write_bytes(b"x")
    with pytest.raises(tf.errors.OutOfRangeError, match="Read less bytes than requested"):
        load(version)
    assert "copy it again, under a new number" in caplog.text


def test_variables_that_cannot_be_read_are_no_damage(version, caplog):
    """Root may read everything, so the file is one that nobody can: a folder."""
    (data,) = (version / "variables").glob("*.data-*")
    data.unlink()
    data.mkdir()
    with pytest.raises(tf.errors.OpError) as caught:
        load(version)
    assert not isinstance(caught.value, (tf.errors.DataLossError, tf.errors.NotFoundError, tf.errors.OutOfRangeError))
    assert f"Cannot restore the variables of {version}: " in caplog.text
    assert "copy it again, under a new number" not in caplog.text


def test_a_byte_of_the_variables_that_changed_fails_the_load_and_the_version_is_named(version, caplog):
    (data,) = (version / "variables").glob("*.data-*")
    content = data.read_bytes()
    data.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(tf.errors.DataLossError, match="Checksum does not match"):
        load(version)
    assert f"Cannot restore the variables of {version}: " in caplog.text
    assert f"export/verify.py {version} names the file" in caplog.text


def test_missing_variables_fail_the_run(version):
    (version / "variables").rename(version / "elsewhere")
    signature = saved_model.read_meta_graph(version, SERVE).signature_def["serving_default"]
    runtime = load(version)
    with pytest.raises(tf.errors.FailedPreconditionError, match="Could not find variable"):
        runtime.run({signature.inputs["x"].name: np.ones(1, np.float32)}, [signature.outputs["y"].name])
    runtime.close()


@pytest.mark.parametrize(("days", "warned"), [(-1, True), (29, True), (31, False)])
def test_a_program_that_is_soon_too_old_is_warned_of(version, caplog, days, warned):
    until = datetime.date.today() + datetime.timedelta(days=days)
    described = manifest(loads_until=until.isoformat())
    (version / MANIFEST_FILE).parent.mkdir()
    (version / MANIFEST_FILE).write_text(described.to_json())
    saved_model.warn_of_expiry(version)
    assert ("export/to_savedmodel.py" in caplog.text) == warned
    assert ("Cannot read the manifest" in caplog.text) is False


def test_a_manifest_that_is_none_is_only_warned_of(version, caplog):
    (version / MANIFEST_FILE).parent.mkdir()
    (version / MANIFEST_FILE).write_text("{}")
    saved_model.warn_of_expiry(version)
    assert "Cannot read the manifest" in caplog.text
