import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.towers import HEAD, PREPROCESS, random_params
from vit22b import stored
from vit22b.checkpoint import Checkpoints, load
from vit22b.description import Description
from vit22b.stored_layers import open_layers
from vit22b.tree import is_stacked, leaves

PARAMS = random_params(HEAD)
AVERAGE = {"head": jax.tree.map(lambda leaf: leaf + 1, PARAMS["head"])}
DESCRIPTION = Description(HEAD, PREPROCESS, tuple("0123456789"))


def write(workdir, **items):
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(1, {"params": PARAMS, **items}, {"step": 1}, DESCRIPTION)
    return workdir


@pytest.fixture(scope="module", params=["small", "one layer a chunk", "several chunks a layer"])
def workdir(request, tmp_path_factory):
    """A checkpoint with an average of its head, in chunks of three kinds."""
    size = {"small": stored.CHUNK_BYTES, "one layer a chunk": 300_000, "several chunks a layer": 50_000}[request.param]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored, "CHUNK_BYTES", size)
        return write(tmp_path_factory.mktemp("layers"), ema=AVERAGE)


def whole(slabs):
    parts = list(slabs)
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


@pytest.mark.parametrize("weights", ["auto", "ema", "params"])
def test_what_is_read_in_slabs_is_what_is_loaded(workdir, weights):
    trained, layers = load(workdir, weights=weights), open_layers(workdir, weights)
    assert (layers.description, layers.step, layers.weights) == (DESCRIPTION, trained.step, trained.weights)
    assert leaves(layers.shapes).keys() == leaves(trained.params).keys()
    for name, leaf in leaves(trained.params).items():
        np.testing.assert_array_equal(whole(layers.read(name)), leaf, err_msg=name)


def test_a_large_stacked_leaf_is_read_layer_by_layer(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "CHUNK_BYTES", 200_000)  # a layer of MLP-in has 262,144
    layers = open_layers(write(tmp_path))
    for name, shape in leaves(layers.shapes).items():
        sizes = {part.shape for part in layers.read(name)}
        large = is_stacked(name) and np.prod(shape.shape) * 4 > stored.CHUNK_BYTES
        assert sizes == {(1, *shape.shape[1:]) if large else shape.shape}, name


def test_an_older_checkpoint_with_layers_that_share_chunks_is_read_too(tmp_path, monkeypatch):
    def as_before(tree):
        args = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=100_000), tree)
        return ocp.args.PyTreeSave(tree, save_args=args)

    monkeypatch.setattr(stored, "to_save", as_before)
    layers = open_layers(write(tmp_path))
    parts = list(layers.read("image/blocks/mlp_in/kernel"))
    assert parts[0].shape[0] > 1
    np.testing.assert_array_equal(np.concatenate(parts), PARAMS["image"]["blocks"]["mlp_in"]["kernel"])


def test_a_checkpoint_that_does_not_fit_its_description_is_an_error_by_name(tmp_path):
    params = {**PARAMS, "head": {"kernel": PARAMS["head"]["kernel"]}}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"params": params}, {"step": 1}, DESCRIPTION)
    with pytest.raises(ValueError, match="missing in the checkpoint: head/bias"):
        open_layers(tmp_path)
    with pytest.raises(ValueError, match="has no ema"):
        open_layers(tmp_path, "ema")
