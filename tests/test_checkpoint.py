import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from tests.towers import HEAD, PREPROCESS, ZERO_SHOT, places, random_batch, shapes, training
from vit22b import model, sharding, stored
from vit22b.checkpoint import Checkpoints, load
from vit22b.description import Description, find_step, git_revision, read_description
from vit22b.tree import leaves

LABELS = tuple(f"class {i}" for i in range(10))
DESCRIPTION = Description(HEAD, PREPROCESS, LABELS, git_revision="abc")
DATA = {"step": 3, "seed": 5}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A work directory with step 3, written on the mesh 4x2, and the state that it holds."""
    workdir = tmp_path_factory.mktemp("checkpoint")
    run = training(4, 2)
    batch = jax.device_put(random_batch(), sharding.batch_sharding(run.mesh))
    state, _ = run.step(run.start(), batch)
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(3, {"params": state.params, "opt_state": state.opt_state}, DATA, DESCRIPTION)
    return workdir, state


def _small(step=1, workdir=None, keep=None, metrics=None, best=0, **leaf):
    """Saves a few steps of a tree of one leaf."""
    params = {"head": {"bias": np.zeros(3, np.float32)} | leaf}
    with Checkpoints(workdir, keep, best, "eval/top1") as checkpoints:
        trees = {"params": params, "opt_state": {"count": np.int32(step)}}
        checkpoints.save(step, trees, {"step": step}, DESCRIPTION, metrics)


def _embed(params):
    graph, _ = model.abstract(HEAD)
    images = model.normalise(jnp.asarray(random_batch()["pixels"]), PREPROCESS)
    embed = jax.jit(lambda tree: nnx.merge(graph, tree).image(images)["embedding"])
    return np.asarray(embed.lower(params).compile()(params))


@pytest.mark.parametrize("shape", [(1, 1), (2, 4)])
def test_what_was_written_on_4x2_is_the_same_on_another_mesh(written, shape):
    workdir, state = written
    target = training(*shape).target
    with Checkpoints(workdir) as checkpoints:
        restored = checkpoints.restore(3, {"params": target.params, "opt_state": target.opt_state})
        assert checkpoints.data(3) == DATA
    params, opt_state = restored["params"], restored["opt_state"]
    assert places(params) == places(target.params)
    assert places(opt_state) == places(target.opt_state)
    jax.tree.map(np.testing.assert_array_equal, params, state.params)
    jax.tree.map(np.testing.assert_array_equal, opt_state, state.opt_state)
    np.testing.assert_allclose(_embed(params), _embed(state.params), rtol=0, atol=1e-6)


def test_the_parameters_alone_need_no_optimizer_and_no_mesh(written):
    workdir, state = written
    with Checkpoints(workdir) as checkpoints:
        params = checkpoints.restore(3, {"params": model.abstract(HEAD)[1]})["params"]
    jax.tree.map(np.testing.assert_array_equal, params, state.params)
    assert {leaf.sharding for leaf in jax.tree.leaves(params)} == {jax.sharding.SingleDeviceSharding(jax.devices()[0])}


def test_a_step_is_found_by_its_work_directory_and_by_itself(tmp_path):
    for step in (1, 10, 2):
        (tmp_path / f"checkpoints/{step}/model").mkdir(parents=True)
        (tmp_path / f"checkpoints/{step}/model/model.json").write_text(json.dumps(DESCRIPTION.to_json()))
    (tmp_path / "checkpoints/11.orbax-checkpoint-tmp").mkdir()
    assert find_step(tmp_path) == find_step(str(tmp_path)) == (tmp_path, 10)
    assert find_step(tmp_path / "checkpoints/2") == (tmp_path, 2)


def test_no_checkpoint_is_an_error_with_the_remedy(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ValueError, match=f"no checkpoint in {path}: .* name their --workdir, or one step in it"):
            find_step(path)
    with pytest.raises(ValueError, match=f"{tmp_path}/checkpoints/7 is no checkpoint of vit22b"):
        find_step(tmp_path / "checkpoints/7")


def test_a_folder_without_model_json_is_refused_by_name(written, tmp_path):
    workdir = shutil.copytree(written[0], tmp_path / "copy")
    shutil.rmtree(workdir / "checkpoints/3/model")
    for path in (workdir, workdir / "checkpoints/3"):
        for read in (find_step, read_description):
            with pytest.raises(ValueError, match=f"{workdir}/checkpoints/3 is no checkpoint .* no model/model.json"):
                read(path)


def test_the_description_makes_the_round_trip(written):
    assert read_description(written[0]) == DESCRIPTION
    full = Description(ZERO_SHOT, PREPROCESS, LABELS, '{"model": "ü"}', {"path": "a", "space_id": "b"})
    assert Description.from_json(json.loads(json.dumps(full.to_json()))) == full


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda values: values.pop("config"), "model.json lacks config"),
        (lambda values: values.pop("preprocess"), "model.json lacks preprocess"),
        (lambda values: values.update(mood="good"), "Description has no field mood"),
        (lambda values: values["config"].pop("image"), "ModelConfig lacks image"),
        (lambda values: values["preprocess"].update(resolution=0), "resolution is 0"),
        (lambda values: values.update(config=7), "configuration is 7; expected an object"),
    ],
)
def test_a_damaged_description_is_named(tmp_path, change, named):
    values = json.loads(json.dumps(DESCRIPTION.to_json()))
    change(values)
    file = tmp_path / "checkpoints/1/model/model.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=f"{file} is damaged: .*{named}"):
        read_description(tmp_path)
    file.write_text("{")
    with pytest.raises(ValueError, match=f"{file} is damaged"):
        read_description(tmp_path)


def test_leaves_that_differ_are_named_before_anything_is_read(written, monkeypatch):
    workdir, state = written
    target = shapes(state.params)
    del target["head"]["bias"]
    target["image"]["register"] = jax.ShapeDtypeStruct((4, 128), np.float32)
    target["head"]["kernel"] = jax.ShapeDtypeStruct((128, 12), np.float32)
    monkeypatch.setattr(ocp.Checkpointer, "restore", lambda *_, **__: pytest.fail("something was read"))
    with Checkpoints(workdir) as checkpoints, pytest.raises(ValueError, match="does not fit the model") as raised:
        checkpoints.restore(3, {"params": target})
    assert str(raised.value).splitlines()[1:-1] == [
        "  missing in the checkpoint: image/register (4, 128)",
        "  only in the checkpoint: head/bias (10,)",
        "  head/kernel: (128, 10) in the checkpoint, (128, 12) in the model",
    ]


def test_another_optimizers_state_is_named_too(written):
    workdir, state = written
    with (
        Checkpoints(workdir) as checkpoints,
        pytest.raises(ValueError, match=r"opt_state of .* does not fit the model"),
    ):
        checkpoints.restore(
            3, {"params": shapes(state.params), "opt_state": {"count": jax.ShapeDtypeStruct((), np.int32)}}
        )


def test_a_big_leaf_is_stored_in_chunks(tmp_path, monkeypatch):
    assert stored.CHUNK_BYTES == 64 * 2**20
    monkeypatch.setattr(stored, "CHUNK_BYTES", 2**16)
    kernel = np.arange(4 * 128 * 256, dtype=np.float32).reshape(4, 128, 256)
    _small(1, tmp_path, kernel=kernel)
    tree = ocp.PyTreeCheckpointer().metadata(tmp_path / "checkpoints/1/params").item_metadata.tree
    chunk = tree["head"]["kernel"].storage.chunk_shape
    assert 2**15 <= np.prod(chunk) * 4 <= 2**16
    with Checkpoints(tmp_path) as checkpoints:
        target = {"head": {"bias": jax.ShapeDtypeStruct((3,), np.float32), "kernel": jax.eval_shape(lambda: kernel)}}
        np.testing.assert_array_equal(checkpoints.restore(1, {"params": target})["params"]["head"]["kernel"], kernel)


def test_the_latest_steps_are_kept(tmp_path):
    for step in (1, 2, 3):
        _small(step, tmp_path, keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 3


def test_the_best_steps_are_kept_beside_the_latest_across_runs(tmp_path):
    for step, top1 in enumerate([0.5, 0.9, 0.1, 0.7, 0.2], 1):
        _small(step, tmp_path, keep=1, best=2, metrics={"eval/top1": top1})
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "4", "5"]


def test_a_step_that_was_half_written_is_never_taken_and_goes_when_a_run_is_continued(tmp_path):
    _small(1, tmp_path)
    half = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "checkpoints" / "1", half)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 1
    assert find_step(tmp_path) == (tmp_path, 1)
    assert half.exists(), "a reader took away what a run may be writing"
    _small(3, tmp_path, keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "3"]


def test_what_the_caller_has_is_not_read_again(written):
    workdir, state = written
    target = shapes(state.params)
    head = {"head": target.pop("head")}
    with Checkpoints(workdir) as checkpoints:
        params = checkpoints.restore(3, {"params": target}, beside=head)["params"]
        with pytest.raises(ValueError, match="only in the checkpoint: head/bias"):
            checkpoints.restore(3, {"params": target})
    assert set(params) == set(state.params) - {"head"}
    jax.tree.map(np.testing.assert_array_equal, params["image"], state.params["image"])


@pytest.fixture(scope="module")
def averaged(written, tmp_path_factory):
    """A work directory with an average of the head alone, which is the head and 1."""
    workdir, state = tmp_path_factory.mktemp("averaged"), written[1]
    average = {"head": jax.tree.map(lambda leaf: leaf + 1, state.params["head"])}
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(4, {"params": state.params, "ema": average}, DATA, DESCRIPTION)
    return workdir


@pytest.mark.parametrize(
    ("weights", "found", "added"), [("auto", "ema", 1), ("ema", "ema", 1), ("params", "params", 0)]
)
def test_the_average_is_taken_where_there_is_one_unless_told_otherwise(averaged, written, weights, found, added):
    params = written[1].params
    trained = load(averaged, weights=weights)
    assert trained.weights == found
    np.testing.assert_array_equal(trained.params["head"]["bias"], np.asarray(params["head"]["bias"]) + added)
    jax.tree.map(np.testing.assert_array_equal, trained.params["image"], params["image"])


def test_without_an_average_the_parameters_are_taken(written):
    assert load(written[0]).weights == "params"
    with pytest.raises(ValueError, match=r"checkpoints/3 has no ema: the run that wrote it kept none"):
        load(written[0], weights="ema")


def test_a_work_directory_that_is_not_there_has_no_latest_step(tmp_path):
    with Checkpoints(tmp_path / "new") as checkpoints:
        assert checkpoints.latest() is None
    assert not (tmp_path / "new").exists()


def test_the_revision_is_the_checkouts():
    revision = git_revision()
    assert revision is None or re.fullmatch("[0-9a-f]{40}(-dirty)?", revision)


def test_the_tree_on_disk_never_depends_on_the_mesh(written):
    stored = ocp.PyTreeCheckpointer().metadata(written[0] / "checkpoints/3/params").item_metadata.tree
    found = {name: leaf.shape for name, leaf in leaves(stored).items()}
    assert found == {name: leaf.shape for name, leaf in leaves(model.abstract(HEAD)[1]).items()}
