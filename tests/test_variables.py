from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.conversion import peak
from export import variables
from export.batching import Batching
from export.serving_module import ServingModule
from tests.towers import PREPROCESS, ZERO_SHOT, random_params
from vit22b import stored
from vit22b.checkpoint import Checkpoints, load
from vit22b.config import ModelConfig, vit
from vit22b.description import Description
from vit22b.preprocess import Preprocess
from vit22b.quantised import Quantiser, abstract
from vit22b.stored_layers import open_layers
from vit22b.tree import leaves, map_leaves

DESCRIPTION = Description(ZERO_SHOT, PREPROCESS, tokenizer="{}")
TYPES = ("float32", "bfloat16", "int8")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A checkpoint whose larger leaves are in chunks of a layer."""
    workdir = tmp_path_factory.mktemp("variables")
    with pytest.MonkeyPatch.context() as patch, Checkpoints(workdir) as checkpoints:
        patch.setattr(stored, "CHUNK_BYTES", 200_000)
        checkpoints.save(1, {"params": random_params(ZERO_SHOT)}, {"step": 1}, DESCRIPTION)
    return workdir


@pytest.mark.parametrize("weights", TYPES)
def test_streamed_variables_are_the_loaded_parameters_in_their_type(workdir, weights):
    made = variables.stream(open_layers(workdir), weights)
    quantise = Quantiser(ZERO_SHOT, weights)
    named = leaves(load(workdir).params)
    expected = {k: v for name, leaf in named.items() for k, v in quantise(name, np.asarray(leaf)).items()}
    found = leaves(made.tree)
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        assert isinstance(found[name], tf.Variable)
        assert found[name].name == f"{name}:0"
        np.testing.assert_array_equal(found[name].numpy(), leaf, err_msg=name)


def test_the_space_is_the_checkpoints_and_another_one_for_every_type(workdir):
    made = {weights: variables.stream(open_layers(workdir), weights) for weights in TYPES}
    assert {each.float32_space_id for each in made.values()} == {load(workdir).space_id} == {made["float32"].space_id}
    assert len({each.space_id for each in made.values()}) == len(TYPES)
    for weights in TYPES:
        in_memory = variables.from_params(load(workdir).params, DESCRIPTION, weights)
        assert in_memory.space_id == made[weights].space_id


def test_a_layer_is_written_in_its_place_and_the_variable_is_not_copied():
    filling = variables._Filling("kernel", tf.TensorSpec([64, 2**20], tf.float32))  # 256 MiB
    Path("/proc/self/clear_refs").write_text("5")  # the most memory so far begins anew
    before = peak()
    for layer in range(64):
        filling.add(np.full((1, 2**20), layer, np.float32))
    assert peak() - before < 64 * 2**20
    np.testing.assert_array_equal(filling.variable.numpy()[:, -1], range(64))


@pytest.mark.parametrize(("size", "weights"), [("G", "float32"), ("22b", "int8")])
def test_the_graph_is_small_whatever_the_model(size, weights):
    """It is traced beside variables that are never made: in a graph of TensorFlow 1 their memory comes at the start."""
    config = ModelConfig(vit(size), classes=29593)
    with tf.Graph().as_default():
        _, shapes = abstract(config, weights)
        tree = map_leaves(
            lambda _, leaf: tf.Variable(lambda: tf.zeros(leaf.shape, leaf.dtype), trainable=False), shapes
        )
        model = variables.Variables(tree, "", "", weights)
        module = ServingModule(Description(config, Preprocess(config.image.resolution)), model, Batching())
    graphs = [tower.get_concrete_function().graph.as_graph_def() for tower in module.towers.values()]
    assert len(graphs) == 3
    assert sum(graph.ByteSize() for graph in graphs) < 8 * 2**20
